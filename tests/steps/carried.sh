#!/usr/bin/env bash
# What a person carries to a real GPU, on the virtual one: packed, run from another folder, with a few ops. Needs the release build and python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bash tests/gpu.sh pack "$folder/packed"
mkdir "$folder/driver"
ln -s "$PWD/target/release/libcuda.so" "$folder/driver/libcuda.so.1"
(cd "$folder" && LD_LIBRARY_PATH=$folder/driver packed/gpu.sh run --ops activation --filter activation)
python3 -m json.tool "$folder"/packed/record/*.json >/dev/null
grep -q '"virtual": true' "$folder"/packed/record/*.json
grep -q '"bench_bf16"' "$folder"/packed/record/*.json
