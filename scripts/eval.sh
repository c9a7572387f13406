#!/bin/sh
# eval.sh N SEED - renders N receipts of SEED into build/eval-SEED and reads them with the embedded
# model (or the one that MLLAMA_MODEL names). The last line is one JSON object: field -> share exact.
set -eu
n=$1
seed=$2
dir=build/eval-$seed
if [ ! -f "$dir/truth.jsonl" ] || [ "$(wc -l <"$dir/truth.jsonl")" != "$n" ]; then
    rm -rf "$dir"
    # apt's Pillow belongs to /usr/bin/python3, which need not be the first python3 of the path
    python=python3
    $python -c 'import PIL' 2>/dev/null || python=/usr/bin/python3
    $python models/train/receipts.py --out "$dir" --n "$n" --seed "$seed" >&2
fi
exec build/mllama eval "$dir/truth.jsonl"
