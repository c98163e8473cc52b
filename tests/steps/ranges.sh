#!/usr/bin/env bash
# NVTX ranges lie in each other and all of them end: asked of a library in the place of NVIDIA's, that prints what it is told. Without a library the
# program fails and says what is missing. Needs the release build and a C compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/nvtx.c" <<'C'
#include <stdio.h>
static int depth;
int nvtxRangePushA(const char *name) { fprintf(stderr, "range %d %s\n", depth, name); return depth++; }
int nvtxRangePop(void) { return --depth; }
__attribute__((destructor)) static void end(void) { fprintf(stderr, "ranges open at the end: %d\n", depth); }
C
cc -shared -fPIC -o "$folder/libnvToolsExt.so.1" "$folder/nvtx.c"
ln -s libnvToolsExt.so.1 "$folder/libnvToolsExt.so"
ln -s "$PWD/target/release/libcuda.so" "$folder/libcuda.so.1"
export DEEM_CUDA_NVTX=1 LD_LIBRARY_PATH=$folder

said=$(target/release/deem bench --device cuda --filter 'diffusion guide' --quiet 2>&1)
grep -m1 '^range 0 diffusion$' <<<"$said"
grep -m1 '^ranges open at the end: 0$' <<<"$said"

rm "$folder"/libnvToolsExt*
if missing=$(target/release/deem bench --device cuda --filter rope --quiet 2>&1); then
    echo "the program ran without the library of the ranges that it was told to mark" >&2
    exit 1
fi
grep 'there is no libnvToolsExt.so.1' <<<"$missing"
