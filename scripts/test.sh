#!/bin/sh
# test.sh PRESET - builds a preset (MLL_WERROR=ON: warnings are errors) and runs every test program
# (race: those that run kernels on the CPU).
# Ends with one line, `N passed, N failed`: the sum over all test programs.
set -u
preset=$1
case $preset in cpu) dir=build ;; *) dir=build-$preset ;; esac
case $preset in race) only=shim ;; *) only=. ;; esac

mkdir -p "$dir"
cmake --preset "$preset" -DMLL_WERROR="${MLL_WERROR:-OFF}" >"$dir/configure.log" 2>&1 || {
    cat "$dir/configure.log"
    exit 1
}
cmake --build --preset "$preset" -- --quiet || { echo "the $preset build failed"; exit 1; }

log=$dir/tests.log
ctest --test-dir "$dir" -R "$only" --verbose --timeout 600 -j "$(nproc)" >"$log" 2>&1
status=$?

# Criterion ends with "[====] Synthesis: Tested: 3 | Passing: 3 | Failing: 0 | Crashing: 0", the
# shell tests with "3 passed, 0 failed".
grep -E 'Synthesis: Tested|^[0-9]+: [0-9]+ passed, [0-9]+ failed$' "$log" | sed 's/|//g' | awk '
    /Synthesis/ { for (i = 1; i < NF; i++) {
                      if ($i == "Passing:") passed += $(i + 1)
                      if ($i == "Failing:" || $i == "Crashing:") failed += $(i + 1) } }
    / passed, / { passed += $2; failed += $4 }
    END { print passed + 0, failed + 0 }' >"$dir/tests.sum"
read -r passed failed <"$dir/tests.sum"

if [ $status -ne 0 ]; then
    grep -E '\[(----|FAIL|ERR |WARN)\]|FAIL|SUMMARY: |runtime error|shim: |\*\*\*' "$log" | head -n 200
    # A program that died before its closing line failed at least once.
    [ "$failed" -gt 0 ] || failed=1
fi
skipped=$(grep -c '\[SKIP\]' "$log")
[ "$skipped" -eq 0 ] || { grep '\[SKIP\]' "$log"; echo "$skipped skipped (above)"; }
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
