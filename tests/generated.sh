#!/usr/bin/env bash
# What is committed and made from other files: src/cuda/params.rs and ffi/layout.h from ffi/*.h, cuda/ptx/*.ptx from cuda/*.cu.
#   generated.sh write    makes it
#   generated.sh check    makes it and fails where the committed files differ; also has g++ and nvcc check the layouts, and ptxas the lowered PTX
# Needs what tests/toolkit.sh installs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode=${1:-}
[ "$mode" = check ] || [ "$mode" = write ] || { sed -n '2,5s/^# *//p' "$0" >&2; exit 2; }
target=$(realpath "${CARGO_TARGET_DIR:-target}")
[ -x "$target/toolkit/bin/nvcc" ] || { echo "no compilers: run tests/toolkit.sh first" >&2; exit 1; }
unset NVCC CUDA_HOME

made=$target/generated
rm -rf "$made"
mkdir -p "$made/ptx"
CARGO_TARGET_DIR="$target/bind" cargo build --quiet --release --manifest-path ffi/bind/Cargo.toml
LIBCLANG_PATH="$target/toolkit/libclang" "$target/bind/release/deem-bind" ffi "$made"
rustfmt --edition 2024 --config-path rustfmt.toml "$made/params.rs"
if [ "$mode" = write ]; then
    cp "$made/params.rs" src/cuda/params.rs
    cp "$made/layout.h" ffi/layout.h
fi
touch build.rs
PATH=$target/toolkit/bin:$PATH cargo build --quiet --release --lib
for source in cuda/*.cu; do
    op=$(basename "$source" .cu)
    cp "$target/ptx/$op.sm_80.ptx" "$made/ptx/"
    if grep -q DEEM_SM90A "$source"; then cp "$target/ptx/$op.sm_90a.ptx" "$made/ptx/"; fi
done

if [ "$mode" = write ]; then
    rm -f cuda/ptx/*.ptx
    cp "$made"/ptx/*.ptx cuda/ptx/
    exit 0
fi
fail() {
    echo "tests/generated.sh: $1 differs from what it is made from; run tests/generated.sh write and commit" >&2
    exit 1
}
diff -q "$made/params.rs" src/cuda/params.rs || fail src/cuda/params.rs
diff -q "$made/layout.h" ffi/layout.h || fail ffi/layout.h
diff -rq "$made/ptx" cuda/ptx || fail cuda/ptx
cc -fsyntax-only -x c -Iffi ffi/layout.h
if command -v g++ >/dev/null; then g++ -fsyntax-only -x c++ -std=c++17 -Iffi ffi/layout.h; fi
"$target/toolkit/bin/nvcc" -x cu -std=c++17 -ptx -arch=sm_80 -Iffi -o /dev/null ffi/layout.h
# The lowered .version has the instructions that are used.
for ptx in cuda/ptx/*.ptx; do
    architecture=$(basename "$ptx" .ptx)
    "$target/toolkit/bin/ptxas" -arch="${architecture##*.}" -o /dev/null "$ptx"
done
echo "generated files are as committed: $(ls cuda/ptx | wc -l) of PTX; rustc, gcc, g++ and nvcc agree on the layouts"
