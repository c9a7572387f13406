#!/bin/sh
# gpu-test [-o FILE] [bench] - checks and measures a bundle's kernels on this machine's GPU (the
# first; CUDA_VISIBLE_DEVICES chooses) and writes FILE, one JSON object: device, driver, clocks,
# commit, what passed, the benchmarks; beside it FILE.log, all that the programs said. Both are
# written anew after every step, so that whatever stops it leaves what was found. bench: the
# benchmarks only. Runs from the folder it lies in (make gpu-bundle), needs no network and nothing
# installed but the driver, and ends within nine minutes. compute-sanitizer is used where it is on
# PATH or under /usr/local/cuda, torch and bitsandbytes where python3 has them.
#
# Exit status: 0 all passed, 1 not, 69 no GPU that it can use. Last line: `N passed, N failed`.
set -u
out=""
only=""
while [ $# -gt 0 ]; do
    case $1 in
    -o) out=${2:?} && shift ;;
    bench) only=bench ;;
    *) sed -n '2,11s/^# //p' "$0" >&2; exit 64 ;;
    esac
    shift
done
case $out in "" | /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")" || exit 70
[ -x bin/mllama ] || { echo "gpu-test: no programs here: make gpu-bundle makes them" >&2; exit 64; }
started=$(date +%s)
logs=$(mktemp -d) || exit 70
trap 'rm -rf "$logs"' EXIT
trap 'exit 143' INT TERM
passed=0
failed=0
steps=""
benches=""
variant=""

# PTX that the driver compiles is compiled once for all processes. A driver may lie where only the
# containers' own loader looks.
export CUDA_CACHE_PATH="$logs/cache"
for place in /usr/local/nvidia/lib64 /usr/lib/wsl/lib; do
    [ ! -e $place/libcuda.so.1 ] || export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$place"
done

# ---- results -------------------------------------------------------------------------------------

# query FIELD: what nvidia-smi says of the GPU; empty without it
query() {
    timeout 10 nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits -i 0 2>/dev/null |
        head -n 1 | tr -d '"\\'
}

# text: stdin as the inside of a JSON string
text() { tr -d '\000-\010\013-\037"\\' | tr '\n\t' '  '; }

device=""
write_result() {
    [ -n "$device" ] || device="\"device\": \"$(query name)\", \"driver\": \"$(query driver_version)\",
\"compute_capability\": \"$(query compute_cap)\", \"memory_mib\": \"$(query memory.total)\",
\"max_clock_mhz\": \"$(query clocks.max.sm)\", \"max_memory_clock_mhz\": \"$(query clocks.max.mem)\",
\"ecc\": \"$(query ecc.mode.current)\", \"commit\": \"$(text <COMMIT)\""
    clocks=$(sort -n "$logs/clocks" 2>/dev/null | tail -n 1)
    printf '{%s,\n"clock_mhz": "%s", "programs": "%s", "seconds": %s, "passed": %s, "failed": %s,
"steps": {%s},\n"bench": {%s}}\n' "$device" "$clocks" "$variant" $(($(date +%s) - started)) \
        "$passed" "$failed" "$steps" "$benches" >"$logs/result"
    [ -n "$out" ] || return 0
    cp "$logs/result" "$out.part" && mv "$out.part" "$out"
    cp "$logs/all" "$out.log"
}

# ---- steps ---------------------------------------------------------------------------------------

# within SECONDS COMMAND...: stops it after that time, or when the nine minutes are over
within() {
    left=$((540 - $(date +%s) + started))
    [ "$1" -ge "$left" ] || left=$1
    shift
    [ "$left" -gt 0 ] || { echo "no time left"; return 124; }
    timeout -k 5 "$left" "$@"
}

# note TITLE FILE: into the log
note() { { echo "==== $1"; cat "$2"; } >>"$logs/all"; }

# count RESULT FILE: the sum over the programs' lines `N passed, N failed`
count() {
    awk -v which="$1" '/^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
        END { print (which == "passed" ? p : f) + 0 }' "$2"
}

# step NAME SECONDS COMMAND...: a command without counted tests is one test
step() {
    name=$1
    begin=$(date +%s)
    shift
    within "$@" >"$logs/step" 2>&1 </dev/null
    status=$?
    ok=$(count passed "$logs/step")
    bad=$(count failed "$logs/step")
    [ $((ok + bad)) -gt 0 ] || [ $status -ne 0 ] || ok=1
    [ $status -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    why=""
    [ $status -ne 124 ] || why=": out of time"
    seconds=$(($(date +%s) - begin))
    names=$(sed -n 's/^\[FAIL\] //p' "$logs/step" | sort -u | tr '\n' ';' | text)
    echo "$name: $ok passed, $bad failed, $seconds s$why"
    [ "$bad" -eq 0 ] || grep -v '^\[RUN \]' "$logs/step" | tail -n 40 | cut -c 1-300 | sed 's/^/    /'
    passed=$((passed + ok))
    failed=$((failed + bad))
    steps="$steps${steps:+,
}\"$name\": {\"passed\": $ok, \"failed\": $bad, \"seconds\": $seconds, \"status\": $status,
  \"failures\": \"$names\"}"
    note "$name: status $status" "$logs/step"
    write_result
}

# sh $programs JOBS FOLDER NAME...: runs each, JOBS at a time, fails if one does. A script, since
# `timeout` runs no functions.
programs=$logs/programs
cat >"$programs" <<'SH2'
jobs=$1 folder=$2
shift 2
printf '%s\n' "$@" | xargs -P "$jobs" -I '{}' sh -c "
    \"$folder/\$1\" >\"$0.\$1\" 2>&1 || echo \"\$1: status \$?\" >>\"$0.\$1\"
    cat \"$0.\$1\"
    ! grep -q ': status [0-9]' \"$0.\$1\"" - '{}'
SH2

# keep NAME FILE: the JSON in FILE among the benchmarks
keep() {
    benches="$benches${benches:+,
}\"$1\": $(cat "$2")"
}

# measure NAME SECONDS COMMAND...: keeps the JSON that the command prints, also of one that was
# stopped in time to print what it had. Exit status 69: cannot be had here.
measure() {
    name=$1
    limit=$2
    shift 2
    begin=$(date +%s)
    within "$limit" "$@" >"$logs/bench" 2>"$logs/err" </dev/null
    status=$?
    last=$(tail -c 1 "$logs/bench" | tr -d '\n')$(tail -n 1 "$logs/bench")
    case $last in *]) whole=yes ;; *) whole="" ;; esac
    why="$(grep -v '^[[:space:]]*$' "$logs/err" | tail -n 1 | cut -c 1-300)"
    if [ $status -eq 69 ]; then
        echo "bench $name: skipped: $why"
        printf '"skipped: %s"' "$(echo "$why" | text)" >"$logs/bench"
        keep "$name" "$logs/bench"
    elif [ -n "$whole" ]; then
        keep "$name" "$logs/bench"
        if [ $status -eq 0 ]; then
            echo "bench $name: done, $(($(date +%s) - begin)) s"
        else
            echo "bench $name: stopped with status $status after $(($(date +%s) - begin)) s: $why"
        fi
    else
        echo "bench $name: failed with status $status: $why"
        printf '"failed with status %s: %s"' $status "$(echo "$why" | text)" >"$logs/bench"
        keep "$name" "$logs/bench"
    fi
    [ $status -eq 0 ] || [ $status -eq 69 ] || [ $status -eq 124 ] || failed=$((failed + 1))
    [ $status -ne 124 ] || [ -n "$whole" ] || failed=$((failed + 1))
    note "bench $name: status $status" "$logs/err"
    write_result
}

# bench NAME SECONDS ARGUMENT...: the same for mllama bench
bench() {
    name=$1
    limit=$2
    shift 2
    measure "$name" "$limit" "$variant/mllama" bench "$@" --device cuda -o json
}

# cublaslt: the folder where torch's wheels or the toolkit have the library that --fast opens
cublaslt() {
    site=$(timeout 20 python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
    for place in "$site"/nvidia/*/lib /usr/local/cuda/lib64; do
        for library in "$place"/libcublasLt.so.1?; do
            [ ! -e "$library" ] || { echo "$place"; return; }
        done
    done
}

# ---- the programs that run here ------------------------------------------------------------------

# The first variant that can compute a token here. A program ends with 69 where it finds no GPU;
# anything else, a library that is missing, a fault, must not pass for that.
reason=69
: >"$logs/all"
for folder in bin bin-sm70; do
    [ -z "$variant" ] && [ -x $folder/mllama ] || continue
    within 90 $folder/mllama run --device cuda -p hello -n 1 >/dev/null 2>"$logs/err" </dev/null
    status=$?
    if [ $status -eq 0 ]; then
        variant=$folder
    else
        [ $status -eq 69 ] || reason=1
        sed "s#^#    $folder: #" "$logs/err" >>"$logs/reasons"
        echo "    $folder: status $status" >>"$logs/reasons"
    fi
done
if [ -z "$variant" ]; then
    [ $reason -eq 69 ] && echo "gpu-test: there is no GPU here that the programs can use:" >&2
    [ $reason -eq 69 ] || echo "gpu-test: the programs do not run here:" >&2
    cat "$logs/reasons" >&2
    note "no variant runs" "$logs/reasons"
    write_result
    exit $reason
fi
echo "programs: $variant; $(query name), driver $(query driver_version)"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=clocks.sm --format=csv,noheader,nounits -i 0 -l 1 \
        >"$logs/clocks" 2>/dev/null &
    watcher=$!
    trap 'kill $watcher 2>/dev/null; rm -rf "$logs"' EXIT
fi
jobs=4
[ "$(query compute_mode)" = Default ] || [ -z "$(query compute_mode)" ] || jobs=1

# ---- checks --------------------------------------------------------------------------------------

sanitize() {
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    [ -n "$sanitizer" ] || { echo "compute-sanitizer is not here: skipped"; return; }
    for tool in memcheck racecheck synccheck initcheck; do
        within 40 "$sanitizer" --tool $tool $variant/test_gather_rows >"$logs/step" 2>&1
        if grep -qi 'device not supported\|internal error\|failed to initialize' "$logs/step"; then
            echo "compute-sanitizer does not run on this machine: skipped"
            note "compute-sanitizer" "$logs/step"
            return
        fi
        step "$tool" 40 "$sanitizer" --tool $tool --error-exitcode 9 $variant/mllama run \
            --device cuda -i models/samples/receipt-3974-0000.png -p "What is the total?" -n 4
    done
}

if [ -z "$only" ]; then
    operations=$(cat OPERATIONS)
    # shellcheck disable=SC2086
    step "op tables" 120 sh "$programs" $jobs $variant $operations
    step "end to end" 100 sh "$programs" 2 $variant test_gpu test_gpu_engine
    step "repro" 30 $variant/mllama repro --device cuda
    # a bundle made on a machine with a V100, or running on one, has or needs no other code
    if [ $variant != bin-sm70 ] && [ -x bin-volta/mllama ]; then
        # shellcheck disable=SC2086
        step "op tables, code of sm_70" 120 sh "$programs" $jobs bin-volta $operations
        step "end to end, code of sm_70" 80 sh "$programs" 2 bin-volta test_gpu_engine
    fi
fi

# ---- benchmarks ----------------------------------------------------------------------------------

bench "11b nf4-dq" 90 model --synthetic 11b --quant nf4-dq -p 512 -n 64 -r 2 --image 4
bench "ops" 120 ops -r 3
measure "peers" 90 python3 gpu_peers.py
bench "11b 16 bits" 60 model --synthetic 11b -p 512 -n 64 -r 2 --image 4
bench "11b int8" 50 model --synthetic 11b --quant int8 -p 512 -n 64 -r 2
fast=$(cublaslt)
measure "11b 16 bits fast" 50 env LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$fast" \
    "$variant/mllama" bench model --synthetic 11b -p 512 -n 0 -r 2 --fast --device cuda -o json
measure "weights" 40 "$variant/weights_bench" 2 3
[ -n "$only" ] || sanitize

write_result
[ -z "$out" ] || echo "results: $out, $out.log"
[ -n "$out" ] || cat "$logs/result"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
