"""Kernels in Triton, compiled to PTX without a GPU.

    python kernels.py OUTPUT_FOLDER

writes NAME.sm_80.ptx and NAME.sm_90.ptx, and launches.txt with a line per file: file, kernel, warps, bytes of dynamic
shared memory. Triton's own two last parameters (scratch memory of the grid and of the profiler) are null.
"""

import os
import re
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(a, b, c, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TF32: tl.constexpr):
    """c[M, N] = a[M, K] b[K, N], row-major; sizes are multiples of 16."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        x = tl.load(a + rows[:, None] * K + (k + inner)[None, :], mask=(rows[:, None] < M) & ((k + inner)[None, :] < K), other=0.0)
        y = tl.load(b + (k + inner)[:, None] * N + columns[None, :], mask=((k + inner)[:, None] < K) & (columns[None, :] < N), other=0.0)
        total = tl.dot(x, y, total, input_precision="tf32" if TF32 else "ieee")
    tl.store(c + rows[:, None] * N + columns[None, :], total, mask=(rows[:, None] < M) & (columns[None, :] < N))


@triton.jit
def matmul_descriptor(left, right, c, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """The same through tensor descriptors: the host passes tensor maps, the copies are the tensor memory accelerator's."""
    row, column = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        total = tl.dot(left.load([row, k]), right.load([k, column]), total)
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    tl.store(c + rows[:, None] * N + columns[None, :], total, mask=(rows[:, None] < M) & (columns[None, :] < N))


@triton.jit
def attention(q, k, v, out, log_sums, T, S, scale, D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """Flash attention forward: a head per program_id(1), a block of queries per program_id(0)."""
    head = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channels = tl.arange(0, D)
    query = tl.load(q + (head * T + rows[:, None]) * D + channels[None, :], mask=rows[:, None] < T, other=0.0)
    largest = tl.full((BLOCK_T,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_T,), dtype=tl.float32)
    result = tl.zeros((BLOCK_T, D), dtype=tl.float32)
    for start in range(0, S, BLOCK_S):
        keys = start + tl.arange(0, BLOCK_S)
        key = tl.load(k + (head * S + keys[None, :]) * D + channels[:, None], mask=keys[None, :] < S, other=0.0)
        scores = tl.dot(query, key) * (scale * 1.4426950408889634)
        scores = tl.where(keys[None, :] < S, scores, float("-inf"))
        higher = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(largest - higher)
        total = total * shrink + tl.sum(weights, 1)
        value = tl.load(v + (head * S + keys[:, None]) * D + channels[None, :], mask=keys[:, None] < S, other=0.0)
        result = tl.dot(weights.to(value.dtype), value, result * shrink[:, None])
        largest = higher
    tl.store(out + (head * T + rows[:, None]) * D + channels[None, :], (result / total[:, None]).to(out.dtype.element_ty), mask=rows[:, None] < T)
    tl.store(log_sums + head * T + rows, largest + tl.log2(total), mask=rows < T)


@triton.jit
def attention_backward(q, k, v, grad, log_sums, deltas, grad_q, grad_k, grad_v, T, S, scale, D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """Gradients of a head per program_id(1) for a block of keys per program_id(0); those of the queries with atomics."""
    head = tl.program_id(1)
    keys = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    channels = tl.arange(0, D)
    inside = keys[:, None] < S
    key = tl.load(k + (head * S + keys[:, None]) * D + channels[None, :], mask=inside, other=0.0)
    value = tl.load(v + (head * S + keys[:, None]) * D + channels[None, :], mask=inside, other=0.0)
    to_key = tl.zeros((BLOCK_S, D), dtype=tl.float32)
    to_value = tl.zeros((BLOCK_S, D), dtype=tl.float32)
    for start in range(0, T, BLOCK_T):
        rows = start + tl.arange(0, BLOCK_T)
        there = rows[:, None] < T
        query = tl.load(q + (head * T + rows[:, None]) * D + channels[None, :], mask=there, other=0.0)
        above = tl.load(grad + (head * T + rows[:, None]) * D + channels[None, :], mask=there, other=0.0)
        log_sum = tl.load(log_sums + head * T + rows, mask=rows < T, other=0.0)
        delta = tl.load(deltas + head * T + rows, mask=rows < T, other=0.0)
        scores = tl.dot(query, tl.trans(key)) * (scale * 1.4426950408889634)
        weights = tl.where((keys[None, :] < S) & there, tl.exp2(scores - log_sum[:, None]), 0.0)
        to_value = tl.dot(tl.trans(weights.to(above.dtype)), above, to_value)
        slope = weights * (tl.dot(above, tl.trans(value)) - delta[:, None]) * scale
        slope = slope.to(query.dtype)
        to_key = tl.dot(tl.trans(slope), query, to_key)
        tl.atomic_add(grad_q + (head * T + rows[:, None]) * D + channels[None, :], tl.dot(slope, key), mask=there)
    tl.store(grad_k + (head * S + keys[:, None]) * D + channels[None, :], to_key, mask=inside)
    tl.store(grad_v + (head * S + keys[:, None]) * D + channels[None, :], to_value, mask=inside)


@triton.jit
def layer_norm(x, gain, shift, y, columns, epsilon, BLOCK: tl.constexpr):
    """A row per program."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at, mask=at < columns, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / columns
    centred = tl.where(at < columns, values - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / columns + epsilon)
    result = centred * scale * tl.load(gain + at, mask=at < columns) + tl.load(shift + at, mask=at < columns)
    tl.store(y + row * columns + at, result, mask=at < columns)


@triton.jit
def softmax(x, y, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at, mask=at < columns, other=float("-inf"))
    weights = tl.exp(values - tl.max(values, 0))
    tl.store(y + row * columns + at, weights / tl.sum(weights, 0), mask=at < columns)


@triton.jit
def dropout(x, y, n, p, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, mask=at < n)
    kept = tl.rand(seed, at) > p
    tl.store(y + at, tl.where(kept, values / (1 - p), 0.0), mask=at < n)


@triton.jit
def sort(x, y, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.sort(tl.load(x + at)))


@triton.jit
def scan(x, y, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.cumsum(tl.load(x + at), 0))


TILE = dict(BLOCK_M=64, BLOCK_N=64, BLOCK_K=32)
WIDE = dict(BLOCK_M=128, BLOCK_N=64, BLOCK_K=64)
HEAD = dict(D=64, BLOCK_T=64, BLOCK_S=64)
MATRICES = "*{t} *{t} *fp32 i32 i32 i32"
BACKWARD = "*{t} *{t} *{t} *{t} *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 fp32"

# Name, kernel, argument types, constants, warps, architectures.
VARIANTS = [
    ("matmul_f16", matmul, MATRICES.format(t="fp16"), dict(WIDE, TF32=False), 4, (80, 90)),
    ("matmul_bf16", matmul, MATRICES.format(t="bf16"), dict(TILE, TF32=False), 4, (80, 90)),
    ("matmul_tf32", matmul, MATRICES.format(t="fp32"), dict(TILE, TF32=True), 4, (80, 90)),
    ("matmul_f32", matmul, MATRICES.format(t="fp32"), dict(BLOCK_M=32, BLOCK_N=32, BLOCK_K=16, TF32=False), 4, (80,)),
    ("matmul_fp8", matmul, MATRICES.format(t="fp8e4nv"), dict(WIDE, TF32=False), 4, (90,)),
    ("matmul_fp8_e5m2", matmul, MATRICES.format(t="fp8e5"), dict(TILE, TF32=False), 4, (80,)),
    ("matmul_wide", matmul, MATRICES.format(t="bf16"), dict(BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, TF32=False), 8, (90,)),
    ("matmul_descriptor", matmul_descriptor, "tensordesc<fp16[128,64]> tensordesc<fp16[64,64]> *fp32 i32 i32 i32", WIDE, 4, (90,)),
    ("attention_f16", attention, "*fp16 *fp16 *fp16 *fp16 *fp32 i32 i32 fp32", HEAD, 4, (80, 90)),
    ("attention_bf16", attention, "*bf16 *bf16 *bf16 *bf16 *fp32 i32 i32 fp32", dict(HEAD, BLOCK_T=128), 8, (80, 90)),
    ("attention_backward", attention_backward, BACKWARD.format(t="bf16"), dict(D=64, BLOCK_T=64, BLOCK_S=64), 4, (80, 90)),
    ("layer_norm", layer_norm, "*bf16 *fp32 *fp32 *fp32 i32 fp32", dict(BLOCK=1024), 4, (80, 90)),
    ("softmax", softmax, "*fp32 *fp32 i32", dict(BLOCK=1024), 4, (80, 90)),
    ("dropout", dropout, "*fp32 *fp32 i32 fp32 i32", dict(BLOCK=512), 4, (80, 90)),
    ("sort", sort, "*fp32 *fp32", dict(BLOCK=256), 4, (80, 90)),
    ("scan", scan, "*fp32 *fp32", dict(BLOCK=512), 4, (80, 90)),
]


def main(folder):
    lines = []
    for name, kernel, types, constants, warps, architectures in VARIANTS:
        for architecture in architectures:
            names = [argument for argument in kernel.arg_names if argument not in constants]
            signature = dict(zip(names, types.split())) | {constant: "constexpr" for constant in constants}
            # What Triton finds out by itself when it launches: pointers and sizes are multiples of 16.
            hints = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if signature[a][0] in "*i" and a not in constants and a != "seed"}
            source = ASTSource(kernel, signature, constexprs={(kernel.arg_names.index(c),): v for c, v in constants.items()}, attrs=hints)
            made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
            text = re.sub(r"(?m)^\s*\.(loc|file)\b.*\n", "", made.asm["ptx"])
            # The debug sections name files of the machine that compiled.
            text = re.sub(r"(?s)\n\s*\.section\s+\.debug.*?\n\s*}\s*(?=\n|$)", "\n", text)
            file = f"{name}.sm_{architecture}.ptx"
            with open(os.path.join(folder, file), "w") as out:
                out.write(text)
            lines.append(f"{file} {made.metadata.name} {made.metadata.num_warps} {made.metadata.shared}\n")
    with open(os.path.join(folder, "launches.txt"), "w") as out:
        out.writelines(sorted(lines))


if __name__ == "__main__":
    main(sys.argv[1])
