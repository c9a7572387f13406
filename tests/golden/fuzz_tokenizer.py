#!/usr/bin/env python3
"""Compares `mllama tokenize` with HF tokenizers and tiktoken on the real Llama 3 vocabulary.

Usage: fuzz_tokenizer.py MLLAMA CACHE [COUNT [SEED]]
The vocabulary (pip's llama-models) and the oracles are fetched into CACHE once. Both files of the
vocabulary, special tokens parsed and not, and decoding of the ids and of random ids are compared.
Exits 77 where pip cannot fetch them."""
import json
import os
import random
import subprocess
import sys

import fuzz_strings
import llama_vocab

ORACLES = ["tokenizers==0.23.3", "tiktoken==0.14.0", "regex"]


def run(mllama, model, lines, *flags):
    done = subprocess.run([mllama, "tokenize", "-m", model, *flags], check=True,
                          input="".join(json.dumps(line) + "\n" for line in lines).encode(),
                          stdout=subprocess.PIPE)
    out = [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]
    assert len(out) == len(lines)
    return out


def compare(name, inputs, found, expected):
    bad = [i for i in range(len(inputs)) if found[i] != expected[i]]
    for i in bad[:3]:
        print(f"{name}: {inputs[i]!r}\n  found    {found[i]}\n  expected {expected[i]}")
    print(f"{name}: {len(inputs)} compared, {len(bad)} differ", flush=True)
    return len(bad)


def main():
    mllama, cache = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 20000
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    vocabulary, packages = llama_vocab.fetch(cache), os.path.join(cache, "packages")
    if not vocabulary or not (os.path.exists(packages) or
                              llama_vocab.pip("install", "--target", packages, *ORACLES)):
        print(f"skip: pip cannot fetch {llama_vocab.PACKAGE} and {', '.join(ORACLES[:2])}")
        return 77
    sys.path.insert(0, packages)
    import tiktoken
    import tokenizers

    model, converted = vocabulary
    ranks = llama_vocab.read_ranks(os.path.join(model, "tokenizer.model"))
    specials = {s: len(ranks) + i for i, s in enumerate(llama_vocab.SPECIALS)}
    tik = tiktoken.Encoding("llama3", pat_str=llama_vocab.PATTERN, mergeable_ranks=ranks,
                            special_tokens=specials)
    hf = tokenizers.Tokenizer.from_file(os.path.join(converted, "tokenizer.json"))

    texts = list(fuzz_strings.strings(count, seed))
    lines = [{"text": t} for t in texts]
    with_special = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    by_tik = [tik.encode(t, allowed_special="all") for t in texts]
    plain = [tik.encode(t, disallowed_special=()) for t in texts]
    rng = random.Random(seed)
    ids = [[rng.randrange(len(ranks) + 257) for _ in range(rng.randint(0, 12))] for _ in texts]
    bad = 0
    for path in (model, converted):
        kind = os.path.basename(path)
        found = [line["ids"] for line in run(mllama, path, lines)]
        bad += compare(f"{kind}, special tokens, tokenizers", texts, found, with_special)
        bad += compare(f"{kind}, special tokens, tiktoken", texts, found, by_tik)
        found = [line["ids"] for line in run(mllama, path, lines, "--no-special")]
        bad += compare(f"{kind}, no special tokens, tiktoken", texts, found, plain)
        found = run(mllama, path, [{"ids": i} for i in with_special], "--decode")
        bad += compare(f"{kind}, decode of texts", texts, [f["text"] for f in found], texts)
        found = run(mllama, path, [{"ids": i} for i in ids], "--decode")
        bad += compare(f"{kind}, decode of random ids", ids, [f["text"] for f in found],
                       [tik.decode(i, errors="replace") for i in ids])
    return 1 if bad else 0


sys.exit(main())
