#!/bin/sh
# build.sh PRESET - builds the command and the library: cpu in build/, PRESET in build-PRESET/.
# The CPU preset takes CUDA along where the machine has both a GPU and nvcc (cmake/cuda.cmake).
set -eu
preset=$1
case $preset in cpu) dir=build ;; *) dir=build-$preset ;; esac

mkdir -p "$dir"
cmake --preset "$preset" -DMLL_WERROR="${MLL_WERROR:-OFF}" >"$dir/configure.log" 2>&1 || { cat "$dir/configure.log"; exit 1; }
[ -x "$dir/mllama" ] || {
    sed -n 's/^-- \(CUDA: .*\)/\1/p' "$dir/configure.log"
    echo "building $dir/mllama (a minute or so)"
}
cmake --build --preset "$preset" --target mllama libmllama -- --quiet
