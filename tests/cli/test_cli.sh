#!/bin/sh
# test_cli.sh MLLAMA SOURCE - every command's exit codes, help, environment, prompts.
set -u
MLLAMA=$1
SOURCE=$2
. "$SOURCE/tests/cli/checks.sh"
MODEL=$SOURCE/models/receipts-tiny
PAGE=$SOURCE/models/samples/receipt-3974-0000.png
cd "$tmp" || exit 1

# help and names
check "no command is a usage error" run 64
check "--help" run 0 --help
check "help lists the exit codes" prints "78 configuration"
for command in extract run trace tokenize check plan quantize eval bench repro info; do
    check "$command -h" run 0 $command -h
    check "$command -h has examples" prints "mllama $command"
    check "help names $command" sh -c "'$MLLAMA' --help | grep -q '^  $command '"
done
check "--version" run 0 --version
check "the version is the library's" prints "mllama 0."
check "info --json" run 0 info --json
check "info tells the commit" prints '"commit":"'
check "misspelt command" run 64 extrat
check "a near command is named" says "did you mean extract"
check "misspelt option" run 64 run --max-new-token 3
check "a near option is named" says "did you mean --max-new-tokens"
check "the man page has every option" sh -c "'$MLLAMA' man | grep -q 'no\\\\*-repeat\\\\*-ngram'"
check "completion is bash" sh -c "'$MLLAMA' completion | bash -n"

# usage, configuration, devices, inputs
check "run without a prompt" run 64 run
check "two prompts" run 64 run -p a --ids 1
check "an operand of run" run 64 run -p a b
check "trace without -o" run 64 trace -p a
check "eval without a file" run 64 eval
check "extract without inputs" run 64 extract
check "bad shard" run 64 extract --shard 3/3 x.png
check "no such model" run 66 run -m nowhere -p a
check "no such name in the cache" run 66 run -m org/name -p a
check "no such image" run 66 run -p a -i nowhere.png
check "no CUDA device" run 69 run -p a --device cuda:99
check "the GPU's switches do no harm on the CPU" run 0 run -p a -n 1 --device cpu --debug-sync --debug-bounds --fast --no-early
check "info names the devices" run 0 info
check "the CPU is one" prints "cpu"
check "a device that is none" run 64 run -p a --device gpu
check "nor this" run 64 run -p a --device cuda:x
check "a size that is none" run 64 plan --synthetic 7b
check "the words of others" run 64 run -p a --temp 0
check "are known" grep -q 'did you mean --temperature' err
check "auto that was asked for" run 0 run -p a -n 1 --device auto --threads 1
check "bench of nothing" run 64 bench model -p 0 -n 0
check "a file that is not there" run 66 check nosuch.gguf
check "too little memory allowed" run 78 run -p a --max-memory 1K
check "both numbers are told" says "allows 1024"
check "no such directory" run 66 check nowhere
check "a directory without config.json" run 65 check "$tmp"
check "the same of plan" run 65 plan "$tmp"
echo text >page.png
check "not an image" run 65 run -p a -i page.png
check "the reason is named" says "not_an_image"
check "cannot create" run 73 trace -p a -i "$PAGE" -o nowhere/t.safetensors
check "a full disk" sh -c "'$MLLAMA' info >/dev/full 2>err; [ \$? -eq 74 ]"
check "a closed pipe" sh -c "{ '$MLLAMA' run -i '$PAGE' -p a --json 2>err; echo \$? >code; } | :; [ \$(cat code) -ne 139 ]"

# flag > variable > .env > default
echo "MLLAMA_THREADS=zero" >.env
check "a bad .env is a configuration error" run 78 plan "$MODEL"
check "it is named" says "MLLAMA_THREADS (.env)"
check "a variable goes before .env" env MLLAMA_THREADS=1 "$MLLAMA" plan "$MODEL" -c 64
check "a flag goes before it" run 0 plan "$MODEL" -t 1
check "help works all the same" run 0 plan -h
echo "LLAMA_MODEL_PATH='$MODEL'" >.env
check "the model from .env" run 0 info
check "it is used" prints "$MODEL"
echo "CUDA_LAUNCH_BLOCKING=1" >>.env
check "CUDA_LAUNCH_BLOCKING from .env" run 0 run -p a -n 1 --device cpu
check "LLAMA_MODEL_PATH goes before .env" sh -c "LLAMA_MODEL_PATH=/other '$MLLAMA' info | grep -q /other"
check "MLLAMA_MODEL goes before it" sh -c "MLLAMA_MODEL=/own LLAMA_MODEL_PATH=/other '$MLLAMA' info | grep -q /own"
check "-m goes before both" env LLAMA_MODEL_PATH=/other "$MLLAMA" check -m "$MODEL"
rm .env
mkdir -p hub/models--org--tiny/refs hub/models--org--tiny/snapshots
echo abc >hub/models--org--tiny/refs/main
ln -s "$MODEL" hub/models--org--tiny/snapshots/abc
check "a name in the Hugging Face cache" env HF_HUB_CACHE="$tmp/hub" "$MLLAMA" check -m org/tiny
check "its revision" env HF_HUB_CACHE="$tmp/hub" "$MLLAMA" check -m org/tiny@main

# repro: the assert in a child, and nothing of it here
check "repro" run 0 repro
check "the line names file, block, thread and condition" grep -qE "^smallest  assert  kernels/lists.h:[0-9]+: block: \[0,0,0\], thread: \[0,0,0\] Assertion .index >= 0 && index < bound. failed: index 128256, bound 128256" "$tmp/out"
check "the image token of a prompt is skipped" grep -qE "^prompt    skip    skipped [1-9][0-9]* times, counted; an answer" "$tmp/out"
check "repro --json" run 0 repro --case smallest --json
check "it is JSON" python3 -c "
import json
a, s = json.load(open('$tmp/out'))
assert a['mode'] == 'assert' and a['as_expected'] and a['block'] == [0, 0, 0] and a['line'] > 0
assert s['mode'] == 'skip' and s['as_expected'] and s['ids_skipped'] == 1 and s['alive']"
check "the assert itself ends the process" sh -c "'$MLLAMA' repro --case smallest --mode assert 2>err; [ \$? -eq 134 ] && grep -q 'Assertion .index' err"

# check, plan, tokenize
check "the embedded model is sound" run 0 check "$MODEL" --deep
check "check --json" run 0 check "$MODEL" --json
check "no findings" prints '"findings":[],"status":"ok"'
cp -rL "$MODEL" broken && head -c 100000 "$MODEL/model.safetensors" >broken/model.safetensors
check "a cut model" run 65 check broken
check "plan --json" run 0 plan "$MODEL" --json
check "plan has a total" prints '"total":'
check "plan of a quantised model" run 0 plan "$MODEL" --quant nf4 --device cpu
check "plan says so" prints 'weights in nf4'
echo '{"text":"TOTAL 12.34"}' | "$MLLAMA" tokenize >ids 2>err
check "tokenize and back" sh -c "'$MLLAMA' tokenize --decode <ids | grep -qF '{\"text\":\"TOTAL 12.34\"}'"

# run
check "dry run" run 0 run -i "$PAGE" -p 'Say <|eot_id|>' --dry-run
check "a user's special token is text" prints 'Say <|eot_id|>'
check "text without an image" run 0 run -p hello -n 2 --json
check "max new tokens" prints '"finish":"length"'
check "raw needs as many images as image tokens" run 65 run --raw -p '<|image|>' -n 1
check "the mismatch is named" says "image_count_mismatch"
check "ids beyond the embedding" run 65 run --ids 99999999 -n 1
check "a prompt that does not fit" run 65 run -c 8 -p "a long prompt that takes more than eight tokens"
check "both numbers are named" says "8"
check "a list that is none" run 64 run -p a --eos x
check "bad words that are none" run 64 run -p a --bad-words '{"a":1}'
check "greedy answer" run 0 run -i "$PAGE" -p x -n 8 --json
cp out greedy
check "temperature 0 is greedy whatever else" run 0 run -i "$PAGE" -p x -n 8 --json --temperature 0 --top-k 5
check "the same text" sh -c "cut -d, -f1-9 greedy >a; cut -d, -f1-9 out >b; cmp -s a b"
for threads in 1 2 3; do
    "$MLLAMA" run -i "$PAGE" -p x -n 8 --json -t $threads | grep -o '"logits_hash.*' >hash$threads
done
check "the same bits for any threads" sh -c "cmp -s hash1 hash2 && cmp -s hash1 hash3"
"$MLLAMA" run -i "$PAGE" -p x -n 8 --json --isa c | grep -o '"logits_hash.*' >hash_c
check "the same bits for plain C" cmp -s hash1 hash_c
check "streamed text is the text" sh -c "'$MLLAMA' run -i '$PAGE' -p x -n 8 2>err >streamed && [ -s streamed ]"
check "a suppressed token does not come" sh -c \
    "id=\$(grep -o '\"ids\":\[[0-9]*' greedy | grep -o '[0-9]*$');
     '$MLLAMA' run -i '$PAGE' -p x -n 8 --json --suppress-tokens \$id | grep -o '\"ids\":[^]]*' |
     grep -qvE \"[[,]\$id(,|\$)\""
echo '{"messages":[{"role":"user","content":[{"type":"image"},{"type":"text","text":"x"}]}]}' >chat.json
check "a chat file" run 0 run --chat chat.json -i "$PAGE" -n 8 --json
check "the same as -p" sh -c "cut -d, -f1-9 out >b; cut -d, -f1-9 greedy >a; cmp -s a b"
check "a chat with more images than files" run 65 run --chat chat.json -n 8
echo '{"messages":5}' >chat.json
check "a chat file that is none" run 65 run --chat chat.json

# trace
check "trace" run 0 trace -i "$PAGE" -p x -n 4 -o a.safetensors
check "trace again" run 0 trace -i "$PAGE" -p x -n 4 -o b.safetensors -t 3
check "the same bytes" cmp -s a.safetensors b.safetensors
check "no difference" run 0 trace --diff a.safetensors b.safetensors
check "trace of another page" run 0 trace -i "$SOURCE/models/samples/receipt-3974-0001.png" -p x -n 4 -o b.safetensors
check "difference" run 1 trace --diff a.safetensors b.safetensors
check "it starts with the pixels" sh -c "head -n 1 out | grep -q '^pixel_values'"
check "diff of what is no trace" run 65 trace --diff a.safetensors page.png
check "until a stage" run 0 trace -i "$PAGE" -p x -o c.safetensors --until vision
check "nothing after it" sh -c "! grep -q logits c.safetensors && grep -q vision_last_hidden c.safetensors"

# signals
"$MLLAMA" run -i "$PAGE" -p x -n 100000 -c 16777216 --eos 0 >/dev/null 2>&1 &
pid=$!
sleep 0.3
kill -TERM $pid 2>/dev/null
wait $pid
code=$?
check "SIGTERM or a refusal, never a crash ($code)" [ $code -eq 143 -o $code -eq 65 -o $code -eq 70 -o $code -eq 78 ]
finish
