#!/usr/bin/env python3
"""Breaks the kernels in small ways and demands that the op tests notice.

    mutants.py [--rotate] [--list] [FILE...]      (make mutants; default: every kernel source)

A mutant lacks one barrier, one wait for cp.async or for the kernel in front, or one bounds guard: a
relation in the condition of an if or of a choice between a load and a constant, or in a bool, that is
taken to hold (where it leads out of the code: not to hold), or one in_bounds() that lets every index
pass or is not called. All mutants of a file are compiled at once, chosen at run time by MLL_MUTANT,
once for each code path (sm_70, sm_80) and build (build-asan, build, build-race: `make test asan race`
makes them). A mutant is noticed when a test of its op fails, crashes, hangs or is reported by a
sanitizer in one of them.

At least 95 % must be noticed, and each survivor must stand in survivors.txt with the reason why it changes
no result; of equal ones in a file the second is called `... #2`. --rotate takes one file, by the commit, for CI, and leaves out its
mutants that are explained there. Ends with `N passed, N failed`: mutants that were noticed or explained,
and others."""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels"
OUT = ROOT / "build-mutants"
SURVIVORS = pathlib.Path(__file__).with_name("survivors.txt")
SHARE = 0.95
TIMEOUT = 300
ARCHS = ("800", "700")
# build folder, environment; the quickest to notice most comes first
MODES = (
    ("build", {}),
    ("build", {"MLL_SHIM_SCHEDULE": "descending"}),
    ("build-asan", {"MLL_SHIM_SCHEDULE": "5"}),
    ("build-race", {"MLL_SHIM_SCHEDULE": "5", "TSAN_OPTIONS": "halt_on_error=1"}),
)
# Which op tests see a file; default: the one of its name.
TESTS = {
    "attn_decode.cu": ["attn"],
    "attn_mma.cuh": ["attn_vision", "attn"],
    "device.cuh": ["norm", "gather_rows", "logits", "kv_append", "attn"],
    "gemm.cu": ["matmul", "matmul_ends"],
    "gemm_quant.cu": ["matmul_quant", "matmul_ends"],
    "gemm_tile.cuh": ["matmul", "matmul_quant", "matmul_ends"],
    "gemv.cu": ["matmul"],
    "gemv_quant.cu": ["matmul_quant"],
    "gemv_tile.cuh": ["matmul", "matmul_quant"],
    "half_rows.cu": ["matmul", "norm"],
    "kv.cu": ["kv_append"],
    "kv.cuh": ["kv_append", "attn"],
    "matmul.cuh": ["matmul", "matmul_ends"],
    "quant.cuh": ["matmul_quant"],
    "rows.cuh": ["norm", "elementwise"],
    "sample.cuh": ["logits", "draw"],
}
# Host code, and what needs cuBLASLt.
NO_KERNELS = {"exec_cuda.cu", "exec_graph.cu", "load_weights.cu", "matmul_fast.cu"}

RELATION = re.compile(r"(?<![<>=\-!])(<=|>=|<|>)(?![<>=])")
LEAVES = re.compile(r"\s*\{?\s*(return|continue|break)\b")
READS = re.compile(r"\[|\*\(|__ld|load|^\s*(16|bytes)\b")


class Mutant:
    def __init__(self, number, path, line, kind, text):
        self.number, self.path, self.line, self.kind, self.text = number, path, line, kind, text
        self.noticed = ""

    def key(self):
        return f"{self.path.name}: {self.kind}: {self.text}"


# ---- finding the places --------------------------------------------------------------------------


def blank(source):
    """The source as long as it is, comments, strings, preprocessor lines and host code blanked."""
    def spaces(match):
        return re.sub(r"[^\n]", " ", match.group())
    source = re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", spaces, source, flags=re.S)
    # template arguments, which clang-format writes without a space in front, become part of the name
    source = re.sub(r"\b[a-z]\w*<[\w, +*/()-]+>", lambda m: re.sub(r"\W", "_", m.group()), source)
    source = source.replace("::", "__")
    lines, depth, host = [], 0, None
    continued = False
    for line in source.split("\n"):
        directive = continued or line.lstrip().startswith("#")
        if line.lstrip().startswith("#if"):
            if host is None and re.match(r"\s*#\s*ifndef\s+__CUDACC_RTC__", line):
                host = depth
            depth += 1
        elif line.lstrip().startswith("#endif"):
            depth -= 1
            if host == depth:
                host = None
        elif line.lstrip().startswith("#else") and host == depth - 1:
            host = None
        continued = directive and line.endswith("\\")
        lines.append(" " * len(line) if directive or host is not None else line)
    return "\n".join(lines)


def closing(code, at):
    """Where the parenthesis opened at `at` closes."""
    depth = 0
    for i in range(at, len(code)):
        depth += code[i] in "([{"
        depth -= code[i] in ")]}"
        if depth == 0:
            return i
    return len(code)


def atoms(code, begin, end):
    """The relations among the operands of && and || in code[begin:end], parentheses opened."""
    found, depth, start = [], 0, begin
    operands = []
    i = begin
    while i < end:
        depth += code[i] in "([{"
        depth -= code[i] in ")]}"
        if depth == 0 and code[i : i + 2] in ("&&", "||"):
            operands.append((start, i))
            start = i + 2
            i += 1
        i += 1
    operands.append((start, end))
    for first, last in operands:
        while first < last and code[first].isspace():
            first += 1
        while first < last and code[last - 1].isspace():
            last -= 1
        if len(operands) > 1 and code[first] == "(" and closing(code, first) == last - 1:
            found += atoms(code, first + 1, last - 1)
        elif is_relation(code[first:last]):
            found.append((first, last))
    return found


def is_relation(text):
    """Whether text compares something that is no constant, outside of its parentheses."""
    flat = text
    while re.search(r"\([^()]*\)|\[[^][]*\]", flat):
        flat = re.sub(r"\([^()]*\)|\[[^][]*\]", "x", flat)
    return RELATION.search(flat) is not None and re.search(r"[a-z]", text) is not None


def condition_before(code, question):
    """Where the condition of the choice whose ? stands at `question` begins."""
    depth = 0
    for i in range(question - 1, -1, -1):
        depth += code[i] in ")]"
        depth -= code[i] in "(["
        if depth < 0 or (depth == 0 and code[i] in ",;{}?:"):
            return i + 1
        if depth == 0 and code[i] == "=" and code[i - 1] not in "=<>!" and code[i + 1] != "=":
            return i + 1
        if depth == 0 and code[i : i + 6] == "return":
            return i + 6
    return 0


def guards(code):
    """(begin, end, holds): relations that guard, and the value that lets everything pass."""
    found = {}
    for match in re.finditer(r"\bif\s*(?:constexpr\s*)?\(", code):
        end = closing(code, match.end() - 1)
        leaves = LEAVES.match(code[end + 1 :]) is not None
        for place in atoms(code, match.end(), end):
            found.setdefault(place, not leaves)
    for match in re.finditer(r"\bbool\s+\w+\s*=([^;]*);", code):
        for place in atoms(code, match.start(1), match.end(1)):
            found.setdefault(place, True)
    for match in re.finditer(r"\?", code):
        begin = condition_before(code, match.start())
        rest = code[match.end() :]
        middle = rest[: re.search(r":(?!:)", rest).start()] if ":" in rest else rest
        tail = re.split(r"[;\n]", rest[len(middle) + 1 :])[0]
        if not READS.search(middle) and not READS.search(tail):
            continue
        for place in atoms(code, begin, match.start()):
            found.setdefault(place, READS.search(middle) is not None)
    return [(begin, end, holds) for (begin, end), holds in found.items()]


def mutate(path, first):
    """The mutants of a file, numbered from `first`, and its source with all of them inside."""
    source = path.read_text()
    code = blank(source)
    edits = []  # begin, end, kind, replacement with {n} for the number and {text}
    for match in re.finditer(r"__sync(threads|warp)\([^;{}]*\);", code):
        edits.append((*match.span(), "barrier", "{{ if (shim_mutant != {n}) {text} }}"))
    for match in re.finditer(r"\b(cp_async_wait_\w*|wait_for_previous)\(\);", code):
        edits.append((*match.span(), "wait", "{{ if (shim_mutant != {n}) {text} }}"))
    for match in re.finditer(r"(?<!bool )\bin_bounds\(", code):
        end = closing(code, match.end() - 1) + 1
        alone = code[end] == ";" and re.search(r"[;{})]\s*$", code[: match.start()])
        form = "{{ if (shim_mutant != {n}) {text}; }}" if alone else "((shim_mutant == {n}) | {text})"
        edits.append((match.start(), end, "guard", form))
    for begin, end, holds in guards(code):
        form = "((shim_mutant == {n}) | ({text}))" if holds else "((shim_mutant != {n}) & ({text}))"
        edits.append((begin, end, "guard", form))
    edits.sort()
    mutants, parts, at = [], [f'extern "C" int shim_mutant;\n#line 1 "{path}"\n'], 0
    for begin, end, kind, form in edits:
        if begin < at:
            continue  # inside one that is already there
        text = source[begin:end]
        number = first + len(mutants)
        shown = re.sub(r"\s+", " ", text)
        same = sum(m.kind == kind and m.text.split(" #")[0] == shown for m in mutants)
        shown += f" #{same + 1}" if same > 0 else ""
        mutants.append(Mutant(number, path, source.count("\n", 0, begin) + 1, kind, shown))
        parts += [source[at:begin], form.format(n=number, text=text)]
        at = end
    parts.append(source[at:])
    return mutants, "".join(parts)


# ---- building ------------------------------------------------------------------------------------


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", **options)


def commands(folder, target):
    result = run(["ninja", "-C", str(ROOT / folder), "-t", "commands", target])
    return result.stdout.splitlines()


def compile_one(folder, command, source, out):
    words = [w for w in shlex.split(command) if w not in ("-MD", "-Werror", "-O2", "-O3")]
    for flag in ("-MT", "-MF", "-o", "-c"):
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
    words += ["-O1", "-w", f"-I{source.parent}", "-o", str(out), "-c", str(source)]
    result = run(words, cwd=ROOT / folder)
    if result.returncode != 0:
        sys.exit(f"mutants: {source.name} does not compile:\n{result.stdout[:4000]}")


def objects_of(folder, arch, sources, pool):
    """The mutated sources compiled as the library of a folder and architecture is, in a list."""
    out = OUT / folder / arch
    out.mkdir(parents=True, exist_ok=True)
    lines = commands(folder, f"mll_kernels_shim{arch}")
    made, jobs = [], []
    for source in sources:
        line = next(l for l in lines if l.endswith(f"/kernels/{source.name}") and " -c " in l)
        made.append(str(out / (source.name + ".o")))
        jobs.append(pool.submit(compile_one, folder, line, OUT / "source" / source.name, made[-1]))
    for job in jobs:
        job.result()
    chooser = str(out / "chooser.o")
    run(["cc", "-fPIC", "-c", str(OUT / "chooser.c"), "-o", chooser], check=True)
    return made + [chooser]


def link_test(folder, arch, test, objects):
    """A test program with the mutated objects in place of the library's; its path."""
    target = f"test_{test}_shim{arch}"
    link = shlex.split(commands(folder, target)[-1].removeprefix(": && ").removesuffix(" && :"))
    at = link.index("-o")
    program = OUT / folder / arch / target
    result = run(link[:at] + ["-o", str(program)] + objects + link[at + 2 :], cwd=ROOT / folder)
    if result.returncode != 0:
        sys.exit(f"mutants: {target} does not link:\n{result.stdout[:4000]}")
    return program


CHOOSER = """#include <stdlib.h>
int shim_mutant;
__attribute__((constructor)) static void choose(void)
{
    const char *n = getenv("MLL_MUTANT");
    shim_mutant = n != NULL ? atoi(n) : 0;
}
"""


# ---- judging -------------------------------------------------------------------------------------


def fails(program, number, extra):
    environment = dict(os.environ, MLL_MUTANT=str(number), **extra)
    environment.setdefault("ASAN_OPTIONS", "allocator_may_return_null=1")
    try:
        return run([str(program), "-j1"], env=environment, timeout=TIMEOUT).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def judge(mutant, programs):
    for place, test, program, extra in programs:
        if test in tests_of(mutant.path) and fails(program, mutant.number, extra):
            mutant.noticed = place
            return


def tests_of(path):
    return TESTS.get(path.name, [path.stem])


def includers(path):
    """The kernel sources that a file's mutants are compiled into."""
    if path.suffix == ".cu":
        return {path}
    users = [p for p in KERNELS.glob("*.cu*") if f'"{path.name}"' in p.read_text()]
    return {source for user in users for source in includers(user)}


def prepare(files):
    """The mutants of files, their sources in OUT/source."""
    run(["rm", "-rf", str(OUT)])
    (OUT / "source").mkdir(parents=True)
    (OUT / "chooser.c").write_text(CHOOSER)
    for kernel in KERNELS.glob("*.cu*"):  # a header's includers must find the mutated one
        (OUT / "source" / kernel.name).write_text(kernel.read_text())
    mutants = []
    for path in files:
        more, source = mutate(path, len(mutants) + 1)
        (OUT / "source" / path.name).write_text(source)
        mutants += more
    return mutants


def build(folder, files, pool):
    """The test programs that see the mutants of files: (place, test, program, environment)."""
    if not (ROOT / folder / "build.ninja").exists():
        sys.exit(f"mutants: {folder} is not built: make test asan race")
    sources = sorted({s for path in files for s in includers(path) if s.name not in NO_KERNELS})
    tests = sorted({test for path in files for test in tests_of(path)})
    targets = [f"test_{test}_shim{arch}" for test in tests for arch in ARCHS]
    run(["ninja", "-C", str(ROOT / folder), *targets], check=True)
    programs = []
    for arch in ARCHS:
        objects = objects_of(folder, arch, sources, pool)
        for test in tests:
            program = link_test(folder, arch, test, objects)
            for where, extra in MODES:
                place = f"{folder} sm_{arch[:2]}" + "".join(f" {v}" for v in extra.values())
                programs += [(place, test, program, extra)] if where == folder else []
    return programs


def judge_all(mutants, pool):
    """Notices what can be noticed, build by build; the number of programs that fail as they are."""
    broken = 0
    for folder in dict.fromkeys(folder for folder, _ in MODES):
        left = [m for m in mutants if not m.noticed]
        programs = build(folder, sorted({m.path for m in left}), pool) if left else []
        whole = list(pool.map(lambda p: not fails(p[2], 0, p[3]), programs))
        for (place, _, program, _), good in zip(programs, whole):
            if not good:
                print(f"mutants: {program.name}, {place}, fails without a mutant: left out")
        broken += whole.count(False)
        sound = [p for p, good in zip(programs, whole) if good]
        list(pool.map(lambda mutant: judge(mutant, sound), left))
        print(f"{folder}: {sum(bool(m.noticed) for m in left)} of {len(left)} noticed; left:",
              *(f"{m.path.name}:{m.line}" for m in left if not m.noticed), flush=True)
    return broken


def show(mutants, explained):
    for path in sorted({m.path for m in mutants}):
        mine = [m for m in mutants if m.path == path]
        for m in mine:
            if not m.noticed:
                why = explained.get(m.key(), "UNEXPLAINED")
                print(f"{path.name}:{m.line}: {m.kind} `{m.text}` survives: {why}")
        print(f"{path.name}: {sum(bool(m.noticed) for m in mine)} of {len(mine)} noticed", flush=True)


def survivors():
    """survivors.txt: `file: kind: text | reason` a line."""
    lines = SURVIVORS.read_text().splitlines() if SURVIVORS.exists() else []
    pairs = [l.split(" | ", 1) for l in lines if " | " in l and not l.startswith("#")]
    return {key.strip(): reason.strip() for key, reason in pairs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rotate", action="store_true", help="one file, by the commit")
    parser.add_argument("--list", action="store_true", help="only name the mutants")
    options = parser.parse_args()
    files = [p for p in sorted(KERNELS.glob("*.cu*")) if p.name not in NO_KERNELS]
    if options.files:
        files = [KERNELS / pathlib.Path(name).name for name in options.files]
    files = [p for p in files if mutate(p, 1)[0]]
    if options.rotate:
        commit = run(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).stdout.strip()
        files = [files[int(commit or "0", 16) % len(files)]]
    if options.list:
        for path in files:
            for m in mutate(path, 1)[0]:
                print(f"{m.path.name}:{m.line}: {m.kind}: {m.text}")
        return 0
    explained = survivors()
    mutants = prepare(files)
    if options.rotate:
        mutants = [m for m in mutants if m.key() not in explained]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        broken = judge_all(mutants, pool)
    show(mutants, explained)
    noticed = sum(bool(m.noticed) for m in mutants)
    unexplained = sum(not m.noticed and m.key() not in explained for m in mutants)
    print(f"{noticed} of {len(mutants)} mutants noticed ({100 * noticed / len(mutants):.1f} %), "
          f"{len(mutants) - noticed - unexplained} survivors explained")
    if not options.rotate and not options.files and noticed < SHARE * len(mutants):
        print(f"mutants: less than {100 * SHARE:.0f} % are noticed")
        unexplained = max(unexplained, 1)
    print(f"{len(mutants) - unexplained} passed, {unexplained + broken} failed")
    return unexplained + broken > 0


if __name__ == "__main__":
    sys.exit(main())
