#!/bin/sh
# test_bench.sh MLLAMA SOURCE - mllama bench: its rows, formats, lists and comparisons, not its speed.
set -u
MLLAMA=$1
SOURCE=$2
. "$SOURCE/tests/cli/checks.sh"
cd "$tmp" || exit 1

python=$(python3 -c 'import sys; print(sys.executable)') # python3 may be a script that looks for it
# json EXPRESSION: true of `rows`, the list on stdout
json() {
    "$python" -IS -c "import json, sys; rows = json.load(open('$tmp/out')); sys.exit(not ($1))"
}

check "bench model" run 0 bench model -p 8,16 -n 4 -r 2 -o json
check "a row a test" json "[r['test'] for r in rows] == ['pp8', 'pp16', 'tg4']"
check "rates and their spread" json "all(0 < r['p10'] <= r['tokens_per_s'] <= r['p90'] for r in rows)"
check "samples" json "all(len(r['samples']) == 2 and max(r['samples']) == r['p90'] for r in rows)"
check "decoding beside the memory" json \
    "rows[2]['bytes_per_token'] > 1e6 and rows[2]['read_gb_s'] > 0 and rows[2]['bandwidth_share'] > 0"
check "memory and commit" json "all(r['free_bytes'] > 1e8 and r['peak_bytes'] > 1e6 and r['build_commit'] for r in rows)"
check "image and batch" run 0 bench model -p 4 -n 2 -r 1 --image 1 -b 1,2 -o json
check "their tests" json "[r['test'] for r in rows] == ['vision1', 'pp4', 'tg2@1', 'tg2@2', 'receipt']"
check "the first token waits for the image" json "rows[1]['ttft_seconds'] > rows[0]['seconds']"
check "a receipt has seconds, no rate" json "rows[4]['seconds'] > 0 and rows[4]['tokens_per_s'] is None"
check "ranges" run 0 bench model -p 4-8+2,2-4*2 -n 0 -r 1 -o json
check "what a range holds" json "[r['test'] for r in rows] == ['pp4', 'pp6', 'pp8', 'pp2', 'pp4']"
check "a prompt and tokens" run 0 bench model -p 0 -n 0 --pg 4,2 -d 0,8 -r 1 -o jsonl
check "one object a line" sh -c "head -n 1 out | grep -q '\"test\":\"pp4+tg2\"'"
check "behind a context" sh -c "tail -n 1 out | grep -q '\"test\":\"pp4+tg2 @ d8\"'"
check "threads and quantisations" run 0 bench model -p 4 -n 0 -t 1,2 --quant none,nf4 -r 1 -o json
check "each with each" json \
    "[(r['quant'], r['threads']) for r in rows] == [('as stored', 1), ('as stored', 2), ('nf4', 1), ('nf4', 2)]"
mkdir model && cp "$SOURCE"/models/receipts-tiny/* model
check "loading" run 0 bench model -m model -p 0 -n 0 -r 2 --load -o json
check "warm, and cold where the disk cache obeys" json \
    "[r['test'] for r in rows][-1] == 'load warm' and len(rows) <= 2 and all(r['seconds'] > 0 for r in rows)"
check "csv" run 0 bench model -p 2 -n 0 -r 1 -o csv
check "csv has a head" sh -c "head -n 1 out | grep -q '^test,quant,threads,tokens_per_s,'"
check "as many cells" sh -c "[ \$(head -n 1 out | tr -cd , | wc -c) -eq \$(tail -n 1 out | sed 's/\"[^\"]*\"//g' | tr -cd , | wc -c) ]"
check "sql" run 0 bench model -p 2 -n 0 -r 1 -o sql
check "sql is SQLite's" "$python" -IS -c \
    "import sqlite3; d = sqlite3.connect(':memory:'); d.executescript(open('$tmp/out').read()); d.execute('select test from bench_model').fetchone()[0] == 'pp2' or exit(1)"
check "md" run 0 bench model -p 2 -n 0 -r 1
check "says what it ran on" sh -c "grep -q 'device: cpu.*build_commit: ' out"
check "bench ops" run 0 bench ops --op rmsnorm -r 1 -o json
check "the same as the plain form" json "len(rows) == 3 and all(r['difference'] == 0 for r in rows)"
check "shares of what the machine gives" json \
    "all(0 < r['read_share'] and 0 < r['copy_share'] and r['roofline_share'] > 0 and r['clock_ghz'] > 0.1 for r in rows)"
check "a shape of the 90B, a thread" run 0 bench ops --op add_rmsnorm --shape "8192 n=4" -t 1 -r 1 -o json
check "whole words" json "[(r['shape'], r['threads']) for r in rows] == [('90b 8192 n=4', 1)]"

# rows RATE...: a file of bench model's rows with these medians and measurements around them
rows() {
    "$python" -IS - "$@" <<'PY'
import json, sys
print(json.dumps([{"test": f"pp{i}", "tokens_per_s": float(v), "samples": [float(v) * (1 + 0.001 * k) for k in range(-2, 3)]}
                  for i, v in enumerate(sys.argv[1:])]))
PY
}
rows 100 100 100 >a.json
rows 100.5 150 70 >b.json
check "compare with itself" run 0 bench compare a.json a.json -o json
check "same" json "[r['verdict'] for r in rows] == ['same'] * 3"
check "slower is exit 1" run 1 bench compare a.json b.json -o json
check "by so much" json \
    "[r['verdict'] for r in rows] == ['same', 'faster', 'slower'] and 1.4 < rows[1]['low'] < rows[1]['ratio'] < rows[1]['high'] < 1.6"
check "what chance would do" says "chance"
rows 80 >wide.json
rows 130 >>wide.json
check "a file of two runs" run 0 bench compare a.json wide.json -o json
check "too few runs" json "rows[0]['verdict'] == 'noisy' and rows[0]['n_b'] == 2 and rows[0]['low'] is None"
check "is said" says "five runs"
for rate in 100 101 99 100.5 99.5; do rows $rate; done >runs.json
for rate in 120 121 119 120.5 119.5; do rows $rate; done >faster.json
check "five runs" run 0 bench compare runs.json faster.json -o json
check "by the runs' medians" json "[(r['verdict'], r['n_a'], r['n_b']) for r in rows] == [('faster', 5, 5)]"
echo "{\"op\": \"add\", \"shape\": \"x n=1\", \"seconds\": 0.002, \"samples\": [0.0019, 0.002, 0.002, 0.002, 0.0021]}" >ops.jsonl
check "ops, in seconds" run 0 bench compare ops.jsonl ops.jsonl -o json
check "their unit" json "[(r['test'], r['unit'], r['a']) for r in rows] == [('add x n=1', 'ms', 2)]"
echo '[{"test": "pp8", "tokens_per_s": 1}]' >old.json
check "rows without measurements" run 65 bench compare old.json old.json
check "no rows" run 65 bench compare a.json "$SOURCE/README.md"
check "no file" run 66 bench compare a.json nowhere.json
check "one file" run 64 bench compare a.json
check "no part" run 64 bench
check "a bad list" run 64 bench model -p 5-2
check "a list is explained" says "64-512*2"
check "a bad size" run 64 bench model --synthetic 3b
check "a bad quantisation" run 64 bench model --quant nf4,nf5
check "no such shape" run 64 bench ops --shape nothing
check "which ops there are" says "attn_vision"
check "no such device" run 69 bench ops --device cuda:77 --op add
finish
