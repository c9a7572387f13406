#!/bin/sh
# slow.sh - what takes longer than CI allows: coverage. The long fuzzing is `make fuzz`, which
# runs before it; the comparisons that need torch are in bench/peers and tests/golden.
set -eu
scripts/setup.sh build test coverage
dir=build-coverage
mkdir -p $dir
cmake -S . -B $dir -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS="--coverage -O1" \
    >$dir/configure.log
cmake --build $dir -- --quiet
ctest --test-dir $dir -j2 >$dir/tests.log || tail -n 30 $dir/tests.log
gcovr --root . --object-directory $dir --exclude tests --exclude bench --print-summary |
    tee $dir/coverage.txt
