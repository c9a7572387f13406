#!/bin/sh
# install_test.sh - installs into build/installed and uses the result: the command, a C program by
# pkg-config, another by find_package, and the same with a shared library that exports mll_ only.
set -eu
root=$PWD/build/installed
rm -rf "$root"
cat >build/use.c <<'C'
#include <mllama.h>
#include <stdio.h>
int main(void)
{
    struct mll_error err;
    struct mll_engine *engine;
    struct mll_options options = {.model = "/nonexistent"};
    return mll_open(&engine, &options, &err) == MLL_OK || puts(mll_version()) < 0;
}
C
for shared in OFF ON; do
    dir=build
    [ $shared = OFF ] || {
        dir=build/shared
        cmake -S . -B "$dir" -G Ninja -DBUILD_SHARED_LIBS=ON -DMLL_TESTS=OFF >/dev/null
    }
    cmake --build "$dir" -- --quiet
    cmake --install "$dir" --prefix "$root/$shared" >/dev/null
    PKG_CONFIG_PATH=$(dirname "$(find "$root/$shared" -name mllama.pc)")
    export PKG_CONFIG_PATH
    library=$(dirname "$PKG_CONFIG_PATH")
    static=""
    [ $shared = ON ] || static=--static
    # shellcheck disable=SC2046
    cc build/use.c -o build/use-$shared $(pkg-config $static --cflags --libs mllama)
    LD_LIBRARY_PATH=$library build/use-$shared >/dev/null
    mkdir -p build/find-$shared
    cat >build/find-$shared/CMakeLists.txt <<CMAKE
cmake_minimum_required(VERSION 3.25)
project(find C)
find_package(mllama CONFIG REQUIRED)
add_executable(use ../use.c)
target_link_libraries(use PRIVATE mllama::libmllama)
CMAKE
    cmake -S build/find-$shared -B build/find-$shared/out -G Ninja \
        -DCMAKE_PREFIX_PATH="$root/$shared" >/dev/null
    cmake --build build/find-$shared/out -- --quiet
    LD_LIBRARY_PATH=$library build/find-$shared/out/use >/dev/null
    "$root/$shared/bin/mllama" info >/dev/null
done
others=$(nm -D --defined-only "$root"/ON/lib*/libmllama.so "$root"/ON/lib/*/libmllama.so 2>/dev/null |
    awk '{print $3}' | grep -v '^mll_' || true)
[ -z "$others" ] || { echo "exported besides mll_: $others"; exit 1; }
[ -f "$root/ON/share/man/man1/mllama.1" ] && [ -f "$root/ON/share/bash-completion/completions/mllama" ]
echo "install: static and shared library, pkg-config, find_package"
