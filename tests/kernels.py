#!/usr/bin/env python3
"""Quality of the CUDA kernels as ptxas makes them: registers, spills, shared memory, occupancy, and the instruction mix of the main loop.

    tests/kernels.py              compiles cuda/*.cu, compares with the committed table, fails on a difference or a missed goal
    tests/kernels.py --write      writes the table, cuda/KERNELS.md
    tests/kernels.py --show FILE  prints the rows of these files

Needs no GPU, only nvcc, ptxas and cuobjdump: in target/toolkit/bin (tests/toolkit.sh puts them there), beside NVCC, in CUDA_HOME/bin or in PATH.
"""
import collections
import concurrent.futures
import difflib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "cuda" / "KERNELS.md"
FLAGS = ["-std=c++17", "-O3", f"-I{ROOT}/cuda", f"-I{ROOT}/ffi"]
HEAD = """# Kernels as ptxas makes them

Made by `tests/kernels.py --write`; the tests compile the kernels anew and fail where this table or a goal is missed. The main loop is the innermost loop with the
most tensor-core products, or, without them, multiply-adds; counts are instructions of one warp in one iteration. Kernels without such a loop have none.

Cycles of a quarter of a multiprocessor per warp instruction: HMMA.16816 8, floating point, conversions and integer 2, MUFU 8, LDSM.x4 and LDGSTS.128 16, other accesses to
shared memory 8 (16 bytes a lane: 16), issue 1. `U_roof` is the tensor cores' share of the busiest pipe; `MTU` = tensor / (tensor + 0.4 (fp + alu + xu)).
`blocks` is how many blocks fit a multiprocessor of an A100 (sm_80) or H100 (sm_90a).

"""
# Of a multiprocessor: threads, registers, bytes of shared memory, blocks.
MACHINES = {"sm_80": (2048, 65536, 167936, 32), "sm_90a": (2048, 65536, 233472, 32)}
# What the fast kernels must reach: pattern of the name, smallest MTU, smallest U_roof. FlashAttention-2 has 0.61 and 0.72 (head sizes 64 and 128) by the same count.
GOALS = [
    (r"gemm_forward_mma_.*_bf16", 0.93, 1.00),
    (r"gemm_forward_wgmma_128x(256|128)_.*", 0.93, 1.00),
    # FlashAttention-3 has 0.59 to 0.68, depending on what the 303 instructions are of which no class is published.
    (r"attention_forward_wgmma_d128_.*", 0.64, 1.00),
    (r"attention_forward_mma_d64_.*", 0.61, 1.00),
    (r"attention_forward_mma_d128_.*", 0.72, 1.00),
    (r"attention_backward_.*_mma_d64_.*", 0.55, 0.95),
    (r"attention_backward_.*_mma_d128_.*", 0.65, 0.95),
    (r"conv2d_.*_mma_.*", 0.90, 1.00),
]


def dynamic_shared(name):
    """Bytes of dynamic shared memory that src/cuda gives a launch, where it does not depend on the problem."""
    tensor = re.search(r"^gemm_forward_wgmma_(\d+)x(\d+)_", name)
    if tensor:
        rows, cols = map(int, tensor.groups())
        stages, depth = (4, 1) if cols == 256 else (3, 2)
        return 1024 + stages * depth * (rows + cols) * 128 + rows // 16 * 2560 + stages * 16
    warpgroups = re.search(r"^attention_forward_wgmma_(small_)?d(\d+)_", name)
    if warpgroups:
        queries, d = 64 if warpgroups.group(1) else 128, int(warpgroups.group(2))
        return 1024 + (d + 63) // 64 * 128 * (queries + 4 * (64 if d > 128 else 128)) + queries // 16 * 2304 + 72
    if re.search(r"^gemm_.*_(small|sliced)_", name):
        return 3 * 2 * 64 * ((64 if "_small_" in name else 32) * 2 + 16)
    if re.search(r"^(gemm|conv2d)_.*_mma_", name):
        return 4 * 2 * 32 * (128 * 2 + 16)
    short = re.search(r"cross_attention_forward_keys(\d+)_d(\d+)_", name)
    if short:
        return (128 + 2 * int(short.group(1))) * ((int(short.group(2)) + 15) // 16 * 32 + 16)
    tile = re.search(r"attention_(forward|backward_\w+)_tile_d(\d+)_", name)
    if tile:
        d, forward = int(tile.group(2)), tile.group(1) == "forward"
        columns = 64 if d <= (80 if forward else 40) else 32
        rows = (64 + 2 * columns) * (d + 4) if forward else 2 * (64 + columns) * (d + 4) + 2 * columns
        return 4 * (rows + 64 * (columns + 8))
    head = re.search(r"attention_(forward|backward_(\w+))_(?:mma|small)_d(\d+)_", name)
    if not head:
        return 0
    d = int(head.group(3))
    row = (d + 15) // 16 * 32 + 16
    if head.group(1) == "forward":
        small = "_small_" in name
        return ((64 if small else 128) + 2 * (32 if d > 128 else 64)) * row + (128 * 24 if d >= 128 and not small else 0)
    scores, sums = head.group(2) != "dv", d * (2 if head.group(2) == "dkv" else 1)
    columns = 16 if sums > 128 else 64 if sums < 64 or not scores and sums <= 96 else 32
    return 128 * row * (1 + scores) + 2 * columns * (2 * row + 8) + 128 * 16 + 16


FP = ("FFMA", "FADD", "FMUL", "FMNMX", "FSETP", "FSEL", "FCHK", "FSET", "HADD2", "HMUL2", "HFMA2", "IMAD")
CONVERSIONS = ("F2FP", "F2F", "I2F", "F2I", "I2FP", "FRND")


def tool(name):
    beside = os.environ.get("NVCC") and pathlib.Path(os.environ["NVCC"]).with_name(name)
    home = os.environ.get("CUDA_HOME") and pathlib.Path(os.environ["CUDA_HOME"]) / "bin" / name
    for path in (ROOT / "target/toolkit/bin" / name, beside, home, shutil.which(name)):
        if path and pathlib.Path(path).exists():
            return str(path)
    sys.exit(f"tests/kernels.py: {name} is missing; run tests/toolkit.sh, or set NVCC or CUDA_HOME")


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
    for at, _, text in instructions:
        target = re.search(r"\bBRA(?:\.\S+)?\s.*?(0x[0-9a-f]+)", text)
        if target and int(target.group(1), 16) < at:
            start = int(target.group(1), 16)
            body = [opcode for at_of, opcode, _ in instructions if start <= at_of <= at]
            products = sum(o.startswith(("HMMA", "HGMMA")) for o in body) * 1000 or sum(o.startswith("FFMA") for o in body)
            loops.append((products, start, at, body))
    # A loop around another that makes most of its products is not the one.
    inner = [loop for loop in loops if loop[0] and not any(
        other is not loop and loop[1] <= other[1] and other[2] <= loop[2] and 3 * other[0] >= loop[0] for other in loops)]
    return max(inner, key=lambda loop: (loop[0], -len(loop[3])))[3] if inner else []


def kernels(source, arch, folder):
    """The kernels of one file: what ptxas says of them, and their main loops."""
    ptx_file, cubin = folder / f"{source.stem}.{arch}.ptx", folder / f"{source.stem}.{arch}.cubin"
    hopper = ["-DDEEM_SM90A"] if arch == "sm_90a" else []
    run(tool("nvcc"), "-ptx", f"-arch={arch}", *hopper, *FLAGS, str(source), "-o", str(ptx_file))
    log = run(tool("ptxas"), f"-arch={arch}", "-O3", "-v", str(ptx_file), "-o", str(cubin))
    ptx = ptx_file.read_text()
    threads = dict(re.findall(r"\.entry (\w+)\(.*?\.maxntid (\d+)", ptx, re.S))
    code = {}
    for part in run(tool("cuobjdump"), "-sass", str(cubin)).split("Function : ")[1:]:
        code[part.split()[0]] = [(int(at, 16), re.sub(r"^@!?U?P\w+\s+", "", text).split()[0], text)
                                 for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*?)\s*;", part)
                                 if not text.startswith("@!PT ")] # ptxas's fillers, which never execute
    found = []
    for name, properties in re.findall(r"Compiling entry function '(\w+)'.*?\n(.*?)(?=Compile time)", log, re.S):
        static = re.search(r"(\d+) bytes smem", properties)
        found.append({"name": name, "arch": arch, "registers": int(re.search(r"Used (\d+) registers", properties).group(1)),
                      "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", properties))), "threads": int(threads.get(name, 1024)),
                      "shared": (int(static.group(1)) if static else 0) + dynamic_shared(name), "loop": main_loop(code[name])})
    return found


def occupancy(kernel):
    threads, registers, shared, blocks = MACHINES[kernel["arch"]]
    of_block = (kernel["registers"] + 7) // 8 * 8 * kernel["threads"]
    return min(threads // kernel["threads"], registers // of_block, shared // (kernel["shared"] + 1024), blocks)


def row(kernel, faults):
    loop = kernel["loop"]
    cycles, count = collections.Counter(), collections.Counter()
    for opcode in loop:
        pipe, cycles_of = cost(opcode)
        cycles[pipe] += cycles_of
        count[opcode.split(".")[0]] += 1
    tensor = cycles["tensor"]
    busiest = max(tensor, cycles["fp"], cycles["alu"], cycles["xu"], cycles["shared"], len(loop), 1)
    roof, mtu = tensor / busiest, tensor / (tensor + 0.4 * (cycles["fp"] + cycles["alu"] + cycles["xu"]) or 1)
    what, spills = f"{kernel['name']} ({kernel['arch']})", count["LDL"] + count["STL"]
    if spills and kernel["spilled"]: # else a local array of a slow path, such as of sinf
        faults.append(f"{what}: {spills} accesses to spilled registers in the main loop")
    for pattern, least_mtu, least_roof in GOALS:
        if re.fullmatch(pattern, kernel["name"]) and (round(mtu, 3) < least_mtu or round(roof, 2) < least_roof):
            faults.append(f"{what}: MTU {mtu:.3f} and U_roof {roof:.2f}, expected at least {least_mtu} and {least_roof}")
    f32 = count["FFMA"] + count["FADD"] + count["FMUL"] + count["FMNMX"]
    mix = [len(loop), count["HMMA"] + count["HGMMA"], f32, cycles["alu"] // 2, count["MUFU"], count["LDSM"], count["LDGSTS"], spills]
    figures = [f"{roof:.2f}", f"{mtu:.2f}"] if tensor else ["", ""]
    head = [kernel["name"], kernel["arch"], kernel["threads"], kernel["registers"], kernel["spilled"], kernel["shared"], occupancy(kernel)]
    return head + (mix + figures if loop else [""] * 10)


def table(sources):
    """The table's text, and the goals that are missed."""
    faults = []
    jobs = [(source, arch) for source in sources for arch in MACHINES if arch == "sm_80" or "DEEM_SM90A" in source.read_text()]
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda job: kernels(*job, pathlib.Path(folder)), jobs)
        rows = [row(kernel, faults) for of_file in found for kernel in of_file]
    head = ["kernel", "for", "threads", "registers", "spilled bytes", "shared bytes", "blocks", "loop", "HMMA", "f32", "integer", "MUFU", "LDSM", "LDGSTS", "spills in loop",
            "U_roof", "MTU"]
    lines = ["| " + " | ".join(map(str, r)) + " |" for r in [head, ["---"] * len(head), *sorted(rows, key=lambda r: r[:2])]]
    return "\n".join(lines) + "\n", faults


def main():
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    files = [pathlib.Path(a).resolve() for a in sys.argv[1:] if not a.startswith("--")]
    text, faults = table(files or sorted((ROOT / "cuda").glob("*.cu")))
    if "--show" in options:
        print(text, end="")
    elif "--write" in options:
        TABLE.write_text(HEAD + text)
    else:
        committed = TABLE.read_text().splitlines() if TABLE.exists() else []
        difference = list(difflib.unified_diff(committed, (HEAD + text).splitlines(), "cuda/KERNELS.md", "compiled", lineterm="", n=0))
        if difference:
            print("\n".join(difference))
            faults.append("cuda/KERNELS.md differs from what the kernels compile to; if that is an improvement, run tests/kernels.py --write and commit")
    if faults:
        sys.exit("\n".join(f"tests/kernels.py: {fault}" for fault in faults))
    print(f"{text.count(chr(10)) - 2} kernels as committed, goals met" if not options else "", end="\n" if not options else "")


main()
