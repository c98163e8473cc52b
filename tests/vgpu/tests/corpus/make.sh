#!/usr/bin/env bash
# Makes the committed PTX again with the compilers from PyPI, at the versions named below: make.sh [FOLDER FOR THE COMPILERS]
# Needs python3 with venv and a connection to the package index; no GPU.
set -euo pipefail
cd "$(dirname "$0")"
tools=${1:-$(mktemp -d)}
mkdir -p "$tools"

environment() { # name, packages...
    local name=$1
    shift
    if [ ! -e "$tools/$name/ready" ]; then
        python3 -m venv "$tools/$name"
        "$tools/$name/bin/pip" install --quiet "$@"
        touch "$tools/$name/ready"
    fi
}

environment cuda13 nvidia-cuda-nvcc==13.5.* nvidia-cuda-runtime==13.5.* nvidia-cuda-cccl==13.3.* nvidia-nvvm==13.5.* nvidia-cuda-crt==13.5.* nvidia-cuda-nvrtc==13.5.*
environment cuda12 nvidia-cuda-nvrtc-cu12==12.9.*
environment triton triton==3.9.0 numpy
environment numba 'numba-cuda[cu13]==0.30.4'

toolkit=$(echo "$tools"/cuda13/lib/python3*/site-packages/nvidia/cu13)
for source in nvcc/*.cu; do
    "$toolkit/bin/nvcc" -ptx -arch=sm_80 -o "${source%.cu}.sm_80.ptx" "$source"
done
# fp8 conversions are instructions from sm_89 on, code before.
"$toolkit/bin/nvcc" -ptx -arch=sm_90 -o nvcc/numbers.sm_90.ptx nvcc/numbers.cu
# A container with two architectures, as a program carries it.
"$toolkit/bin/nvcc" -fatbin -no-compress -gencode arch=compute_80,code=compute_80 -gencode arch=compute_90,code=compute_90 \
    -o nvcc/elementwise.fatbin nvcc/elementwise.cu

mkdir -p nvrtc12 nvrtc13
for name in elementwise reduce atomics transpose softmax variables; do
    "$tools/cuda12/bin/python" nvrtc.py nvcc/$name.cu 80 nvrtc12/$name.ptx
    "$tools/cuda13/bin/python" nvrtc.py nvcc/$name.cu 80 nvrtc13/$name.ptx
done

"$tools/triton/bin/python" triton/kernels.py triton
"$tools/numba/bin/python" numba/kernels.py numba
