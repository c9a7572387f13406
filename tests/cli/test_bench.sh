#!/bin/sh
# test_bench.sh MLLAMA SOURCE - mllama bench: its rows, formats, lists and comparisons, not its speed.
set -u
MLLAMA=$1
SOURCE=$2
. "$SOURCE/tests/cli/checks.sh"
cd "$tmp" || exit 1

# json EXPRESSION: true of `rows`, the list on stdout
json() {
    python3 -c "import json, sys; rows = json.load(open('$tmp/out')); sys.exit(not ($1))"
}

check "bench model" run 0 bench model -p 8,16 -n 4 -r 2 -o json
check "a row a test" json "[r['test'] for r in rows] == ['pp8', 'pp16', 'tg4']"
check "rates and their spread" json "all(0 < r['p10'] <= r['tokens_per_s'] <= r['p90'] for r in rows)"
check "decoding beside the memory" json \
    "rows[2]['bytes_per_token'] > 1e6 and rows[2]['read_gb_s'] > 0 and rows[2]['bandwidth_share'] > 0"
cp out a.json
check "image and batch" run 0 bench model -p 0 -n 2 -r 1 --image 1 -b 1,2 -o json
check "their tests" json "[r['test'] for r in rows] == ['vision1', 'tg2@1', 'tg2@2']"
check "ranges" run 0 bench model -p 4-8+2,2-4*2 -n 0 -r 1 -o json
check "what a range holds" json "[r['test'] for r in rows] == ['pp4', 'pp6', 'pp8', 'pp2', 'pp4']"
check "a prompt and tokens" run 0 bench model -p 0 -n 0 --pg 4,2 -r 1 -o jsonl
check "one object a line" sh -c "head -n 1 out | grep -q '\"test\":\"pp4+tg2\"'"
check "csv" run 0 bench model -p 2 -n 0 -r 1 -o csv
check "csv has a head" sh -c "head -n 1 out | grep -q '^test,tokens_per_s,p10,p90,'"
check "sql" run 0 bench model -p 2 -n 0 -r 1 -o sql
check "sql is SQLite's" python3 -c \
    "import sqlite3; d = sqlite3.connect(':memory:'); d.executescript(open('$tmp/out').read()); d.execute('select test from bench_model').fetchone()[0] == 'pp2' or exit(1)"
check "bench ops" run 0 bench ops --op rmsnorm -r 2 -o json
check "the same as the plain form" json "len(rows) == 2 and all(r['difference'] == 0 for r in rows)"

sed 's/"tokens_per_s":[0-9.]*/"tokens_per_s":1e9/; s/"p10":[0-9.]*/"p10":1e9/; s/"p90":[0-9.]*/"p90":1e9/' \
    a.json >b.json # the first row only
check "compare with itself" run 0 bench compare a.json a.json -o json
check "same" json "[r['verdict'] for r in rows] == ['same'] * 3"
check "faster" run 0 bench compare a.json b.json -o json
check "by so much" json "rows[0]['verdict'] == 'faster' and rows[0]['ratio'] > 1"
check "slower is exit 1" run 1 bench compare b.json a.json
check "no rows" run 65 bench compare a.json "$SOURCE/README.md"
check "no file" run 66 bench compare a.json nowhere.json
check "one file" run 64 bench compare a.json
check "no part" run 64 bench
check "a bad list" run 64 bench model -p 5-2
check "a list is explained" says "64-512*2"
check "a bad size" run 78 bench model --synthetic 3b
check "no such shape" run 64 bench ops --shape nothing
finish
