#!/usr/bin/env python3
"""Our safetensors reader against the reference implementation (the Python package's Rust core).

    python tests/fuzz/diff_safetensors.py BUILD_DIR/examples/st_list [N] [SEED]

Makes N files, valid ones and mutations of their header, their length and their data, opens each with
both and sorts every disagreement into the documented policy differences; anything else is printed
and fails. By hand; needs the package safetensors."""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import safetensors
from safetensors import safe_open

DTYPES = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16,
          "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64}
NUMBERS = ["-1", "0", "1", "2", "3", "00", "1.0", "1e0", "-0", "281474976710655", "281474976710656",
           "9223372036854775808", "18446744073709551615", "18446744073709551616", "null", '"1"', "[]"]
# Where we refuse by policy what the reference accepts (safetensors.h says so): status -> why.
POLICY = {
    "duplicate_tensor": "duplicate names: the reference keeps the last",
    "duplicate_metadata": "duplicate keys of __metadata__",
    "field_unknown": "unknown keys inside an entry",
    "entry": "an entry written as an array",
    "metadata": "__metadata__ null",
    "name": "U+0000 in a name, or longer than 1024 bytes",
    "number": "numbers above 2^48 - 1 that do not matter beside a dimension of 0",
    "rank": "more than 8 dimensions",
    "too_many_tensors": "more than 100,000 tensors",
    "dtype": "a dtype written as {\"F32\": null}",
}


def valid_header(rng):
    header, at = {}, 0
    if rng.random() < 0.3:
        header["__metadata__"] = {rng.choice("abc"): "x" for _ in range(rng.randrange(3))}
    names = rng.sample(["a", "b", "c.weight", "d\u00e4", "e\"q", ""], rng.randrange(5))
    for name in names:
        dtype = rng.choice(list(DTYPES))
        shape = [rng.choice([0, 1, 1, 2, 3]) for _ in range(rng.randrange(4))]
        size = DTYPES[dtype] // 8
        for dim in shape:
            size *= dim
        entry = [("dtype", dtype), ("shape", shape), ("data_offsets", [at, at + size])]
        rng.shuffle(entry)
        header[name] = dict(entry)
        at += size
    items = list(header.items())
    rng.shuffle(items)
    return json.dumps(dict(items), ensure_ascii=rng.random() < 0.5), at


def mutate_text(rng, text):
    kind = rng.randrange(8)
    at = rng.randrange(len(text) + 1)
    if kind == 0:  # a number
        digits = [i for i, c in enumerate(text) if c.isdigit()]
        if digits:
            i = rng.choice(digits)
            return text[:i] + rng.choice(NUMBERS) + text[i + 1:]
    if kind == 1:
        return text[:at] + text[at + rng.randrange(1, 4):]
    if kind == 2:
        return text[:at] + rng.choice(list("{}[],:\"\\ 0a-\n\t\x00\x1f") + ["\\u0000", "\\ud800", "\u00e4"]) + text[at:]
    if kind == 3:
        return rng.choice([" ", "\n", "\t\r", "x", "\ufeff", "{}"]) + text
    if kind == 4:
        return text + rng.choice([" ", "\n  ", "\x00", "x", "{}"])
    if kind == 5:  # swap two fields' names, or spell one wrong
        a, b = rng.sample(["dtype", "shape", "data_offsets", "__metadata__", "extra"], 2)
        return text.replace(a, b, 1)
    if kind == 6:  # a piece twice
        end = min(len(text), at + rng.randrange(1, 30))
        return text[:end] + text[at:end] + text[end:]
    return text.replace(rng.choice(list(DTYPES)), rng.choice(list(DTYPES) + ["F4", "f32", "C64"]), 1)


def make_file(rng):
    text, size = valid_header(rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        text = mutate_text(rng, text)
    header = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05 and header:
        i = rng.randrange(len(header))
        header = header[:i] + bytes([rng.randrange(256)]) + header[i + 1:]
    length = len(header)
    if rng.random() < 0.05:
        length = max(0, length + rng.choice([-1, 1, 7, 1 << 40, 100_000_001 - length]))
    if rng.random() < 0.05:
        size = max(0, size + rng.choice([-1, 1, 8]))
    data = length.to_bytes(8, "little") + header + bytes(size)
    return data[:rng.randrange(9)] if rng.random() < 0.01 else data


def reference(path):
    try:
        with safe_open(path, framework="numpy") as f:
            return True, len(list(f.keys()))
    except Exception as error:  # the package raises its own type, and OSError for an empty file
        return False, str(error)


def ours(program, paths):
    out = subprocess.run([program, "-q", *map(str, paths)], capture_output=True, check=False).stdout
    verdicts = {}
    for line in out.decode("utf-8", "replace").splitlines():
        path, status, message = line.split(": ", 2)
        verdicts[path] = (status, message)
    return verdicts


def main():
    program = sys.argv[1]
    total = int(sys.argv[2]) if len(sys.argv) > 2 else 20000
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    agreed = {"accepted": 0, "refused": 0}
    policy, bad = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, total, 500):
            paths = []
            for i in range(min(500, total - start)):
                paths.append(pathlib.Path(folder, f"{i}.safetensors"))
                paths[-1].write_bytes(make_file(rng))
            verdicts = ours(program, paths)
            for path in paths:
                status, message = verdicts[str(path)]
                accepted, detail = reference(path)
                if accepted == (status == "ok") and (not accepted or message == f"{detail} tensors"):
                    agreed["accepted" if accepted else "refused"] += 1
                elif accepted and status in POLICY:
                    policy[status] = policy.get(status, 0) + 1
                else:
                    bad += 1
                    print("DISAGREE", path.read_bytes(), status, message, "| reference:", detail)
    print(f"safetensors {safetensors.__version__}: {total} files, {agreed['accepted']} accepted and "
          f"{agreed['refused']} refused by both, {bad} unexplained")
    for status, count in sorted(policy.items()):
        print(f"  {count} refused by us only, {status}: {POLICY[status]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
