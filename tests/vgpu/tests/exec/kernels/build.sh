#!/bin/sh
# Makes the PTX beside the CUDA sources again. Needs nvcc 13, for example from PyPI: nvidia-cuda-nvcc, nvidia-cuda-runtime, nvidia-cuda-cccl, nvidia-nvvm.
set -e
cd "$(dirname "$0")"
for source in *.cu; do
    case $source in hopper*) arch=sm_90a ;; *) arch=sm_80 ;; esac
    "${NVCC:-nvcc}" -ptx -lineinfo -O3 -arch=$arch -o "${source%.cu}.ptx" "$source"
done
