#!/bin/sh
# test_max_memory.sh MLLAMA SOURCE - --max-memory on a GPU (the shim's): quantises, then leaves layers in
# host memory, then refuses; the logits are those of the same weights all on the card.
set -u
MLLAMA=$1
SOURCE=$2
. "$SOURCE/tests/cli/checks.sh"
unset CUDA_VISIBLE_DEVICES
MODEL=$SOURCE/models/receipts-tiny
answer() { # CODE ARGS...: one run; its hash in $hash
    want=$1
    shift
    run "$want" run -m "$MODEL" -p a -n 3 -c 64 --device cuda -v "$@" || return 1
    hash=$(sed -n 's/.*logits //p' "$tmp/err")
}
total_of() { # QUANT: all of it on the card
    "$MLLAMA" plan -m "$MODEL" -c 64 --device cuda --quant "$1" --json |
        sed 's/.*"total":\([0-9]*\),"device".*/\1/'
}
same() { [ -n "$hash" ] && [ "$hash" = "$all" ]; }

dq=$(total_of nf4-dq)
check "nf4-dq, no limit" answer 0 --quant nf4-dq
all=$hash
check "just room for it" answer 0 --max-memory "$dq"
check "is said" says "quantised to nf4-dq while loading"
check "all on the card" sh -c "! grep -q 'host memory' '$tmp/err'"
check "the same logits" same
check "less room than that" answer 0 --max-memory $((dq - 1))
check "is said too" says "of 5 decoder layers, 0.00 GB, stay in host memory"
check "the same logits from there" same
check "no room" answer 78 --max-memory 1M
check "what is missing" says "are missing"
MLL_SHIM_MEMORY=$((97 << 20))
export MLL_SHIM_MEMORY
check "a full card, nothing asked for" answer 70
check "names both sizes" says "are needed with all decoder layers in host memory"
finish
