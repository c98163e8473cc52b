"""A client in Python's ctypes, as launchers of compiled kernels are written: python driver.py FOLDER_WITH_PTX"""

import ctypes
import sys

cuda = ctypes.CDLL("libcuda.so.1")


class DriverError(RuntimeError):
    pass


def check(code):
    if code:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(name))
        raise DriverError(name.value.decode())


def pointer_to(function_name, version=12000):
    """As the runtime libraries find functions."""
    address, status = ctypes.c_void_p(), ctypes.c_int()
    check(cuda.cuGetProcAddress_v2(function_name.encode(), ctypes.byref(address), version, ctypes.c_uint64(0), ctypes.byref(status)))
    assert status.value == 0 and address.value, function_name
    return address.value


class Array:
    def __init__(self, values, kind):
        self.kind, self.count = kind, len(values)
        self.bytes = ctypes.sizeof(kind) * self.count
        self.address = ctypes.c_uint64()
        check(cuda.cuMemAlloc_v2(ctypes.byref(self.address), ctypes.c_size_t(self.bytes)))
        check(cuda.cuMemcpyHtoD_v2(self.address, (kind * self.count)(*values), ctypes.c_size_t(self.bytes)))

    def read(self):
        values = (self.kind * self.count)()
        check(cuda.cuMemcpyDtoH_v2(values, self.address, ctypes.c_size_t(self.bytes)))
        return list(values)

    def free(self):
        check(cuda.cuMemFree_v2(self.address))


def launch(function, grid, block, *arguments, shared=0, stream=None):
    values = [argument.address if isinstance(argument, Array) else argument for argument in arguments]
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.cast(ctypes.pointer(value), ctypes.c_void_p) for value in values])
    check(cuda.cuLaunchKernel(function, *grid, *block, shared, stream, pointers, None))


def main(folder):
    version, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    check(cuda.cuDriverGetVersion(ctypes.byref(version)))
    check(cuda.cuInit(0))
    check(cuda.cuDeviceGet(ctypes.byref(device), 0))
    name = ctypes.create_string_buffer(100)
    check(cuda.cuDeviceGetName(name, 100, device))
    print(name.value.decode(), version.value)
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    check(cuda.cuCtxSetCurrent(context))
    for function in ("cuLaunchKernel", "cuMemAlloc", "cuCtxCreate", "cuStreamBeginCapture", "cuGetErrorString"):
        pointer_to(function)

    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    with open(f"{folder}/elementwise.fatbin", "rb") as file:
        check(cuda.cuModuleLoadData(ctypes.byref(module), file.read()))
    check(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"axpy_f64"))
    x, y = Array(range(1000), ctypes.c_double), Array([1.0] * 1000, ctypes.c_double)
    launch(function, (3, 1, 1), (128, 1, 1), ctypes.c_double(2.0), x, y, ctypes.c_longlong(1000))
    check(cuda.cuCtxSynchronize())
    assert y.read() == [2.0 * i + 1.0 for i in range(1000)]

    # A library with its kernels, as newer programs do.
    library, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    with open(f"{folder}/softmax.sm_80.ptx", "rb") as file:
        check(cuda.cuLibraryLoadData(ctypes.byref(library), file.read(), None, None, 0, None, None, 0))
    check(cuda.cuLibraryGetKernel(ctypes.byref(kernel), library, b"softmax"))
    rows = Array([0.0] * 64 + list(range(64)), ctypes.c_float)
    result = Array([0.0] * 128, ctypes.c_float)
    launch(kernel, (1, 1, 1), (64, 1, 1), rows, result, ctypes.c_int(2), ctypes.c_int(64))
    check(cuda.cuCtxSynchronize())
    assert all(abs(value - 1 / 64) < 1e-6 for value in result.read()[:64])
    check(cuda.cuLibraryUnload(library))

    # What goes wrong is told.
    for code in (
        cuda.cuModuleGetFunction(ctypes.byref(function), module, b"nobody"),
        cuda.cuMemFree_v2(ctypes.c_uint64(12345)),
        cuda.cuModuleLoadData(ctypes.byref(library), b"not a module"),
    ):
        try:
            check(code)
            raise SystemExit("an error was not told")
        except DriverError as error:
            print("as it should be:", error)
    for array in (x, y, rows, result):
        array.free()
    check(cuda.cuModuleUnload(module))
    check(cuda.cuDevicePrimaryCtxRelease_v2(device))
    print("ctypes: all good")


if __name__ == "__main__":
    main(sys.argv[1])
