#!/usr/bin/env bash
# Runs programs of cudarc, cust, Python's ctypes and Numba on the virtual GPU: run.sh [FOLDER FOR WHAT IS BUILT]
# Needs `cargo build --release -p vgpu` before; Numba only where it can be installed (VGPU_SKIP_NUMBA=1 leaves it out).
set -euo pipefail
cd "$(dirname "$0")"
library=$(cd ../../../target/release && pwd)
ptx=$(cd ../tests/corpus/nvcc && pwd)
built=${1:-$library/../vgpu-clients}
mkdir -p "$built/toolkit/lib64" "$built/loader"
built=$(cd "$built" && pwd)
[ -e "$library/libcuda.so" ] || { echo "build the library first: cargo build --release -p vgpu" >&2; exit 1; }

# The folder that programs find the driver in, under both its names; and the tree that cust's build script takes for a toolkit.
for name in loader/libcuda.so loader/libcuda.so.1 toolkit/lib64/libcuda.so; do
    ln -sf "$library/libcuda.so" "$built/$name"
done
export LD_LIBRARY_PATH=$built/loader${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

CUDA_LIBRARY_PATH=$built/toolkit cargo build --quiet --release --target-dir "$built/target"
"$built/target/release/cudarc-client" "$ptx"
"$built/target/release/cust-client" "$ptx"
python3 python/driver.py "$ptx"
# Numba is large and not ours: where it cannot be installed, that is said.
numba() {
    [ -z "${VGPU_SKIP_NUMBA:-}" ] || return
    [ ! -e "$built/numba/ready" ] || return 0
    python3 -m venv "$built/numba" || return
    "$built/numba/bin/pip" install --quiet 'numba-cuda[cu13]==0.30.4' numpy || return
    # With it Numba makes machine code itself; without it asks the driver to link its PTX.
    "$built/numba/bin/pip" uninstall --quiet --yes nvidia-nvjitlink || return
    touch "$built/numba/ready"
}
if numba; then
    "$built/numba/bin/python" python/with_numba.py
else
    echo "NOT run: Numba (left out, or it could not be installed)"
fi
echo "all clients that ran passed"
