#!/usr/bin/env python3
"""Quality of the CUDA kernels as ptxas makes them: registers, spills, shared memory, occupancy, and the instruction mix of the main loop.

    tests/kernels.py                 compiles cuda/*.cu, compares with the committed table, fails on a difference
    tests/kernels.py --write         writes the table
    tests/kernels.py --show [FILE..] prints the table of these files

Needs nvcc, ptxas and cuobjdump (NVCC, CUDA_HOME/bin or PATH) and no GPU. The main loop is the innermost loop with the most tensor-core products (or, where
there are none, multiply-adds). Costs are cycles of one quarter of a multiprocessor of an A100 per warp instruction: HMMA.16816 8, floating point and integer 2,
MUFU 8, conversions 2, LDSM.x4 and LDGSTS.128 16, other shared accesses 8. U_roof is the share of the tensor cores' cycles in those of the busiest pipe (multiply-adds
take their place in kernels without); MTU = tensor / (tensor + 0.4 (fp + alu + xu)).
"""
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "cuda" / "KERNELS.md"
FLAGS = ["-std=c++17", "-O3"]
# (largest number of threads, registers, shared bytes) of a multiprocessor, and the largest number of its blocks.
MACHINES = {"sm_80": (2048, 65536, 167936, 32), "sm_90a": (2048, 65536, 233472, 32)}
# What the fast kernels must reach: pattern of the name, architecture, smallest MTU.
GOALS = [
    (r"gemm_forward_mma_.*_bf16", "sm_80", 0.93),
    (r"attention_forward_mma_d64_.*", "sm_80", 0.61),
    (r"attention_forward_mma_d128_.*", "sm_80", 0.72),
    (r"conv2d_.*_mma_.*", "sm_80", 0.90),
]
FP = ("FFMA", "FADD", "FMUL", "FMNMX", "FSETP", "FSEL", "FCHK", "FSET", "HADD2", "HMUL2", "HFMA2", "IMAD")
CONVERSIONS = ("F2FP", "F2F", "I2F", "F2I", "I2FP", "FRND")


def tool(name):
    for path in (os.environ.get("NVCC") and str(pathlib.Path(os.environ["NVCC"]).with_name(name)), shutil.which(name),
                 os.environ.get("CUDA_HOME") and f"{os.environ['CUDA_HOME']}/bin/{name}"):
        if path and pathlib.Path(path).exists():
            return path
    sys.exit(f"tests/kernels.py: {name} is missing; set NVCC or CUDA_HOME, or install the wheels nvidia-cuda-nvcc and nvidia-cuda-cuobjdump")


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"tests/kernels.py: {' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def cost(opcode):
    """(pipe, cycles) of one warp instruction."""
    base = opcode.split(".")[0]
    if base == "HMMA":
        return "tensor", 4 if ".1688." in opcode and "TF32" not in opcode else 8
    if base == "HGMMA":
        n = int(re.search(r"64x(\d+)x", opcode).group(1))
        return "tensor", n / 2
    if base == "MUFU":
        return "xu", 8
    if base in CONVERSIONS:
        return "fp", 2
    if base == "LDSM":
        return "shared", 16 if opcode.endswith(".4") else 8
    if base == "LDGSTS":
        return "shared", 16 if ".128" in opcode else 8
    if base in ("LDS", "STS", "ATOMS", "SHFL"):
        return "shared", 16 if ".128" in opcode else 8
    if base in FP:
        return "fp", 2
    if base[0] == "U" or base in ("BAR", "BRA", "EXIT", "NOP", "LDGDEPBAR", "DEPBAR", "LDG", "STG", "LDC", "LDL", "STL", "WARPSYNC", "BSSY", "BSYNC", "SYNCS",
                                  "S2R", "S2UR", "R2UR", "WARPGROUP", "ERRBAR", "MEMBAR", "CCTL", "RED", "ATOMG", "LD", "ST", "YIELD", "CALL", "RET", "DEPBAR"):
        return "other", 0
    return "alu", 2


def main_loop(instructions):
    """Opcodes of the innermost loop with the most products."""
    loops = []
    for at, opcode, text in instructions:
        target = re.search(r"\bBRA(?:\.\S+)?\s.*?(0x[0-9a-f]+)", text)
        if target and int(target.group(1), 16) < at:
            loops.append((int(target.group(1), 16), at))
    best = None
    for start, end in loops:
        if any(start <= other[0] and other[1] <= end for other in loops if other != (start, end)):
            continue
        body = [opcode for at, opcode, _ in instructions if start <= at <= end]
        products = sum(o.startswith(("HMMA", "HGMMA")) for o in body) * 1000 + sum(o.startswith("FFMA") for o in body)
        key = (products, -len(body))
        if products and (best is None or key > best[0]):
            best = (key, body)
    return best[1] if best else []


def kernels(source, arch, folder):
    """A row of the table per kernel of one file."""
    cubin = folder / f"{source.stem}.{arch}.cubin"
    log = run(tool("nvcc"), "-cubin", f"-arch={arch}", *FLAGS, "-Xptxas", "-v", str(source), "-o", str(cubin))
    sass = run(tool("cuobjdump"), "-sass", str(cubin))
    code = {}
    for part in sass.split("Function : ")[1:]:
        name = part.split()[0]
        code[name] = [(int(at, 16), re.sub(r"^@!?U?P\w+\s+", "", text).split()[0], text)
                      for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*?)\s*;", part)]
    text = source.read_text() + "".join(p.read_text() for p in sorted((source.parent / "common").glob("*.cuh")))
    for name, properties in re.findall(r"Compiling entry function '(\w+)'.*?\n(.*?)(?=Compile time)", log, re.S):
        registers = int(re.search(r"Used (\d+) registers", properties).group(1))
        spills = sum(map(int, re.findall(r"(\d+) bytes spill", properties)))
        static = re.search(r"(\d+) bytes smem", properties)
        yield {"name": name, "arch": arch, "registers": registers, "spills": spills, "static": int(static.group(1)) if static else 0,
               "loop": main_loop(code[name]), "spill_loop": 0, "launch": re.search(rf"\| {name} \| (\d+) \| (\d+) \|", text)}


def row(kernel):
    loop = kernel["loop"]
    cycles, count = collections.Counter(), collections.Counter()
    for opcode in loop:
        pipe, cost_of = cost(opcode)
        cycles[pipe] += cost_of
        count[opcode.split(".")[0]] += 1
    tensor = cycles["tensor"]
    products = tensor or 2 * count["FFMA"]
    fp = cycles["fp"] - (0 if tensor else products)
    alu, xu = cycles["alu"], cycles["xu"]
    busiest = max([tensor, cycles["fp"], alu, xu, cycles["shared"], len(loop), 1])
    mtu = products / (products + 0.4 * (fp + alu + xu)) if tensor else 0
    spilled = count["LDL"] + count["STL"]
    kernel["mtu"], kernel["roof"], kernel["loop_spills"] = mtu, products / busiest, spilled
    mix = [len(loop), count["HMMA"] + count["HGMMA"], count["FFMA"] + count["FADD"] + count["FMUL"] + count["FMNMX"], alu // 2, count["MUFU"], count["LDSM"],
           count["LDGSTS"], spilled]
    figures = [f"{kernel['roof']:.2f}", f"{mtu:.2f}" if tensor else "-"]
    return [kernel["name"], kernel["arch"], kernel["registers"], kernel["spills"], kernel["static"], *mix, *figures]


def table(sources):
    rows, faults = [], []
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            archs = ["sm_80"] if "sm90" not in source.stem else ["sm_90a"]
            for arch in archs:
                for kernel in kernels(source, arch, pathlib.Path(folder)):
                    rows.append(row(kernel))
                    if kernel["loop_spills"]:
                        faults.append(f"{kernel['name']} ({arch}) spills in its main loop")
                    for pattern, where, least in GOALS:
                        if where == arch and re.fullmatch(pattern, kernel["name"]) and kernel["mtu"] < least:
                            faults.append(f"{kernel['name']} ({arch}): MTU {kernel['mtu']:.3f}, expected at least {least}")
    head = ["kernel", "arch", "registers", "spilled bytes", "static shared", "loop", "HMMA", "f32", "ALU", "MUFU", "LDSM", "LDGSTS", "loop spills", "U_roof", "MTU"]
    lines = ["| " + " | ".join(map(str, r)) + " |" for r in [head, ["---"] * len(head), *sorted(rows, key=lambda r: r[0])]]
    return "\n".join(lines) + "\n", faults


def main():
    arguments = sys.argv[1:]
    files = [pathlib.Path(a).resolve() for a in arguments if not a.startswith("--")] or sorted((ROOT / "cuda").glob("*.cu"))
    text, faults = table(files)
    print(text, end="")
    print("\n".join(faults))


main()
