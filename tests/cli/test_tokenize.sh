#!/bin/sh
# test_tokenize.sh MLLAMA SOURCE - JSON lines to ids and back: one line out per line in.
set -u
MLLAMA=$1
SOURCE=$2
. "$SOURCE/tests/cli/checks.sh"
SMALL=$SOURCE/tests/golden/tokenizer/small
cd "$tmp" || exit 1

# lines TEXT: fed to the next run
lines() { printf '%b' "$1" >in; }
# tok CODE ARGS...: run with the lines as stdin
tok() { run "$@" <in; }
# line N TEXT: line N of stdout is TEXT
line() { [ "$(sed -n "$1p" out)" = "$2" ]; }

lines '{"text":"<|eot_id|>a"}\n{"text":""}\n{"text":"\\u0000\\ud83d\\ude00"}'
check "texts to ids" tok 0 tokenize -m "$SMALL"
check "special tokens are parsed" line 1 '{"ids":[909,64]}'
check "an empty text has no ids" line 2 '{"ids":[]}'
check "the last line needs no line end" [ "$(wc -l <out)" -eq 3 ]
cp out in
check "ids to texts" tok 0 tokenize --decode -m "$SMALL"
check "special tokens keep their text" line 1 '{"text":"<|eot_id|>a"}'
check "output is ASCII, U+0000 too" line 3 '{"text":"\u0000\uD83D\uDE00"}'
lines '{"text":"<|eot_id|>a"}\n'
check "--no-special" tok 0 tokenize --no-special -m "$SMALL"
check "special tokens are text" [ "$(tr , '\n' <out | wc -l)" -gt 3 ]
lines '{"ids":[188,64]}\n{"ids":[189]}\n'
check "ids that are no UTF-8" tok 0 tokenize --decode -m "$SMALL/tokenizer.model"

lines 'x\n\n{"a":1}\n{"text":"\\ud800"}\n{"text":5}\n{"text":"a"}\n'
check "bad lines fail in the end" tok 1 tokenize -m "$SMALL"
check "each bad line has its line" [ "$(grep -c '"error":{"code":"line_invalid"' out)" -eq 5 ]
check "good lines still work" line 6 '{"ids":[64]}'
lines '{"ids":[99999]}\n{"ids":[-1]}\n{"ids":["a"]}\n{"ids":5}\n{"ids":[64]}\n'
check "ids out of range fail in the end" tok 1 tokenize --decode -m "$SMALL"
check "they are named" line 1 \
    '{"error":{"code":"token_id_out_of_range","message":"ids[0] is no token of this tokenizer"}}'
check "and the others work" line 5 '{"text":"a"}'
check "no tokenizer" tok 66 tokenize -m "$SOURCE/engine"
check "no directory" tok 66 tokenize -m "$tmp/nowhere"
mkdir broken && echo '{"model":{}}' >broken/tokenizer.json
check "a broken tokenizer" tok 65 tokenize -m broken
check "its file is named" says "broken/tokenizer.json"
finish
