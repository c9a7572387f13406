# checks.sh - shared by the shell tests: sourced with MLLAMA and SOURCE set.
passed=0
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset LLAMA_MODEL_PATH HF_HOME HF_HUB_CACHE XDG_CACHE_HOME
export LC_ALL=C
export CUDA_VISIBLE_DEVICES="" # the CPU's answers are expected

# check NAME CONDITION...: one test.
check() {
    what=$1
    shift
    if "$@" >"$tmp/log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL: $what"
        echo "  stdout: $(head -c 600 "$tmp/out" 2>/dev/null)"
        echo "  stderr: $(head -c 600 "$tmp/err" 2>/dev/null)"
    fi
}
# run CODE ARGS...: the command's exit code; its streams are in $tmp/out and $tmp/err.
run() {
    want=$1
    shift
    "$MLLAMA" "$@" >"$tmp/out" 2>"$tmp/err"
    got=$?
    [ $got -eq "$want" ] || echo "  exit $got instead of $want: mllama $*" >&2
    [ $got -eq "$want" ]
}
says() { grep -qF -- "$1" "$tmp/err"; }
prints() { grep -qF -- "$1" "$tmp/out"; }
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
