#!/usr/bin/env bash
# All checks of the repository: format, lints, build, tests, documentation, the op tests once per instruction set, and programs that others wrote on the
# virtual GPU. Needs cargo (https://rustup.rs) and a linker; uses no network but cargo's registry, PyPI for the CUDA compilers, NumPy and
# Numba (all left out, and said so, where Python cannot make an environment) and, if a component is missing, rustup's server.
# The first step that fails ends the script with its exit code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "tests/run.sh: $*" >&2
    exit 1
}

[ -f "${CARGO_HOME:-$HOME/.cargo}/env" ] && . "${CARGO_HOME:-$HOME/.cargo}/env"
command -v cargo >/dev/null || fail "cargo is missing; install Rust 1.89 or newer: https://rustup.rs"
command -v cc >/dev/null || fail "no linker; on Debian: apt-get install gcc libc6-dev"

# component NAME COMMAND PACKAGE: makes sure that a part of the toolchain is there.
component() {
    cargo "$2" --version >/dev/null 2>&1 && return
    command -v rustup >/dev/null || fail "cargo $2 is missing and there is no rustup to install it; on Debian: apt-get install $3"
    echo "installing the component $1"
    rustup component add "$1" || fail "could not install $1; by hand: rustup component add $1"
    cargo "$2" --version >/dev/null || fail "cargo $2 does not run"
}
component rustfmt fmt rustfmt
component clippy clippy rust-clippy

log=$(mktemp)
trap 'rm -f "$log"' EXIT
times=()

# step TITLE COMMAND...: runs the command, its output also in the log, and keeps the time.
step() {
    local title=$1 start=$SECONDS status=0
    shift
    echo
    echo "== $title"
    "$@" 2>&1 | tee -a "$log" || status=$?
    local line
    line=$(printf '%5d s  %s' $((SECONDS - start)) "$title")
    if [ "$status" -ne 0 ]; then
        echo "$line: FAILED with exit code $status" >&2
        exit "$status"
    fi
    echo "$line"
    times+=("$line")
}

unset DEEM_SIMD DEEM_FIXTURES
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

echo "$(rustc --version), $(cargo --version), $(nproc) processors, $(uname -sm)"
# NumPy for the Python example of the C interface.
if python3 -c 'import numpy' 2>/dev/null; then
    export DEEM_PYTHON=python3
elif python3 -c 'import ensurepip, venv' 2>/dev/null && python3 -m venv target/python && target/python/bin/pip install --quiet numpy; then
    export DEEM_PYTHON=$PWD/target/python/bin/python
fi

toolkit=
if command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null; then
    toolkit=yes
    step "CUDA compilers" bash tests/toolkit.sh
fi
step "format" cargo fmt --all --check
step "lints" cargo clippy --release --workspace --all-targets -- -D warnings
step "build" cargo build --release --workspace
[ -z "$toolkit" ] || step "generated files: PTX, parameter structs" bash tests/generated.sh check
[ -z "$toolkit" ] || step "machine code of the CUDA kernels: registers, spills, main loops" python3 tests/kernels.py
# One selection of packages for build and tests: another would build the virtual GPU again.
step "tests: deem, and the virtual GPU" cargo test --release --workspace
if command -v python3 >/dev/null; then step "tests/gpu.sh, packed, on the virtual GPU" bash tests/steps/carried.sh; fi
[ -z "$toolkit" ] || step "machine code, refused by the virtual GPU" bash tests/steps/machine_code.sh
step "NVTX ranges" bash tests/steps/ranges.sh
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --release --workspace
for set in avx2 portable; do
    # The CUDA kernels know nothing of it.
    step "ops, DEEM_SIMD=$set" env DEEM_SIMD=$set cargo test --release --test ops -- --skip on_the_virtual_gpu
done
numba=
if command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null; then
    numba=yes
else
    export VGPU_SKIP_NUMBA=1
fi
if command -v python3 >/dev/null; then
    step "virtual GPU: programs of cudarc, cust, ctypes and Numba" bash tests/vgpu/clients/run.sh
fi
# The test prints "ran: ..." about itself; without --nocapture cargo swallows that.
for set in best avx2 portable; do
    step "instruction set, DEEM_SIMD=$set" env DEEM_SIMD=$set cargo test --release --test ops which_machine -- --exact --nocapture
done

# Last of the builds: with other features it replaces the library.
step "the feature cust on the virtual GPU" bash tests/steps/cust.sh

echo
echo "== summary"
printf '%s\n' "${times[@]}"
passed=$(awk '/^test result: ok/ { n += $4; i += $8 } END { printf "%d tests passed, %d ignored", n, i }' "$log")
printf '%5d s  in all: %s\n' "$SECONDS" "$passed"
ran=$(sed -n 's/^.*ran: //p' "$log" | sort -u)
[ -n "$ran" ] || fail "no test said which instruction set it ran on"
echo "ran on:"
printf '%s\n' "$ran" | sed 's/^/    /'
echo "    virtual GPU: all kernels"
[ -n "${DEEM_PYTHON:-}" ] || echo "    NOT run: the Python example of the C interface (on Debian: apt-get install python3-venv)"
command -v python3 >/dev/null || echo "    NOT run: the client programs of the virtual GPU (python3 is missing)"
[ -n "$toolkit" ] || echo "    NOT run: the CUDA kernels compiled again, the committed PTX was tested (on Debian: apt-get install python3-venv)"
[ -n "$numba" ] || echo "    NOT run: Numba on the virtual GPU (on Debian: apt-get install python3-venv)"
for set in avx512 avx2 portable; do
    grep -q "host, $set" <<<"$ran" || echo "    NOT run: host, $set (this processor does not have it)"
done
