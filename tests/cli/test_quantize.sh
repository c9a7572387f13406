#!/bin/sh
# test_quantize.sh MLLAMA SOURCE - quantize, and --quant, which does the same while loading.
set -u
MLLAMA=$1
SOURCE=$2
. "$SOURCE/tests/cli/checks.sh"
MODEL=$SOURCE/models/receipts-tiny
PAGE=$SOURCE/models/samples/receipt-3974-0000.png
cd "$tmp" || exit 1

hash_of() { # ARGS...: the hash of the logits of one request
    "$MLLAMA" run -i "$PAGE" -p 'total?' -n 4 --device cpu -v "$@" 2>&1 >/dev/null | sed -n 's/.*logits //p'
}
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }
differ() { [ -n "$1" ] && [ -n "$2" ] && [ "$1" != "$2" ]; }
is_alone() { [ -z "$(find . -name '*.tmp')" ] && [ ! -e "$1" ]; }

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

check "plan of a model without files" run 0 plan --synthetic 11b -c 4096 --device cpu --json
check "has every choice" prints '"quant":"nf4-dq"'
check "memory enough" run 0 run -p a -n 1 --device cpu --max-memory 1G
check "nothing said" sh -c "! grep -q quantised '$tmp/err'"
plan=$("$MLLAMA" plan --device cpu --json | sed 's/.*"total":\([0-9]*\),"device".*/\1/')
check "memory for int8 only" run 0 run -p a -n 1 --device cpu --max-memory $((plan - 1000000))
check "is said" says "quantised to int8"

check "an existing directory is left alone" run 73 quantize "$MODEL" nf4 --nf4
check "a directory that cannot be" run 73 quantize "$MODEL" nowhere/nf4 --nf4
check "no type" run 64 quantize "$MODEL" x
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
finish
