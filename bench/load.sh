#!/bin/sh
# Opening cost of the 11B's 906 tensors: a sparse checkpoint from the weight table, then load_bench.
# usage: bench/load.sh BUILD_DIR
set -e
build=${1:?usage: bench/load.sh BUILD_DIR}
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT
cp "$(dirname "$0")/configs/llama-3.2-11b-vision/config.json" "$dir"
"$build/bench/make_checkpoint" "$dir" "$dir/model.safetensors"
du -k --apparent-size "$dir/model.safetensors" | awk '{ printf "file of %.2f GiB", $1 / 1048576 }'
du -k "$dir/model.safetensors" | awk '{ printf ", %d KiB on disk\n", $1 }'
"$build/bench/load_bench" "$dir"
