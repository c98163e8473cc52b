"""A program in Numba, as its users write it: python with_numba.py"""

import math

import numpy
from numba import cuda, float32


@cuda.jit
def axpy(alpha, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = alpha * x[i] + y[i]


@cuda.jit
def row_norms(x, norms):
    shared = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    value = float32(0.0)
    for i in range(t, x.shape[1], 64):
        value += x[cuda.blockIdx.x, i] ** 2
    shared[t] = value
    cuda.syncthreads()
    half = 32
    while half > 0:
        if t < half:
            shared[t] += shared[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        norms[cuda.blockIdx.x] = math.sqrt(shared[0])


@cuda.jit
def histogram(data, bins):
    i = cuda.grid(1)
    if i < data.size:
        cuda.atomic.add(bins, data[i], 1)


def main():
    random = numpy.random.default_rng(1)
    x, y = random.random(1000, dtype=numpy.float32), random.random(1000, dtype=numpy.float32)
    result = cuda.to_device(y)
    axpy[8, 128](numpy.float32(2), cuda.to_device(x), result)
    numpy.testing.assert_allclose(result.copy_to_host(), 2 * x + y, rtol=1e-6)

    matrix = random.random((5, 300), dtype=numpy.float32)
    norms = numpy.zeros(5, dtype=numpy.float32)
    row_norms[5, 64](matrix, norms)
    numpy.testing.assert_allclose(norms, numpy.linalg.norm(matrix.astype(numpy.float64), axis=1), rtol=1e-5)

    data = random.integers(0, 10, 5000)
    bins = cuda.to_device(numpy.zeros(10, dtype=numpy.int64))
    stream = cuda.stream()
    with stream.auto_synchronize():
        histogram[40, 128, stream](cuda.to_device(data, stream=stream), bins)
    numpy.testing.assert_array_equal(bins.copy_to_host(), numpy.bincount(data, minlength=10))
    start, end = cuda.event(), cuda.event()
    start.record()
    end.record()
    end.synchronize()
    assert cuda.event_elapsed_time(start, end) >= 0
    print(cuda.get_current_device().name, cuda.current_context().get_memory_info())
    print("Numba: all good")


if __name__ == "__main__":
    main()
