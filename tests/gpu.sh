#!/usr/bin/env bash
# Checks and times deem on a real GPU, on a machine without cargo and without a network. Two halves:
#
#   tests/gpu.sh pack FOLDER     where the repository is built: puts binaries, a recording and this script into FOLDER (under 64 MiB), to be carried
#   FOLDER/gpu.sh run            on the machine with the GPU: all checks and timings, in under ten minutes; leaves FOLDER/record/<device>-<date>.json and .md,
#                                which belong into benches/record/
#
# Options of run:
#   --ops TEXT       only tests of ops whose name contains this
#   --filter TEXT    only timings of ops whose name contains this
#   --skip LIST      leaves steps out, separated by commas: ops, parity, model, bench, cublas, torch
#   --seconds N      ends timings that have not begun after so long (default 540)
#   --device cuda:N  another device than the first
#   --out FOLDER     where the record goes
#
# It runs every op against the f64 oracle on the processor; `deem parity` on the recorded tiny model (losses, every gradient, a caption, a picture); a training
# step, a caption and a picture of the whole model against the host; `deem bench` in f32 and bf16; and beside it the same shapes with cuBLAS (where nvcc and
# libcublas are) and PyTorch (where python3 has it). Nothing is installed, no setting of the GPU is touched. Exit code 1 if a check fails.
#
# The same folder runs on the virtual GPU (LD_LIBRARY_PATH with its libcuda.so.1), which the record says: tests/run.sh does that with a few ops.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

fail() {
    echo "gpu.sh: $*" >&2
    exit 1
}

# names FILE: the names in the list TESTS (and BITS) of a test program's source.
names() {
    sed -n '/^const \(TESTS\|BITS\):/,/\];/p' "$1" | grep -o '"[a-z_0-9:]*"' | tr -d '"' | sort -u
}

pack() {
    local folder=$1 root=$here/..
    [ -e "$root/Cargo.toml" ] || fail "pack runs in the repository"
    cd "$root"
    cargo build --release --workspace
    local target=${CARGO_TARGET_DIR:-target} list
    # One line of JSON per artefact; the test programs' names carry a hash.
    list=$(cargo test --release --workspace --test ops --test jobs --no-run --message-format=json 2>/dev/null)
    rm -rf "$folder"
    mkdir -p "$folder/bin" "$folder/fixtures"
    cp "$target/release/deem" "$folder/bin/"
    local program built
    for program in ops jobs; do
        built=$(grep '"kind":\["test"\]' <<<"$list" | grep "\"name\":\"$program\"" | grep -o '"executable":"[^"]*"' | tail -1 | cut -d'"' -f4)
        [ -n "$built" ] || fail "cargo built no test program $program"
        cp "$built" "$folder/bin/$program"
        names "tests/$program/cuda.rs" >"$folder/$program.tests"
    done
    if command -v strip >/dev/null; then strip "$folder"/bin/*; fi
    # A third of the size: what carries the folder may have a limit.
    tar -C "$folder" -czf "$folder/bin.tar.gz" bin
    rm -r "$folder/bin"
    cp -r tests/fixtures/deem-tiny-a "$folder/fixtures/"
    cp tests/gpu.sh "$folder/"
    cp -r tests/gpu "$folder/beside"
    git rev-parse HEAD >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"
    echo "packed $folder: $(du -sh "$folder" | cut -f1), $(wc -l <"$folder/ops.tests") tests of ops, $(wc -l <"$folder/jobs.tests") of the whole model"
    echo "carry it, and run $folder/gpu.sh run"
}

# text TEXT: as a JSON string.
text() {
    printf '"%s"' "$(sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g' <<<"$1" | tr '\n' ' ' | sed 's/ *$//')"
}

run() {
    local ops= filter= skip= seconds=540 device=cuda out=$here/record
    while [ $# -gt 0 ]; do
        [ $# -gt 1 ] || usage
        case $1 in
        --ops) ops=$2 ;;
        --filter) filter=$2 ;;
        --skip) skip=$2 ;;
        --seconds) seconds=$2 ;;
        --device) device=$2 ;;
        --out) out=$2 ;;
        *) usage ;;
        esac
        shift 2
    done
    [ -e "$here/bin.tar.gz" ] || fail "run needs a packed folder: tests/gpu.sh pack FOLDER"
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    cd "$here"
    [ -d bin ] || tar -xzf bin.tar.gz
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    local failed=0 steps=() readable=$work/readable.md

    wanted() { [[ ",$skip," != *",$1,"* ]]; }
    left() { echo $((seconds - SECONDS)); }
    # note NAME STATE SECONDS DETAIL: one line of the record and of the screen.
    note() {
        printf '%-28s %-8s %4s s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$work/steps"
        steps+=("$(printf '{"step":%s,"state":"%s","seconds":%s,"detail":%s}' "$(text "$1")" "$2" "$3" "$(text "$4")")")
        if [ "$2" = failed ]; then failed=1; fi
    }

    # The device, as the driver calls it: the smallest timing says it.
    ./bin/deem bench --device "$device" --filter timestep --quiet --json >"$work/first.json" 2>"$work/first.err" ||
        fail "no GPU to run on: $(cat "$work/first.err")"
    local name
    name=$(grep -o '"device": *"[^"]*"' "$work/first.json" | head -1 | cut -d'"' -f4)
    local virtual=false
    if [[ $name == *"(vgpu)"* ]]; then virtual=true; fi
    echo "on $name$([ $virtual = false ] || echo ': the VIRTUAL GPU, times are modelled')"
    # Looked at, never set.
    local driver
    driver=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader 2>/dev/null | head -1 || true)

    # tests PROGRAM TITLE NAME..: these tests of a program, each on the device.
    tests() {
        local program=$1 title=$2 start=$SECONDS status=0
        shift 2
        [ $# -gt 0 ] || { note "$title" "not run" 0 "no test has such a name"; return; }
        DEEM_TEST_DEVICE=$device timeout 300 "./bin/$program" --exact "$@" >"$work/$program.log" 2>&1 || status=$?
        local line
        line=$(grep '^test result' "$work/$program.log" | tail -1 || true)
        if [ $status -eq 0 ]; then
            note "$title" passed $((SECONDS - start)) "${line#test result: }"
        else
            note "$title" failed $((SECONDS - start)) "${line#test result: } $(grep -m3 -A3 'panicked at\|vgpu:' "$work/$program.log" || true)"
            cp "$work/$program.log" "$out/$program-failed.log"
        fi
    }
    if wanted ops; then tests ops "ops against the oracle" $(grep -F -- "$ops" ops.tests || true); fi
    if wanted parity; then
        local start=$SECONDS status=0
        timeout 300 ./bin/deem parity --device "$device" fixtures/deem-tiny-a >"$work/parity.log" 2>&1 || status=$?
        note "parity with the recording" "$([ $status -eq 0 ] && echo passed || echo failed)" $((SECONDS - start)) "$(tail -1 "$work/parity.log")"
        [ $status -eq 0 ] || cp "$work/parity.log" "$out/parity-failed.log"
    fi
    if wanted model; then tests jobs "training step, caption, image" $(cat jobs.tests); fi

    # bench TYPE: times every op; leaves bench-TYPE.json.
    bench() {
        local start=$SECONDS status=0
        if [ "$(left)" -lt 20 ]; then note "bench $1" "not run" 0 "no time left"; return; fi
        timeout "$(left)" ./bin/deem bench --device "$device" --dtype "$1" --filter "$filter" --quiet --json >"$work/bench-$1.json" 2>"$work/bench.err" || status=$?
        if [ $status -eq 0 ]; then
            note "bench $1" done $((SECONDS - start)) "$(grep -c '"op":' "$work/bench-$1.json") cases"
        else
            rm -f "$work/bench-$1.json"
            note "bench $1" failed $((SECONDS - start)) "$(tail -1 "$work/bench.err")"
        fi
    }
    if wanted bench; then
        bench bf16
        bench f32
    fi

    # beside NAME COMMAND..: another library's times, a line of JSON per case on its output.
    beside() {
        local name=$1 start=$SECONDS status=0
        shift
        if [ "$(left)" -lt 20 ]; then note "$name" "not run" 0 "no time left"; return; fi
        timeout "$(left)" "$@" >"$work/$name.lines" 2>"$work/$name.err" || status=$?
        if [ $status -eq 0 ]; then
            note "$name" done $((SECONDS - start)) "$(wc -l <"$work/$name.lines") cases"
        else
            rm -f "$work/$name.lines"
            note "$name" "not run" $((SECONDS - start)) "$(tail -1 "$work/$name.err")"
        fi
    }
    if wanted cublas; then
        if [ $virtual = true ]; then
            note cublas "not run" 0 "it does not run on the virtual GPU"
        elif ! command -v nvcc >/dev/null; then
            note cublas "not run" 0 "there is no nvcc in PATH"
        elif nvcc -O2 -o "$work/cublas" beside/beside.cu -lcublas 2>"$work/nvcc.err"; then
            beside cublas "$work/cublas"
        else
            note cublas "not run" 0 "$(tail -1 "$work/nvcc.err")"
        fi
    fi
    if wanted torch; then
        if [ $virtual = true ]; then
            note torch "not run" 0 "it does not run on the virtual GPU"
        elif python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
            beside torch python3 beside/beside.py
        else
            note torch "not run" 0 "python3 has no torch that sees a GPU"
        fi
    fi

    # The record.
    local date file
    date=$(date -u +%Y-%m-%d)
    file=$out/$(tr -cs 'A-Za-z0-9\n' - <<<"${name#*, }" | sed 's/-*$//')-$date
    {
        printf '{\n"device": %s,\n"virtual": %s,\n"driver": %s,\n"date": "%s",\n"commit": "%s",\n"seconds": %s,\n"passed": %s,\n' \
            "$(text "$name")" "$virtual" "$(text "$driver")" "$date" "$(cat commit)" "$SECONDS" "$([ $failed = 0 ] && echo true || echo false)"
        printf '"steps": [\n%s\n]' "$(IFS=$'\n'; sed '$!s/$/,/' <<<"${steps[*]}")"
        local kind
        for kind in bf16 f32; do
            if [ -e "$work/bench-$kind.json" ]; then printf ',\n"bench_%s": %s' "$kind" "$(cat "$work/bench-$kind.json")"; fi
        done
        for kind in cublas torch; do
            if [ -e "$work/$kind.lines" ]; then printf ',\n"%s": [\n%s\n]' "$kind" "$(sed '$!s/$/,/' "$work/$kind.lines")"; fi
        done
        printf '\n}\n'
    } >"$file.json"
    {
        printf '# %s, %s\n\n' "$name" "$date"
        if [ $virtual = true ]; then
            printf 'Ran on the **virtual GPU** of `tests/vgpu`: what is checked is checked, times are those of its model.\n\n'
        fi
        printf 'Commit %s. %s\n\n```text\n%s\n```\n' "$(cut -c1-12 commit)" "${driver:+Driver: $driver.}" "$(cat "$work/steps")"
        for kind in bf16 f32; do
            if [ -e "$work/bench-$kind.json" ]; then
                printf '\n| %s | shape | us | GFLOP/s | GB/s | %% of the ceiling |\n|---|---|---|---|---|---|\n' "$kind"
                rows "$work/bench-$kind.json"
            fi
        done
        for kind in cublas torch; do
            if [ -e "$work/$kind.lines" ]; then
                printf '\n| %s | shape | type | us |\n|---|---|---|---|\n' "$kind"
                sed 's/.*"op": *"\([^"]*\)".*"shape": *"\([^"]*\)".*"dtype": *"\([^"]*\)".*"us": *\([0-9.]*\).*/| \1 | \2 | \3 | \4 |/' "$work/$kind.lines"
            fi
        done
    } >"$file.md"
    echo "recorded in $file.json and .md, $SECONDS s"
    return $failed
}

# rows FILE: a table's rows from the JSON of deem bench, one key a line.
rows() {
    awk -F': ' '
        function value(x) { gsub(/^"|",?$|,$/, "", x); return x }
        /"op":/ { op = value($2) }
        /"shape":/ { shape = value($2) }
        /"median_us":/ { us = value($2) }
        /"gflops":/ { gflops = value($2) }
        /"gbytes":/ { gbytes = value($2) }
        /"percent":/ { printf "| %s | %s | %.1f | %.0f | %.0f | %.1f |\n", op, shape, us, gflops, gbytes, value($2) }
    ' "$1"
}

case ${1:-} in
pack) [ $# -eq 2 ] || usage; pack "$2" ;;
run) shift; run "$@" ;;
*) usage ;;
esac
