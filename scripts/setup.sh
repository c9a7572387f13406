#!/bin/sh
# setup.sh GROUP... - installs with apt what a group (build, test, fuzz, style, nvrtc, eval ...) needs and lacks.
# Quiet when everything is there; says what it does otherwise; uses sudo when not root.
set -eu

packages=""
for group in "$@"; do
    case $group in
    build) packages="$packages gcc libc6-dev make cmake ninja-build pkg-config libjansson-dev
                     libpng-dev libjpeg-dev" ;;
    test) packages="$packages libcriterion-dev python3 g++" ;;
    fuzz) packages="$packages clang libclang-rt-dev" ;;
    style) packages="$packages clang-format" ;;
    valgrind) packages="$packages valgrind" ;;
    coverage) packages="$packages gcovr" ;;
    nvrtc) packages="$packages python3 python3-pip binutils" ;;
    eval) packages="$packages python3 python3-pil fonts-dejavu-core fonts-liberation
                    fonts-freefont-ttf fonts-hack" ;;
    *) echo "setup: unknown group $group" >&2; exit 64 ;;
    esac
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "setup: no apt on this machine; if the build stops, install by hand what these Debian" \
         "packages hold:" $packages >&2
    exit 0
fi

missing=""
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done

if [ -n "$missing" ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    echo "setup: installing with ${sudo:+$sudo }apt-get:$missing"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    export DEBIAN_FRONTEND=noninteractive
    if ! { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive \
           apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "setup: apt-get failed (above); install by hand:$missing" >&2
        exit 1
    fi
fi

# Ubuntu 22.04 ships CMake 3.22; the presets need 3.25. A newer one goes into .venv (git-ignored).
if ! printf '3.25\n%s\n' "$(cmake --version | sed -n '1s/.* //p')" | sort -VC; then
    echo "setup: CMake is older than 3.25; installing a newer one into .venv with pip"
    python3 -m venv .venv && .venv/bin/pip -q install 'cmake>=3.25,<4'
fi
