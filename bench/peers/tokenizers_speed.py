#!/usr/bin/env python3
"""Encoding speed beside HF tokenizers and tiktoken: one thread, the same documents, interleaved.

Usage: bench/peers/tokenizers_speed.py BENCH CACHE RESULT.json
BENCH is build/bench/tokenizer_bench, CACHE a folder for the vocabulary (pip's llama-models). The
documents, of 4,000 characters: licence texts of the system (English), Python's standard library
(code), random words and letters of many scripts. Each number is a median of seven rounds; one round
is one pass over all documents of a kind, by one contestant after the other."""
import glob
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/golden"))
import fuzz_strings  # noqa: E402
import llama_vocab  # noqa: E402
import tiktoken  # noqa: E402
import tokenizers  # noqa: E402

from peer_tools import facts  # noqa: E402

ROUNDS, SIZE, DOCUMENT = 7, 1_000_000, 4000


def read_files(paths):
    text = ""
    for path in paths:
        with open(path, encoding="utf-8", errors="ignore") as f:
            text += f.read().replace("\0", "")
        if len(text) >= SIZE:
            break
    return text[:SIZE]


def corpus():
    scripts = ""
    for s in fuzz_strings.strings(100_000, 1, special=False):
        scripts += s.replace("\0", "") + " "
        if len(scripts) >= SIZE // 2:
            break
    texts = {"english": read_files(sorted(glob.glob("/usr/share/common-licenses/*"))),
             "code": read_files(sorted(glob.glob(sysconfig.get_path("stdlib") + "/*.py"))),
             "scripts": scripts[:SIZE // 2]}
    return {kind: [text[i:i + DOCUMENT] for i in range(0, len(text), DOCUMENT)]
            for kind, text in texts.items()}


def fnv(ids):
    value = 0xCBF29CE484222325
    for id in ids:
        for byte in id.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{len(ids)} {value:016x}"


def measure(bench, model, documents, encoders):
    """Seconds of each round by contestant; the ids of all must be equal."""
    times, seen = {name: [] for name in ["mllama", *encoders]}, set()
    with tempfile.NamedTemporaryFile(suffix=".txt") as f:
        f.write("".join(d + "\0" for d in documents).encode())
        f.flush()
        for _ in range(ROUNDS):
            out = subprocess.run([bench, model, f.name, "2"], check=True, text=True,
                                 stdout=subprocess.PIPE).stdout.split("\n")
            times["mllama"].append(float(out[2].split()[1]))
            seen.add(out[3][4:])
            for name, encode in encoders.items():
                start = time.perf_counter()
                ids = [encode(d) for d in documents]
                times[name].append(time.perf_counter() - start)
        for encode in encoders.values():
            seen.add(fnv([i for d in documents for i in encode(d)]))
    assert len(seen) == 1, seen
    return times


def extremes(bench, model):
    """Seconds for 10 MB of one character; the best of three."""
    seconds = {}
    for character in " a7":
        with tempfile.NamedTemporaryFile(suffix=".txt") as f:
            f.write(character.encode() * 10_000_000 + b"\0")
            f.flush()
            out = subprocess.run([bench, model, f.name, "3"], check=True, text=True,
                                 stdout=subprocess.PIPE).stdout.split("\n")
            seconds[character] = round(min(float(line.split()[1]) for line in out[1:4]), 3)
    return seconds


def main():
    bench, cache, result = sys.argv[1:]
    model, converted = llama_vocab.fetch(cache)
    ranks = llama_vocab.read_ranks(os.path.join(model, "tokenizer.model"))
    tik = tiktoken.Encoding("llama3", pat_str=llama_vocab.PATTERN, mergeable_ranks=ranks,
                            special_tokens={})
    hf = tokenizers.Tokenizer.from_file(os.path.join(converted, "tokenizer.json"))
    encoders = {"tiktoken": tik.encode_ordinary,
                "tokenizers": lambda d: hf.encode(d, add_special_tokens=False).ids}
    rows = []
    for kind, documents in corpus().items():
        size = sum(len(d.encode()) for d in documents)
        times = measure(bench, converted, documents, encoders)
        speed = {name: round(size / 1e6 / statistics.median(t), 2) for name, t in times.items()}
        rows.append({"text": kind, "bytes": size, "mb_per_s": speed})
        print(rows[-1], flush=True)
    opens = [float(subprocess.run([bench, converted, os.devnull, "0"], check=True, text=True,
                                  stdout=subprocess.PIPE).stdout.split()[1]) for _ in range(9)]
    with open(result, "w", encoding="ascii") as f:
        json.dump(facts(bench) | {"threads": 1, "python": platform.python_version(),
                   "tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__,
                   "rounds": ROUNDS, "encode": rows,
                   "ten_mb_of_one_character_s": extremes(bench, converted),
                   "open_tokenizer_json_s": {"median": round(statistics.median(opens), 3),
                                             "min": round(min(opens), 3)}}, f, indent=1)
        f.write("\n")


main()
