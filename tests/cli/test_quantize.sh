#!/bin/sh
# test_quantize.sh MLLAMA SOURCE MAKE_CHECKPOINT - quantize, and --quant, which does the same while
# loading.
set -u
MLLAMA=$1
SOURCE=$2
MAKE_CHECKPOINT=$3
. "$SOURCE/tests/cli/checks.sh"
MODEL=$SOURCE/models/receipts-tiny
PAGE=$SOURCE/models/samples/receipt-3974-0000.png
cd "$tmp" || exit 1

hash_of() { # ARGS...: the hash of the logits of one request
    "$MLLAMA" run -i "$PAGE" -p 'total?' -n 4 --device cpu -v "$@" 2>&1 >/dev/null | sed -n 's/.*logits //p'
}
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }
differ() { [ -n "$1" ] && [ -n "$2" ] && [ "$1" != "$2" ]; }
is_alone() { [ -z "$(find . -name '*.tmp*')" ] && [ ! -e "$1" ]; }

plain=$(hash_of -m "$MODEL")
for type in nf4 nf4-dq int8; do
    case $type in nf4) flags=--nf4 ;; nf4-dq) flags="--nf4 --double-quant" ;; int8) flags=--int8 ;; esac
    check "quantize $flags" run 0 quantize "$MODEL" "$type" $flags
    check "$type: no defects" run 0 check --deep "$type"
    stored=$(hash_of -m "$type")
    check "$type: other logits than plain" differ "$plain" "$stored"
    check "$type: --quant computes the same" same "$stored" "$(hash_of -m "$MODEL" --quant $type)"
    check "$type: the tokenizer is there" cmp "$MODEL/tokenizer.json" "$type/tokenizer.json"
    check "$type: the configuration says so" grep -q '"quant_method": "bitsandbytes"' "$type/config.json"
done
check "--skip none takes all" run 0 quantize "$MODEL" all --nf4 --skip none
check "and is smaller" sh -c '[ $(wc -c <all/model.safetensors) -lt $(wc -c <nf4/model.safetensors) ]'
check "which reads" run 0 check all
check "--skip of everything" run 0 quantize "$MODEL" none --int8 --skip language_model --skip lm_head \
    --skip vision_model --skip multi_modal_projector
check "changes no number" same "$plain" "$(hash_of -m none)"

int8=$(hash_of -m nf4 --compute int8)
check "--compute int8: other logits" differ "$int8" "$(hash_of -m nf4)"
check "the same by plain C, one thread and other chunks" same "$int8" \
    "$(hash_of -m nf4 --compute int8 --isa c -t 1 --prefill-chunk 3)"
check "no other logits of 16-bit weights" same "$plain" "$(hash_of -m "$MODEL" --compute int8)"

check "plan of a model without files" run 0 plan --synthetic 11b -c 4096 --device cpu --json
check "has every choice" prints '"quant":"nf4-dq"'
# The figures of docs/MODEL.md may drift by what a scratch takes; what fits where may not.
verdicts() { sed -n "/^| $1 |/,/^\$/p" | cut -d'|' -f2,3,5-8 | sed 's/[0-9.]* GB left/room/g;
    s/[0-9]* layers streamed, [0-9.]* s a token/streamed/g; s/[0-9.]* GB missing/none/g'; }
for size in 11b 90b; do
    "$MLLAMA" plan --synthetic $size --cards --device cpu >cards
    verdicts $size <cards >now
    verdicts $size <"$SOURCE/docs/MODEL.md" | sed '/^$/d' >told
    check "plan --cards $size: four choices" [ "$(wc -l <now)" -eq 6 ]
    check "docs/MODEL.md has plan's table of $size" diff now told
done
check "memory enough" run 0 run -p a -n 1 --device cpu --max-memory 1G
check "nothing said" sh -c "! grep -q quantised '$tmp/err'"
plan=$("$MLLAMA" plan --device cpu --json | sed 's/.*"total":\([0-9]*\),"device".*/\1/')
check "memory for int8 only" run 0 run -p a -n 1 --device cpu --max-memory $((plan - 1000000))
check "is said" says "quantised to int8"

check "an existing directory is left alone" run 73 quantize "$MODEL" nf4 --nf4
check "a directory that cannot be" run 73 quantize "$MODEL" nowhere/nf4 --nf4
check "no type" run 64 quantize "$MODEL" x
check "a pattern that is misspelt" run 64 quantize "$MODEL" x --nf4 --skip lm_haed
check "says so" grep -q "no weight has 'lm_haed' in its name" err
check "--json" run 0 quantize "$MODEL" as-json --nf4 --json
check "one object" grep -q '^{"model":"as-json","quant":"nf4","bytes_read":[0-9]*,"seconds":[0-9.]*}$' out
check "plan within a limit" run 0 plan --synthetic 11b --max-memory 12G --json --device cpu
check "what it is" grep -q '"available":12884901888,"fits":false' out
check "nf4 fits there" grep -q '"quant":"nf4","weights":[0-9]*,"total":[0-9]*,"fits":true' out
check "plan says what is missing" run 0 plan --max-memory 1M --device cpu
check "in MiB" grep -q 'it does not fit, [0-9.]* MiB are missing' out
check "plan --cards --json" run 0 plan --cards --json --device cpu
check "an array" python3 -c 'import json; a = json.load(open("out")); assert len(a[0]["machines"]) == 5'
check "two types" run 64 quantize "$MODEL" x --nf4 --int8
check "--double-quant alone" run 64 quantize "$MODEL" x --int8 --double-quant
check "one operand" run 64 quantize "$MODEL" --nf4
check "quantised twice" run 65 quantize nf4 x --int8
check "no source" run 66 quantize nowhere x --nf4
cp -r "$MODEL" damaged
tr '\0' '\377' </dev/zero | dd of=damaged/model.safetensors bs=64k seek=8 count=110 conv=notrunc 2>dd.log
check "NaN is refused" run 65 quantize damaged x --nf4
check "by name" says "weight_nan"
check "nothing half written is left" is_alone x

# Interrupted: 2.5 GB of zeros on no disk space are quantised for a second or more.
mkdir big
cp "$SOURCE/bench/configs/decoder-1b/config.json" big
"$MAKE_CHECKPOINT" big big/model.safetensors
start_big() { # ends when the new weights are being written
    "$MLLAMA" quantize big x --nf4 >out 2>err &
    pid=$!
    until [ -n "$(find x.quantize.tmp -name '*.tmp' 2>/dev/null)" ] || ! kill -0 $pid; do sleep 0.01; done
}
ends_with() { # SIGNAL CODE
    kill -"$1" $pid
    wait $pid 2>/dev/null
    [ $? -eq "$2" ]
}
for signal in "INT 130" "TERM 143"; do
    start_big
    check "SIG$signal" ends_with $signal
    check "leaves nothing" is_alone x
done
start_big
check "another process is not disturbed" run 73 quantize "$MODEL" x --nf4
check "and named" says "another process is writing it"
check "SIGKILL" ends_with KILL 137
check "leaves no directory of that name" [ ! -e x ]
check "but a temporary one" [ -d x.quantize.tmp ]
check "which the next run takes over" run 0 quantize "$MODEL" x --nf4
check "nothing of the first is left" [ "$(ls x)" = "$(ls nf4)" ]
check "nor beside it" [ ! -e x.quantize.tmp ]

# Where it cannot be written.
limited() { (ulimit -f 100 && run 74 quantize "$MODEL" y --nf4); }
check "a file that may not grow" limited
check "the reason is named" says "File too large"
check "nothing is left of it" is_alone y
mkdir disk
on_disk() { # OPTIONS CODE: quantize to a file system of its own
    unshare -rm sh -c "mount -t tmpfs -o $1 none disk && \"\$0\" quantize \"\$1\" disk/y --nf4; echo \$? >code
        ls -A disk" "$MLLAMA" "$MODEL" >out 2>err
    [ "$(cat code)" -eq "$2" ] && [ ! -s out ]
}
if unshare -rm mount -t tmpfs none disk 2>/dev/null; then
    check "a small disk, nothing left" on_disk size=4m 74
    check "both sizes are told" grep -Eq 'needs [0-9]+ bytes .*, 4194304 are free' err
    check "a disk that may not be written" on_disk ro 73
    check "is said" grep -q 'Read-only file system' err
fi

# Progress: on a terminal only.
check "no terminal" run 0 quantize "$MODEL" piped --int8
check "one line at the end" [ "$(wc -l <err)" -eq 1 ]
if command -v script >/dev/null; then
    script -qec "'$MLLAMA' quantize '$MODEL' z --int8" log </dev/null >terminal
    check "a terminal sees the rate and what is left" grep -q 'MiB/s  0:00 left' terminal
fi
finish
