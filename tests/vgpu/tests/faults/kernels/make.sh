#!/bin/sh
# Compiles the kernels to PTX with nvcc 13 (`NVCC`, or the one in PATH). Paths are cut to file names, so that the result
# does not depend on where it was made.
set -eu
cd "$(dirname "$0")"
for source in *.cu; do
    case $source in
        transactions.cu) architecture=sm_90 ;;
        hopper.cu) architecture=sm_90a ;;
        *) architecture=sm_80 ;;
    esac
    "${NVCC:-nvcc}" -ptx -arch=$architecture -lineinfo -std=c++17 -o "${source%.cu}.ptx" "$source"
    sed -i -E 's|^(\s*\.file\s+[0-9]+ )".*/([^/"]+)".*|\1"\2"|' "${source%.cu}.ptx"
done
