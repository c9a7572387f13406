#!/bin/sh
# valgrind.sh - a smoke run of the command under valgrind: one document read by the embedded model.
# Valgrind 3.19 knows no AVX-512; the AVX2 forms run.
set -eu
sample=$(ls models/samples/*.png 2>/dev/null | head -n 1)
if [ -z "$sample" ]; then
    echo "valgrind: no models/samples yet: skipped"
    exit 0
fi
valgrind --quiet --error-exitcode=99 --leak-check=full \
    --errors-for-leak-kinds=definite --undef-value-errors=yes \
    build/mllama extract "$sample" --json -t 1 --isa avx2 -n 24 >build/valgrind.json
echo "valgrind: clean"
