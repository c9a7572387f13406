#!/bin/sh
# fuzz.sh SECONDS - every libFuzzer target for SECONDS each, starting from the checked-in corpus.
# New inputs go to build-fuzz/found/NAME; a crash stops with the reproducer's path.
set -eu
seconds=$1
mkdir -p build-fuzz
cmake --preset fuzz -DMLL_WERROR="${MLL_WERROR:-OFF}" >build-fuzz/configure.log 2>&1 || { cat build-fuzz/configure.log; exit 1; }
cmake --build --preset fuzz -- --quiet
passed=0
failed=0
for target in build-fuzz/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    name=${target##*/fuzz_}
    found=build-fuzz/found/$name
    mkdir -p "$found" "tests/fuzz/corpus/$name"
    if "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="build-fuzz/crash-$name-" \
        "$found" "tests/fuzz/corpus/$name" >"build-fuzz/$name.log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "build-fuzz/$name.log")
        echo "fuzz $name: $runs runs in $seconds s, no finding"
        passed=$((passed + 1))
    else
        tail -n 40 "build-fuzz/$name.log"
        echo "fuzz $name: FAILED"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
