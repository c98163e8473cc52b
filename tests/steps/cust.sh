#!/usr/bin/env bash
# The feature `cust`: the crate cust links against a driver; the virtual GPU's is one. Needs the release build of the virtual GPU, and replaces the
# library of deem by one with that feature.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tree=$PWD/target/cust-toolkit
mkdir -p "$tree/lib64"
for name in libcuda.so libcuda.so.1; do ln -sf "$PWD/target/release/libcuda.so" "$tree/lib64/$name"; done
CUDA_LIBRARY_PATH=$tree LD_LIBRARY_PATH=$tree/lib64 VGPU_CHECKS=all cargo test --release --no-default-features --features cust --test cust
