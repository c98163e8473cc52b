"""Compiles a CUDA source to PTX with NVRTC: python nvrtc.py SOURCE ARCHITECTURE OUTPUT. The library is that of the Python environment."""

import ctypes
import glob
import os
import sys


def main(source, architecture, output):
    import nvidia

    folders = [path for root in nvidia.__path__ for path in glob.glob(os.path.join(root, "*", "lib"))]
    names = [name for folder in folders for name in glob.glob(os.path.join(folder, "libnvrtc.so*"))]
    nvrtc = ctypes.CDLL(sorted(names)[0])

    def check(code):
        if code:
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            sys.exit(nvrtc.nvrtcGetErrorString(code).decode())

    program = ctypes.c_void_p()
    with open(source, "rb") as file:
        check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), file.read(), os.path.basename(source).encode(), 0, None, None))
    options = [f"--gpu-architecture=compute_{architecture}".encode(), b"--std=c++17"]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    if code:
        check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        check(nvrtc.nvrtcGetProgramLog(program, log))
        sys.exit(log.value.decode())
    check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetPTX(program, text))
    with open(output, "wb") as file:
        file.write(text.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
