#!/bin/sh
# test_extract.sh MLLAMA SOURCE - extract over folders, odd names, damaged files, interruptions.
set -u
MLLAMA=$1
SOURCE=$2
. "$SOURCE/tests/cli/checks.sh"
SAMPLES=$SOURCE/models/samples
PAGE=$SAMPLES/receipt-3974-0000.png
cd "$tmp" || exit 1
lines() { [ "$(wc -l <"$1")" -eq "$2" ]; }
# json FILE EXPRESSION: true for every line, r being the record.
json() { python3 -c "import json,sys
for line in open(sys.argv[1]):
    r = json.loads(line)
    assert $2, line" "$1" 2>"$tmp/why"; }
without_times() { sed 's/"seconds":[0-9.]*/"seconds":0/' "$1" | sort; }

# one page
check "one page" run 0 extract "$PAGE"
check "one line" lines out 1
check "a record" json out "r['status'] == 'ok' and r['error'] is None and len(r['sha256']) == 64"
check "all fields" json out "list(r['fields']) == ['store_name', 'date', 'total_amount', 'payment_method', 'items']"
check "of four members" json out "all(set(f) == {'value', 'raw', 'status', 'confidence'} for f in r['fields'].values())"
check "confidences are probabilities" json out "all(0 <= f['confidence'] <= 1 for f in r['fields'].values())"
check "tokens, time and hash" json out "r['tokens']['prompt'] > 0 and r['tokens']['generated'] > 0 and r['seconds'] > 0 and len(r['logits_hash']) == 16"
check "the demonstration says so" json out "'demonstration' in r['warning']"
check "on stderr too" says "demonstration"
check "the hash is sha256sum's" sh -c "grep -q \$(sha256sum <'$PAGE' | cut -c1-64) out"
check "the answer is text" json out "r['text'].startswith('{')"

# a folder of everything
mkdir -p in/sub/deeper in/.hidden
cp "$PAGE" in/a.png
cp "$PAGE" in/sub/A.PNG
cp "$SAMPLES/receipt-3974-0001.png" in/sub/deeper/b.jpeg
cp "$PAGE" in/.hidden/no.png
: >in/empty.png
echo 'not a picture' >in/text.jpg
head -c 700 "$PAGE" >in/cut.png
printf 'x' >in/notes.txt
ln -s .. in/sub/loop
ln -s nowhere in/dangling.png
mkfifo in/pipe.png
cp "$PAGE" "in/$(printf 'caf\351').png"
cp "$PAGE" "in/new
line.png"
check "a folder with damaged files ends with 1" run 1 extract in -o out.jsonl
check "every document has its line" lines out.jsonl 10
check "the damaged ones say why" sh -c "grep -o '\"code\":\"[a-z_]*' out.jsonl | sort | tr '\n' ' ' | grep -q \
    'image_truncated.*io.*not_an_image.*not_an_image.*not_found'"
check "the good ones are read" sh -c "[ \$(grep -c '\"status\":\"ok\"' out.jsonl) -eq 5 ]"
check "hidden files stay out" sh -c "! grep -q hidden out.jsonl"
check "what was passed over is told" says "1 other files"
check "a name that is not UTF-8 comes as bytes" sh -c "grep -q '\"file_b64\":\"'\$(printf 'in/caf\351.png' | base64) out.jsonl"
check "a name with a line break is one line" sh -c 'grep -q "new.nline.png" out.jsonl'
check "the lines are JSON" json out.jsonl "r['status'] in ('ok', 'failed')"
cp out.jsonl first.jsonl
check "a second run adds nothing" run 1 extract in -o out.jsonl
check "the file is as it was" cmp -s out.jsonl first.jsonl
check "a named file is judged by its content" sh -c "cp '$PAGE' page.txt; '$MLLAMA' extract page.txt 2>err | grep -q '\"status\":\"ok\"'"

# inputs
check "a pattern" run 0 extract 'in/sub/*.PNG'
check "a pattern's file" json out "r['file'] == 'in/sub/A.PNG'"
check "nothing there" run 66 extract nowhere
check "nothing but one" run 1 extract nowhere "$PAGE"
check "both have lines" lines out 2
check "the same file twice is one document" sh -c "'$MLLAMA' extract '$PAGE' '$PAGE' 2>err | wc -l | grep -qx 1"
mkdir none
check "an empty folder" run 66 extract none
check "a name that starts with a dash" sh -c "cp '$PAGE' ./-x.png; '$MLLAMA' extract -- -x.png >out 2>err"

# shards
for i in 0 1 2; do "$MLLAMA" extract "$SAMPLES" --shard $i/3 -o s$i.jsonl 2>/dev/null; done
cat s0.jsonl s1.jsonl s2.jsonl >shards.jsonl
"$MLLAMA" extract "$SAMPLES" -o all.jsonl 2>/dev/null
without_times shards.jsonl >x && without_times all.jsonl >y
check "shards together are the whole, bit for bit" cmp -s x y
check "every shard has a part" sh -c "[ -s s0.jsonl ] && [ -s s1.jsonl ] && [ -s s2.jsonl ]"

# outputs
check "the table is headed by the fields" sh -c "'$MLLAMA' extract '$PAGE' --table 2>err | head -n 1 | grep -q 'store_name *date *total_amount *payment_method'"
check "cannot create" run 73 extract "$PAGE" -o nowhere/out.jsonl
echo "my notes" >notes
check "somebody's file is refused" run 74 extract "$PAGE" -o notes
check "and stays" sh -c "grep -qx 'my notes' notes"
check "a full disk" sh -c "'$MLLAMA' extract '$PAGE' -o /dev/full 2>err; [ \$? -eq 74 ]"
check "a closed pipe" sh -c "{ '$MLLAMA' extract '$SAMPLES' 2>err; echo \$? >code; } | head -c 1 >/dev/null; [ \$(cat code) -eq 74 ]"

cp -r "$SAMPLES" 'sam"ples'
check "CSV" run 0 extract 'sam"ples' -o out.csv
check "a spreadsheet reads it" python3 -c "import csv
rows = list(csv.DictReader(open('out.csv', newline='')))
assert len(rows) == 12 and rows[0]['file'].startswith('sam\"ples/') and rows[0]['payment_method_status'], rows[0]"
check "a JSON array" run 0 extract "$SAMPLES" -o out.json
check "which is one" python3 -c "import json; assert len(json.load(open('out.json'))) == 12"
check "it is continued too" run 0 extract "$SAMPLES" -o out.json
check "nothing twice" python3 -c "import json; assert len(json.load(open('out.json'))) == 12"

# interruptions
head -c 1500 all.jsonl >torn.jsonl
"$MLLAMA" extract "$SAMPLES" -o torn.jsonl 2>/dev/null
without_times torn.jsonl >x
check "a torn file is completed" cmp -s x y
for signal in INT:130 TERM:143 KILL:137; do
    rm -f k.jsonl
    "$MLLAMA" extract "$SAMPLES" -o k.jsonl 2>/dev/null &
    pid=$!
    while [ ! -s k.jsonl ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
    kill -${signal%:*} $pid 2>/dev/null
    wait $pid
    code=$?
    check "SIG${signal%:*} ends with ${signal#*:} or all was done" [ $code -eq ${signal#*:} -o $code -eq 0 ]
    "$MLLAMA" extract "$SAMPLES" -o k.jsonl 2>/dev/null
    without_times k.jsonl >x
    check "and the second run completes it" cmp -s x y
done
"$MLLAMA" extract "$SAMPLES" -o race.jsonl 2>err1 &
first=$!
"$MLLAMA" extract "$SAMPLES" -o race.jsonl 2>err2
second=$?
wait $first
without_times race.jsonl >x
check "two processes on one file: one is refused or comes after" cmp -s x y

# pages that say things
check "a page that is no receipt" run 0 extract "$SOURCE/tests/golden/images/base_420.jpg"
check "invents nothing" json out "all(f['value'] is None or f['confidence'] < 1 for f in r['fields'].values())"
check "the longest answer is bounded" run 0 extract "$PAGE" -n 5
check "the cut is told" json out "'cut' in r['warning']"
check "a cut value is no value" json out "r['fields']['total_amount']['value'] is None"
head -n 2 "$SAMPLES/truth.jsonl" | sed "s#\"file\": \"#&$SAMPLES/#" >truth.jsonl
check "eval" run 0 eval truth.jsonl
check "eval prints shares" json out "0 <= r['date'] <= 1"
echo '{"file":"x"}' >bad.jsonl
check "eval of what is no truth" run 65 eval bad.jsonl
finish
