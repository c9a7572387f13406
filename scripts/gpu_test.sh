#!/bin/sh
# gpu-test [-o FILE] [bench] - checks and measures a bundle's kernels on this machine's GPU (the
# first; CUDA_VISIBLE_DEVICES chooses) and writes FILE, one JSON object: device, driver, clocks,
# commit, what passed, the benchmarks. bench: the benchmarks only. Runs from the folder it lies in
# (make gpu-bundle), needs no network and nothing installed but the driver, and ends within nine
# minutes. compute-sanitizer is used where it is on PATH or under /usr/local/cuda.
#
# Exit status: 0 all passed, 1 not, 69 no GPU that it can use. Last line: `N passed, N failed`.
set -u
out=""
only=""
while [ $# -gt 0 ]; do
    case $1 in
    -o) out=${2:?} && shift ;;
    bench) only=bench ;;
    *) sed -n '2,8s/^# //p' "$0" >&2; exit 64 ;;
    esac
    shift
done
case $out in "" | /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")" || exit 70
[ -x bin/mllama ] || { echo "gpu-test: no programs here: make gpu-bundle makes them" >&2; exit 64; }
started=$(date +%s)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
passed=0
failed=0
steps=""
benches=""

# within SECONDS COMMAND...: stops it after that time, or when the nine minutes are over
within() {
    left=$((540 - $(date +%s) + started))
    [ "$1" -ge "$left" ] || left=$1
    shift
    [ "$left" -gt 0 ] || { echo "no time left"; return 124; }
    timeout "$left" "$@"
}

# sum PATTERN FILE: of the number that the pattern captures
sum() { sed -n "s/.*$1.*/\1/p" "$2" | awk '{ n += $1 } END { print n + 0 }'; }

# step NAME SECONDS COMMAND...: counts Criterion's tests; a command without any is one test
step() {
    name=$1
    begin=$(date +%s)
    shift
    within "$@" >"$logs/step" 2>&1
    status=$?
    ok=$(sum 'Passing: \([0-9]*\)' "$logs/step")
    bad=$(($(sum 'Failing: \([0-9]*\)' "$logs/step") + $(sum 'Crashing: \([0-9]*\)' "$logs/step")))
    [ $((ok + bad)) -gt 0 ] || [ $status -ne 0 ] || ok=1
    [ $status -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    seconds=$(($(date +%s) - begin))
    echo "$name: $ok passed, $bad failed, $seconds s"
    [ "$bad" -eq 0 ] || grep -vE '^\[(====|RUN |PASS)' "$logs/step" | tail -n 40 | sed 's/^/    /'
    passed=$((passed + ok))
    failed=$((failed + bad))
    steps="$steps${steps:+, }\"$name\": {\"passed\": $ok, \"failed\": $bad, \"seconds\": $seconds}"
}

# sh $programs FOLDER NAME...: runs each, fails if one does. A script, since `timeout` runs no
# functions.
programs=$logs/programs
cat >"$programs" <<'SH'
folder=$1 worst=0
shift
for program; do
    "$folder/$program" -j4 || { echo "$program failed"; worst=1; }
done
exit $worst
SH

# measure NAME SECONDS COMMAND...: keeps the JSON that the command prints
measure() {
    name=$1
    limit=$2
    shift 2
    if within "$limit" "$@" >"$logs/bench" 2>"$logs/err"; then
        echo "bench $name: done"
        benches="$benches${benches:+,
}\"$name\": $(cat "$logs/bench")"
    else
        echo "bench $name: failed: $(tail -n 1 "$logs/err")"
        failed=$((failed + 1))
    fi
}

# bench NAME SECONDS ARGUMENT...: the same for mllama bench
bench() {
    name=$1
    limit=$2
    shift 2
    measure "$name" "$limit" "$variant/mllama" bench "$@" --device cuda -o json
}

# The first variant that can compute a token here. A program ends with 69 where it finds no GPU;
# anything else, a library that is missing, a fault, must not pass for that.
variant=""
reason=69
for folder in bin bin-sm70; do
    [ -z "$variant" ] && [ -x $folder/mllama ] || continue
    if within 60 $folder/mllama run --device cuda -p hello -n 1 >/dev/null 2>"$logs/err"; then
        variant=$folder
    else
        [ $? -eq 69 ] || reason=1
        sed "s#^#    $folder: #" "$logs/err" >>"$logs/reasons"
    fi
done
if [ -z "$variant" ]; then
    [ $reason -eq 69 ] && echo "gpu-test: there is no GPU here that the programs can use:" >&2
    [ $reason -eq 69 ] || echo "gpu-test: the programs do not run here:" >&2
    cat "$logs/reasons" >&2
    exit $reason
fi

if [ -z "$only" ]; then
    operations=$(cat OPERATIONS)
    # shellcheck disable=SC2086
    step "op tables" 120 sh "$programs" $variant $operations
    step "end to end" 120 sh "$programs" $variant test_gpu test_gpu_engine
    # a bundle made on a machine with a V100, or running on one, has or needs no other code
    if [ $variant != bin-sm70 ]; then
        # shellcheck disable=SC2086
        step "op tables, code of sm_70" 120 sh "$programs" bin-volta $operations
        step "end to end, code of sm_70" 60 sh "$programs" bin-volta test_gpu test_gpu_engine
    fi
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    for tool in memcheck racecheck synccheck initcheck; do
        [ -n "$sanitizer" ] || { echo "$tool: compute-sanitizer is not here: skipped"; continue; }
        step "$tool" 45 "$sanitizer" --tool $tool --error-exitcode 9 $variant/mllama run \
            --device cuda -i models/samples/receipt-3974-0000.png -p "What is the total?" -n 4
    done
fi

bench "ops" 60 ops
measure "weights" 60 "$variant/weights_bench" 2 3
for quant in nf4 int8 none; do
    option="--quant $quant"
    [ $quant != none ] || option=""
    # shellcheck disable=SC2086
    bench "11b $quant" 60 model --synthetic 11b -p 512 -n 64 -r 3 $option
done

# query FIELD: what nvidia-smi says of the GPU; empty without it
query() {
    nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits -i 0 2>/dev/null | head -n 1
}
result="{\"device\": \"$(query name)\", \"compute_capability\": \"$(query compute_cap)\",
\"driver\": \"$(query driver_version)\", \"memory_mib\": \"$(query memory.total)\",
\"clock_mhz\": \"$(query clocks.sm)\", \"max_clock_mhz\": \"$(query clocks.max.sm)\",
\"memory_clock_mhz\": \"$(query clocks.mem)\", \"ecc\": \"$(query ecc.mode.current)\",
\"commit\": \"$(cat COMMIT)\", \"programs\": \"$variant\",
\"seconds\": $(($(date +%s) - started)), \"passed\": $passed, \"failed\": $failed,
\"steps\": {$steps},
\"bench\": {$benches}}"
if [ -n "$out" ]; then
    echo "$result" >"$out" && echo "results: $out"
else
    echo "$result"
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
