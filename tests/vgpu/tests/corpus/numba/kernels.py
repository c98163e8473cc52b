"""Kernels in Python, compiled to PTX by Numba (LLVM's NVPTX back end through NVVM) without a GPU.

    python kernels.py OUTPUT_FOLDER

writes NAME.ptx and launches.txt with a line per file: file, kernel.
"""

import math
import os
import sys

from numba import cuda, float32, float64, int32, types, void


def axpy(alpha, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = alpha * x[i] + y[i]


def reduce_sum(x, total):
    shared = cuda.shared.array(128, float64)
    t = cuda.threadIdx.x
    value = 0.0
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        value += x[i]
    shared[t] = value
    cuda.syncthreads()
    half = 64
    while half > 0:
        if t < half:
            shared[t] += shared[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        cuda.atomic.add(total, 0, shared[0])


def matmul(a, b, c):
    left = cuda.shared.array((8, 8), float32)
    right = cuda.shared.array((8, 8), float32)
    row, column = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0.0)
    for start in range(0, a.shape[1], 8):
        left[x, y] = a[row, start + y]
        right[x, y] = b[start + x, column]
        cuda.syncthreads()
        for k in range(8):
            total += left[x, k] * right[k, y]
        cuda.syncthreads()
    c[row, column] = total


def functions(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = math.sin(x[i]) * math.exp(-x[i]) + math.sqrt(abs(x[i])) + math.pow(abs(x[i]) + 1.0, 0.3)


VARIANTS = [
    ("axpy", axpy, void(float32, float32[::1], float32[::1])),
    ("reduce_sum", reduce_sum, void(float64[::1], float64[::1])),
    ("matmul", matmul, void(types.Array(float32, 2, "C"), types.Array(float32, 2, "C"), types.Array(float32, 2, "C"))),
    ("functions", functions, void(float64[::1], float64[::1])),
]


def main(folder):
    lines = []
    for name, kernel, signature in VARIANTS:
        text, _ = cuda.compile_ptx(kernel, signature, cc=(8, 0), device=False, abi="numba")
        with open(os.path.join(folder, f"{name}.ptx"), "w") as out:
            out.write(text)
        entry = next(line for line in text.splitlines() if ".entry" in line).split(".entry")[1].split("(")[0].strip()
        lines.append(f"{name}.ptx {entry}\n")
    with open(os.path.join(folder, "launches.txt"), "w") as out:
        out.writelines(lines)


if __name__ == "__main__":
    main(sys.argv[1])
