#!/usr/bin/env bash
# Installs the pinned CUDA compilers and libclang from PyPI into target/toolkit, where build.rs and tests/generated.sh find them: toolkit.sh
# Does nothing if they are there. Needs Python 3 with venv; says so and ends with code 1 where that is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
toolkit=${CARGO_TARGET_DIR:-target}/toolkit
packages=(nvidia-cuda-nvcc==13.5.37 nvidia-cuda-crt==13.5.37 nvidia-nvvm==13.5.37 nvidia-cuda-runtime==13.5.37
    nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37
    nvidia-cuda-cccl==13.3.5.0.6 libclang==18.1.1 numpy==2.4.6)

if [ "$(cat "$toolkit/installed" 2>/dev/null)" = "${packages[*]}" ]; then
    exit 0
fi
command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || {
    echo "tests/toolkit.sh: Python 3 with venv is missing; on Debian: apt-get install python3-venv" >&2
    exit 1
}
echo "installing the CUDA compilers into $toolkit"
rm -rf "$toolkit"
python3 -m venv "$toolkit/python"
"$toolkit/python/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
bin=$(cd "$("$toolkit/python/bin/python" -c 'import site; print(site.getsitepackages()[0])')/nvidia/cu13/bin" && pwd)
mkdir -p "$toolkit/bin"
for tool in nvcc ptxas cuobjdump nvdisasm; do
    # Wrappers, no links: nvcc looks for its parts beside the path that it was called by.
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$bin/$tool" >"$toolkit/bin/$tool"
    chmod +x "$toolkit/bin/$tool"
done
ln -sfn "$("$toolkit/python/bin/python" -c 'import clang, os; print(os.path.dirname(clang.__file__))')/native" "$toolkit/libclang"
"$toolkit/bin/nvcc" --version | tail -1
printf '%s' "${packages[*]}" >"$toolkit/installed"
# build.rs looks for a toolkit again.
touch build.rs
