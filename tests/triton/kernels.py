"""GEMM and attention in Triton, as its tutorials write them, for the comparison with ours: kernels.py LIBCUDA [FOLDER]

Compiles each kernel in each configuration without a GPU, runs all of them on the virtual GPU (LIBCUDA, of `cargo build --release -p vgpu`), and writes into FOLDER
(default: this one) the PTX of those that are the fastest on some shape of cases.txt, and best.txt: a line per machine and case with file, kernel, grid, threads and
bytes of shared memory. Needs triton==3.9.0 (pip).
"""

import ctypes
import json
import math
import os
import pathlib
import re
import sys
import tempfile

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HERE = pathlib.Path(__file__).resolve().parent


@triton.jit
def gemm(a, b, c, M, N, K, FORM: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """c[M, N] = a b; form NT: a[M, K], b[N, K]; NN: a[M, K], b[K, N]; TN: a[K, M], b[K, N]. Blocks in groups of 8 rows, as in the tutorial."""
    rows_of_blocks, columns_of_blocks = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    in_group = 8 * columns_of_blocks
    first = tl.program_id(0) // in_group * 8
    height = min(rows_of_blocks - first, 8)
    row = first + tl.program_id(0) % in_group % height
    column = tl.program_id(0) % in_group // height
    inner = tl.arange(0, BLOCK_K)
    rows = row * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows behind the end read others again; their sums are not stored.
    a_rows = tl.max_contiguous(tl.multiple_of(rows % M, BLOCK_M), BLOCK_M)
    b_columns = tl.max_contiguous(tl.multiple_of(columns % N, BLOCK_N), BLOCK_N)
    if FORM == "tn":
        left = a + inner[None, :] * M + a_rows[:, None]
        left_step = BLOCK_K * M
    else:
        left = a + a_rows[:, None] * K + inner[None, :]
        left_step = BLOCK_K
    if FORM == "nt":
        right = b + b_columns[None, :] * K + inner[:, None]
        right_step = BLOCK_K
    else:
        right = b + inner[:, None] * N + b_columns[None, :]
        right_step = BLOCK_K * N
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BLOCK_K)):
        if EVEN:
            x = tl.load(left)
            y = tl.load(right)
        else:
            x = tl.load(left, mask=inner[None, :] < K - k * BLOCK_K, other=0.0)
            y = tl.load(right, mask=inner[:, None] < K - k * BLOCK_K, other=0.0)
        total = tl.dot(x, y, total)
        left += left_step
        right += right_step
    tl.store(c + rows[:, None] * N + columns[None, :], total.to(c.dtype.element_ty), mask=(rows[:, None] < M) & (columns[None, :] < N))


@triton.jit
def attention_keys(result, total, largest, query, k, v, start, end, rows, S, stride, scale, channels, D: tl.constexpr, PAD: tl.constexpr, MASKED: tl.constexpr,
                   CAUSAL: tl.constexpr, BLOCK_S: tl.constexpr):
    keys = tl.arange(0, BLOCK_S)
    for at in range(start, end, BLOCK_S):
        at = tl.multiple_of(at, BLOCK_S)
        k_at = k + (at + keys)[None, :] * stride + channels[:, None]
        v_at = v + (at + keys)[:, None] * stride + channels[None, :]
        if MASKED or PAD != D:
            key = tl.load(k_at, mask=((at + keys)[None, :] < S) & (channels[:, None] < D), other=0.0)
        else:
            key = tl.load(k_at)
        scores = tl.dot(query, key)
        if MASKED:
            open = (at + keys)[None, :] < S
            if CAUSAL:
                open = open & ((at + keys)[None, :] <= rows[:, None])
            scores = tl.where(open, scores, float("-inf"))
        higher = tl.maximum(largest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        shrink = tl.exp2(largest - higher)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None]
        if MASKED or PAD != D:
            value = tl.load(v_at, mask=((at + keys)[:, None] < S) & (channels[None, :] < D), other=0.0)
        else:
            value = tl.load(v_at)
        result = tl.dot(weights.to(value.dtype), value, result)
        largest = higher
    return result, total, largest


@triton.jit
def attention(q, k, v, out, log_sums, T, S, N, scale, D: tl.constexpr, PAD: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """Flash attention forward, q [B, T, N, D], k and v [B, S, N, D]: a block of queries per program_id(0), a head per 1, an image per 2."""
    head, image = tl.program_id(1), tl.program_id(2)
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    rows = block * BLOCK_T + tl.arange(0, BLOCK_T)
    channels = tl.arange(0, PAD)
    stride = N * D
    query = tl.load(q + image * T * stride + head * D + rows[:, None] * stride + channels[None, :], mask=(rows[:, None] < T) & (channels[None, :] < D), other=0.0)
    k += image * S * stride + head * D
    v += image * S * stride + head * D
    scale *= 1.4426950408889634
    largest = tl.full((BLOCK_T,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_T,), dtype=tl.float32)
    result = tl.zeros((BLOCK_T, PAD), dtype=tl.float32)
    if CAUSAL:
        open = block * BLOCK_T // BLOCK_S * BLOCK_S
        end = min(block * BLOCK_T + BLOCK_T, S)
    else:
        open = S // BLOCK_S * BLOCK_S
        end = S
    result, total, largest = attention_keys(result, total, largest, query, k, v, 0, open, rows, S, stride, scale, channels, D, PAD, False, CAUSAL, BLOCK_S)
    result, total, largest = attention_keys(result, total, largest, query, k, v, open, end, rows, S, stride, scale, channels, D, PAD, True, CAUSAL, BLOCK_S)
    out += image * T * stride + head * D
    tl.store(out + rows[:, None] * stride + channels[None, :], (result / total[:, None]).to(out.dtype.element_ty), mask=(rows[:, None] < T) & (channels[None, :] < D))
    tl.store(log_sums + (image * N + head) * T + rows, (largest + tl.log2(total)) * 0.6931471805599453, mask=rows < T)


# Configurations, from those of Triton's tutorials and of FlashAttention's Triton version: tile, warps, stages.
PRODUCTS = {
    80: [(128, 256, 32, 8, 3), (128, 128, 32, 4, 4), (128, 128, 32, 8, 4), (128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 64, 32, 4, 4), (64, 128, 32, 4, 4),
         (64, 128, 64, 4, 4), (64, 64, 32, 4, 4), (64, 64, 64, 4, 4), (64, 32, 64, 4, 4), (32, 64, 64, 4, 4), (32, 32, 64, 4, 4), (32, 32, 128, 4, 3), (64, 64, 128, 8, 3), (16, 64, 128, 4, 3), (16, 128, 64, 4, 3)],
    90: [(128, 256, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 4), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4), (64, 64, 64, 4, 4), (64, 64, 128, 4, 3),
         (64, 32, 64, 4, 4), (32, 64, 64, 4, 4), (32, 32, 128, 4, 3), (16, 64, 128, 4, 3)],
}
HEADS = {80: [(128, 64, 4, 2), (128, 64, 8, 2), (128, 64, 8, 3), (128, 32, 4, 3), (64, 64, 4, 2), (64, 32, 4, 3), (64, 128, 4, 2), (128, 128, 8, 2), (32, 64, 4, 2), (32, 64, 2, 2), (64, 16, 4, 3)],
         90: [(128, 64, 4, 2), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3), (64, 64, 4, 3), (64, 128, 4, 2), (64, 32, 4, 3), (32, 64, 4, 2)]}
HEADS[80] += [(64, 16, 4, 2)]
MACHINES = {"a100": 80, "h100": 90}


def compiled(kernel, types, constants, warps, stages, architecture):
    """PTX without debug sections, bytes of shared memory, threads; None if it does not compile."""
    names = [argument for argument in kernel.arg_names if argument not in constants]
    signature = dict(zip(names, types.split())) | {constant: "constexpr" for constant in constants}
    # What Triton finds out by itself when it launches: pointers and sizes are multiples of 16.
    hints = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if a not in constants and (signature[a][0] == "*" or a in ("M", "N", "K", "T") and kernel is gemm)}
    source = ASTSource(kernel, signature, constexprs={(kernel.arg_names.index(c),): v for c, v in constants.items()}, attrs=hints)
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps, "num_stages": stages})
    text = re.sub(r"(?m)^\s*\.(loc|file)\b.*\n|^\s*//.*\n", "", made.asm["ptx"])
    text = re.sub(r"(?s)\n\s*\.section\s+\.debug.*?\n\s*}\s*(?=\n|$)", "\n", text)
    return re.sub(r"\s*// .*", "", text), made.metadata.shared, 32 * made.metadata.num_warps


def variants(case, architecture):
    """(name, kernel, types, constants, warps, stages, grid) of all configurations for a case."""
    op, *words = case.split()
    if op == "gemm":
        form, (m, n, k) = words[0], map(int, words[1:])
        for bm, bn, bk, warps, stages in PRODUCTS[architecture]:
            even = k % bk == 0
            constants = dict(FORM=form, EVEN=even, BLOCK_M=bm, BLOCK_N=bn, BLOCK_K=bk)
            yield (f"gemm_{form}_{bm}x{bn}x{bk}_{warps}w{stages}s" + ("" if even else "_ragged"), gemm, "*bf16 *bf16 *bf16 i32 i32 i32", constants, warps, stages,
                   [math.ceil(m / bm) * math.ceil(n / bn), 1, 1])
    else:
        (batch, heads, t, s, d), causal = map(int, words[:5]), words[5] == "causal"
        pad = 1 << (d - 1).bit_length()
        for bt, bs, warps, stages in HEADS[architecture]:
            if pad > 128 and bs > 64:
                continue
            constants = dict(D=d, PAD=pad, CAUSAL=causal, BLOCK_T=bt, BLOCK_S=bs)
            yield (f"attention_d{d}_{words[5]}_{bt}x{bs}_{warps}w{stages}s", attention, "*bf16 *bf16 *bf16 *bf16 *fp32 i32 i32 i32 fp32", constants, warps, stages,
                   [math.ceil(t / bt), heads, batch])


class Gpu:
    """The virtual GPU through the driver API."""

    def __init__(self, library, report):
        self.cuda, self.report, self.read = ctypes.CDLL(library), report, 0
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        code = getattr(self.cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: error {code}")

    def memory(self, size):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self.call("cuMemsetD8_v2", address, 0, ctypes.c_size_t(size))
        return address

    def free(self, address):
        self.call("cuMemFree_v2", address)

    def run(self, text, kernel, grid, threads, shared, arguments):
        """Report of a launch."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), text.encode() + b"\0")
        self.call("cuModuleGetFunction", ctypes.byref(function), module, kernel.encode())
        self.call("cuFuncSetAttribute", function, 8, shared)
        pointers = (ctypes.c_void_p * len(arguments))(*[ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in arguments])
        self.call("cuLaunchKernel", function, *grid, threads, 1, 1, shared, None, pointers, None)
        self.call("cuCtxSynchronize")
        self.call("cuModuleUnload", module)
        lines = pathlib.Path(self.report).read_text().splitlines()
        return json.loads(lines[-1])


def arguments_of(gpu, case):
    op, *words = case.split()
    if op == "gemm":
        m, n, k = map(int, words[1:])
        memory = [gpu.memory(2 * size) for size in (m * k, n * k, m * n)]
        return memory, [ctypes.c_int32(x) for x in (m, n, k)]
    batch, heads, t, s, d = map(int, words[:5])
    memory = [gpu.memory(size) for size in (2 * batch * t * heads * d, 2 * batch * s * heads * d, 2 * batch * s * heads * d, 2 * batch * t * heads * d, 4 * batch * heads * t)]
    return memory, [ctypes.c_int32(x) for x in (t, s, heads)] + [ctypes.c_float(d**-0.5)]


def tune(machine, library, folder, cases):
    """The best of each case on one machine: a line, and the PTX files. In a process of its own, because the machine is chosen when the library starts."""
    with tempfile.NamedTemporaryFile() as report:
        os.environ.update(VGPU_MACHINE=machine, VGPU_CHECKS="off,align", VGPU_REPORT=report.name)
        gpu = Gpu(library, report.name)
        lines = []
        for case in cases:
            memory, sizes = arguments_of(gpu, case)
            found = []
            for name, kernel, types, constants, warps, stages, grid in variants(case, MACHINES[machine]):
                try:
                    text, shared, threads = compiled(kernel, types, constants, warps, stages, MACHINES[machine])
                    told = gpu.run(text, kernel.__name__, grid, threads, shared, memory + sizes + [ctypes.c_uint64(0)] * 2)
                except Exception as error:  # does not fit this machine
                    print(f"{case}: {name}: {str(error).splitlines()[0]}", file=sys.stderr)
                    continue
                found.append((told["time_us"], name, kernel.__name__, grid, threads, shared, text, told["bound"]))
            for address in memory:
                gpu.free(address)
            found.sort(key=lambda x: x[0])
            if "-v" in sys.argv:
                for f in found: print("   ", f[0], f[7], f[1])
            time, name, entry, grid, threads, shared, text, bound = found[0]
            file = f"{name}.sm_{MACHINES[machine]}.ptx"
            (folder / file).write_text(text)
            lines.append(f"{machine}: {case}: {file} {entry} {' '.join(map(str, grid))} {threads} {shared}")
            print(f"{machine}: {case}: {time:.2f} us, {bound}, {name}", flush=True)
    (folder / f"best_{machine}.part").write_text("\n".join(lines) + "\n")


def main():
    files = [a for a in sys.argv[1:] if not a.startswith("-")]
    library, folder = os.path.abspath(files[0]), pathlib.Path(files[1] if len(files) > 1 else HERE)
    cases = [line for line in (HERE / "cases.txt").read_text().splitlines() if line and not line.startswith("#")]
    for old in folder.glob("*.ptx"):
        old.unlink()
    lines = []
    for machine in MACHINES:
        child = os.fork()
        if child == 0:
            tune(machine, library, folder, cases)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{machine}: failed")
        part = folder / f"best_{machine}.part"
        lines.append(part.read_text())
        part.unlink()
    (folder / "best.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
