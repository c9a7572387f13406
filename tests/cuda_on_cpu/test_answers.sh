#!/bin/sh
# test_answers.sh CPU GPU SOURCE [N] - the embedded model reads N receipts (default 3) alike on the CPU
# and on the GPU's kernels: the same text, values and states; confidences to 0.02. GPU is a build of
# the command for the shim, or CPU itself where it has a device.
set -u
CPU=$1
GPU=$2
MODEL=$3/models/receipts-tiny
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset LLAMA_MODEL_PATH
files=$(ls "$3"/models/samples/*.png | head -n "${4:-3}")
# shellcheck disable=SC2086
"$CPU" extract -m "$MODEL" $files --device cpu >"$tmp/cpu" 2>"$tmp/err" || { cat "$tmp/err"; exit 1; }
# shellcheck disable=SC2086
"$GPU" extract -m "$MODEL" $files --device cuda >"$tmp/gpu" 2>"$tmp/err" || { cat "$tmp/err"; exit 1; }
python3 - "$tmp/cpu" "$tmp/gpu" <<'END'
import json, sys
a, b = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
failed = abs(len(a) - len(b)) + (not a)
for x, y in zip(a, b):
    same = x["text"] == y["text"] and x["status"] == y["status"]
    for name, field in x["fields"].items():
        other = y["fields"][name]
        same = same and (field["raw"], field["status"]) == (other["raw"], other["status"])
        same = same and abs(field["confidence"] - other["confidence"]) < 0.02
    if not same:
        print("FAIL:", x["file"], "\n ", x["text"], "\n ", y["text"])
    failed += not same
print(len(a) - failed, "passed,", failed, "failed")
sys.exit(failed != 0)
END
