#!/bin/sh
# check.sh - the few rules that protect the architecture, by grep; the rest is judgement. Formatting
# is clang-format 14's. Prints what breaks a rule and ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/../.." || exit 1
export LC_ALL=C
tally=$(mktemp)
trap 'rm -f "$tally"' EXIT

# rule NAME: the rule holds if its stdin is empty. It runs in a pipe's subshell: the tally is a file.
rule() {
    found=$(cat)
    if [ -z "$found" ]; then
        echo passed >>"$tally"
    else
        echo failed >>"$tally"
        echo "style: $1:"
        echo "$found" | head -n 20 | sed 's/^/    /'
    fi
}
sources() { git ls-files -- "$@" | grep -E '\.(c|h|cu|cuh|cpp)$'; }

# Which folders a folder may include from.
for pair in "loader:loader engine/base.h" "tokenizer:tokenizer engine/base.h" \
    "kernels:kernels engine/base.h" "engine:engine kernels tokenizer loader" \
    "extract:extract engine loader" "tools:tools extract engine tokenizer loader kernels/ops.h kernels/sample.h bench/bench.h bench/ratio.h"; do
    folder=${pair%%:*}
    allowed=${pair#*:}
    sources "$folder" | while read -r file; do
        sed -n 's/^# *include "\([^"]*\)".*/\1/p' "$file" | while read -r header; do
            [ -e "$folder/$header" ] && continue
            ok=""
            for place in $allowed; do
                case $place in
                *.h) [ "${place##*/}" = "$header" ] && ok=1 ;;
                *) [ -e "$place/$header" ] && ok=1 ;;
                esac
            done
            case $header in version.h | shim.h) ok=1 ;; esac # generated; the tests' CUDA
            [ -n "$ok" ] || echo "$file includes $header"
        done
    done | rule "$folder includes only from: $allowed"
done

# Below tools/ nothing prints, exits or reads the environment. base.c holds MLL_ASSERT, device.cuh
# its like on the GPU.
sources loader tokenizer kernels engine extract | grep -vE '^(engine/base.c|kernels/device.cuh)$' |
    xargs grep -nE '(^|[^a-z_>.])(printf|puts|putchar|perror|exit|_exit|abort|getenv|setlocale)\(' |
    grep -vE ':[0-9]+: *(/?\*|//)' | rule "no output, exit or getenv below tools/"
sources loader tokenizer kernels engine extract | grep -v '^engine/base.c$' |
    xargs grep -nE '\b(stdout|stderr)\b' | grep -vE ':[0-9]+: *(/?\*|//)' |
    rule "no stdout or stderr below tools/"
git ls-files | grep -E '\.(c|h|cu|sh|py)$' | sed 's#.*/##' | sort | uniq -d |
    rule "file names are unique in the tree"
git ls-files | grep -E '\.(c|h|cu|cuh|cpp|py|sh)$' | grep -vE '^[a-z0-9_/.-]*$' | rule "names are lower case"
sed -n 's/^void \(op_[a-z0-9_]*\)(.*/\1/p' kernels/ops.h | while read -r op; do
    grep -qs "\b$op(" tests/ops/*.c || echo "$op: no test in tests/ops"
done | rule "every op has a test"
git ls-files | grep -vE '^(tests/style/check.sh|models/|bench/results/)' |
    xargs grep -nIE '(^|[^a-zA-Z0-9_.])/(home|opt|work|root|mnt)/' | rule "no paths of a machine"
git ls-files '*CMakeLists.txt' '*.cmake' | xargs grep -nE 'GLOB' | rule "sources are listed by hand"
sources . | xargs grep -nE '\b(TODO|FIXME|XXX)\b' | rule "no open ends in the source"
sources . | xargs awk 'length($0) > 110 { print FILENAME ":" FNR }' | rule "lines fit the screen"
while read -r file most; do
    [ ! -e "$file" ] || [ "$(wc -l <"$file")" -le "$most" ] || echo "$file: more than $most lines"
done <<LIMITS | rule "front pages stay short"
README.md 120
CONTRIBUTING.md 80
Makefile 60
LIMITS

# What the tour points at exists: files, and functions as name().
[ ! -e docs/TOUR.md ] || {
    grep -oE '`[a-z_]+/[a-z0-9_/.]+\.(c|h|cu|py|sh|safetensors)`' docs/TOUR.md | tr -d '`' | sort -u |
        while read -r file; do [ -e "$file" ] || echo "docs/TOUR.md: no file $file"; done
    grep -oE '`[a-z0-9_]+\(\)`' docs/TOUR.md | tr -d '`()' | sort -u | while read -r name; do
        sources . | xargs grep -qlw "$name" || echo "docs/TOUR.md: no function $name"
    done
} | rule "the tour's names exist"

format=$(command -v clang-format-14 || command -v clang-format)
if "${format:-false}" --version 2>/dev/null | grep -q 'version 14\.'; then
    sources . | xargs "$format" --dry-run -Werror 2>&1 | grep -E 'error:' | rule "clang-format"
else
    echo "style: clang-format 14 is not here: formatting not checked"
fi

passed=$(grep -c passed "$tally")
failed=$(grep -c failed "$tally")
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
