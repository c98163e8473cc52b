"""Attention through libdeem with ctypes and NumPy, held against NumPy in double precision.

cargo build --release && python3 ffi/examples/attention.py target/release/libdeem.so
"""
import ctypes
import sys

import numpy


class Tensor(ctypes.Structure):
    """deem_tensor over the memory of a contiguous float32 array."""

    _fields_ = [("data", ctypes.c_void_p), ("shape", ctypes.c_int64 * 6), ("rank", ctypes.c_int32), ("dtype", ctypes.c_int32)]

    def __init__(self, array):
        shape = (ctypes.c_int64 * 6)(*array.shape)
        super().__init__(array.ctypes.data, shape, array.ndim, 0)


class Options(ctypes.Structure):
    """deem_attention_options; what is not given is zero, the usual choice."""

    _fields_ = [("heads", ctypes.c_int32), ("kv_heads", ctypes.c_int32), ("scale", ctypes.c_double), ("causal", ctypes.c_int32),
                ("reserved", ctypes.c_int32), ("causal_offset", ctypes.c_int64), ("key_count", ctypes.c_int64),
                ("keys", ctypes.c_void_p), ("first", ctypes.c_void_p), ("dropout", ctypes.c_double), ("dropout_seed", ctypes.c_uint64)]


deem = ctypes.CDLL(sys.argv[1])
deem.deem_error_message.restype = ctypes.c_char_p


def check(status):
    if status:
        sys.exit("deem: " + deem.deem_error_message().decode())


B, T, N, D = 2, 6, 4, 16
q, k, v = numpy.random.default_rng(0).standard_normal((3, B, T, N * D), dtype=numpy.float32)
out, lse = numpy.empty_like(q), numpy.empty((B, N, T), numpy.float32)

context = ctypes.c_void_p()
check(deem.deem_context_create(b"host", 0, ctypes.byref(context)))
tensors = [ctypes.byref(Tensor(x)) for x in (q, k, v, out, lse)]
check(deem.deem_attention_forward(context, *tensors, ctypes.byref(Options(heads=N, causal=1))))
deem.deem_context_destroy(context)

heads = [x.astype(numpy.float64).reshape(B, T, N, D).transpose(0, 2, 1, 3) for x in (q, k, v)]
scores = heads[0] @ heads[1].transpose(0, 1, 3, 2) / D**0.5
scores = numpy.where(numpy.tri(T, dtype=bool), scores, -numpy.inf)
weights = numpy.exp(scores - scores.max(-1, keepdims=True))
exact = (weights / weights.sum(-1, keepdims=True)) @ heads[2]
error = abs(out.reshape(B, T, N, D).transpose(0, 2, 1, 3) - exact).max()
print(f"causal attention, {B} x {T} tokens, {N} heads: largest error {error:.1e}")
sys.exit(int(error > 4e-6))  # values up to 4, some 16 roundings of 6e-8
