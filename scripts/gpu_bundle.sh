#!/bin/sh
# gpu_bundle.sh [native] - build-bundle/mllama-gpu: one folder that tests and measures this commit on
# any x86-64 Linux machine with a GPU from sm_70 up (gpu-test inside), with the libraries it needs
# beside the programs. native: for this machine's own cards only, which is what `make gpu-test` runs.
#
#   bin/         as nvcc compiles, for the architectures of cmake/cuda.cmake
#   bin-sm70/    where nvcc has no sm_70 any more: clang with CUDA 12.9, for older drivers too
#   bin-volta/   the code path of sm_70 forced on the newer cards: the same tests
set -eu
cd "$(dirname "$0")/.."
out=$PWD/build-bundle/mllama-gpu
scope=${1:-all}
operations=$(sed -n '/^set(op_tests/,/)/p' tests/ops/CMakeLists.txt | tr -d '()' |
    sed 's/^set *op_tests//')
programs="mllama weights_bench test_gpu test_gpu_engine"
for operation in $operations; do
    programs="$programs test_$operation"
done

# variant FOLDER CMAKE-OPTION...: builds the programs into the bundle's FOLDER
variant() {
    folder=$1
    shift
    build=build-bundle/$folder
    mkdir -p "$build"
    cmake --preset cuda -B "$build" -DMLL_TEST_ROOT=. -DMLL_GPU_TESTS=ON -DMLL_SHARED_KERNELS=ON \
        '-DCMAKE_BUILD_RPATH=$ORIGIN;$ORIGIN/../lib' -DCMAKE_SHARED_LINKER_FLAGS=-Wl,--as-needed \
        -DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed,--disable-new-dtags \
        "$@" >"$build/configure.log" 2>&1 || { cat "$build/configure.log"; exit 1; }
    sed -n "s/^-- CUDA: /$folder: /p" "$build/configure.log"
    # shellcheck disable=SC2086
    cmake --build "$build" --target $programs -- --quiet
    mkdir -p "$out/$folder"
    for program in $programs; do
        cp "$(find "$build" -name "$program" -type f -perm -u+x | head -n 1)" "$out/$folder/"
    done
    cp "$build/kernels/libmll_kernels.so" "$out/$folder/"
    strip --strip-unneeded "$out/$folder"/*
}

if [ "$scope" = native ] && [ ! -e /proc/driver/nvidia/version ] && [ ! -e /dev/dxg ]; then
    echo "no NVIDIA driver is loaded here: no GPU to test (make gpu-bundle makes a folder for" \
         "machines that have one)" >&2
    exit 69
fi
rm -rf "$out"
mkdir -p "$out/lib"
if [ "$scope" = native ]; then
    variant bin -DMLL_CUDA=AUTO
    variant bin-volta -DMLL_CUDA=AUTO -DMLL_FORCE_ARCH700=ON
else
    # the drivers that nvcc 13's programs need anyway unpack what is packed harder: a third of it
    smaller=-DCMAKE_CUDA_FLAGS=
    nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    ! "$nvcc" --version | grep -q 'release 13' || smaller=$smaller--compress-mode=size
    variant bin "$smaller"
    if ! grep -q '^-- CUDA: .* sm 70' build-bundle/bin/configure.log; then
        toolkit=$(scripts/clang_cuda.sh)
        PATH=$toolkit/bin:$PATH variant bin-sm70 -DCMAKE_CUDA_COMPILER=clang++-19 \
            -DCUDAToolkit_ROOT="$toolkit" '-DMLL_CUDA_ARCHITECTURES=70-real;80'
    fi
    variant bin-volta "$smaller" -DMLL_FORCE_ARCH700=ON '-DMLL_CUDA_ARCHITECTURES=80-real;90-real'
fi

# Every library but the C library's own, which must be that of the machine and its driver. The old
# kind of rpath also serves the libraries that a library needs.
ldd "$out"/bin*/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libmll_kernels|ld-linux[^/]*)\.so' |
    xargs -I{} cp -L {} "$out/lib/"
for place in tests/golden/cases models/receipts-tiny models/samples/receipt-3974-0000.png; do
    mkdir -p "$out/$(dirname $place)"
    cp -r $place "$out/$place"
done
find "$out/tests" -name expected.safetensors -delete # the CPU's results are what the GPU's meet
cp scripts/gpu_test.sh "$out/gpu-test"
cp bench/peers/gpu_peers.py "$out/"
for operation in $operations; do
    echo "test_$operation"
done >"$out/OPERATIONS"
git describe --always --dirty --abbrev=10 --exclude='*' >"$out/COMMIT" 2>/dev/null ||
    echo unknown >"$out/COMMIT"
size=$(du -sm --apparent-size "$out" | cut -f1) # what there is to copy
echo "$out: $size MiB"
[ "$size" -le 40 ] || { echo "more than the 40 MiB it may have" >&2; exit 1; }
