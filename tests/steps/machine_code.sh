#!/usr/bin/env bash
# Machine code is preferred where it fits; the virtual GPU takes none, so that the program falls back to PTX and says so. Needs the release build and
# the compiler of tests/toolkit.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
target/toolkit/bin/nvcc -std=c++17 -O3 -Icuda -Iffi -arch=sm_80 -cubin -o "$folder/activation.sm_80.cubin" cuda/activation.cu
mkdir "$folder/driver"
ln -s "$PWD/target/release/libcuda.so" "$folder/driver/libcuda.so.1"
said=$(VGPU_MACHINE=a100 LD_LIBRARY_PATH=$folder/driver DEEM_CUDA_KERNELS=$folder target/release/deem bench --device cuda --filter activation --json)
grep 'PTX for sm_80 (machine code for sm_80 refused' <<<"$said"
