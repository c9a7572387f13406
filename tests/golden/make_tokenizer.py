#!/usr/bin/env python3
"""Writes tests/golden/tokenizer: a small vocabulary in three forms, and what the oracles make of
strings with it (tokenizers 0.23.3, tiktoken 0.14.0). Usage: make_tokenizer.py [DIRECTORY]

  small/tokenizer.json   the form of Llama 3's: every pair that spells a token merges, ignore_merges
  small/tokenizer.model  the same for tiktoken
  trained.json           as the trainer leaves it: its merges only, written "left right", merged always
  strings.jsonl          versions, then {text, ids, plain (special tokens not parsed), trained}"""
import json
import os
import random
import sys

import tiktoken
import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import fuzz_strings
import llama_vocab

VOCABULARY, COUNT, SEED = 900, 700, 11


def train():
    """Byte-level BPE trained on random words of many scripts; ids follow the order of merging."""
    rng = random.Random(SEED)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(llama_vocab.PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    text = [" ".join(rng.choice(fuzz_strings.WORDS) for _ in range(12)) for _ in range(400)]
    text += list(fuzz_strings.strings(1500, SEED + 1, special=False))
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return tokenizer


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "tokenizer")
    os.makedirs(os.path.join(out, "small"), exist_ok=True)
    trained = train()
    bytes_of = {c: b for b, c in llama_vocab.byte_table().items()}
    ranks = {bytes(bytes_of[c] for c in token): i for token, i in trained.get_vocab().items()}
    small = llama_vocab.tokenizer_json(ranks)
    with open(os.path.join(out, "small", "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(small, f, ensure_ascii=False, separators=(",", ":"))
    llama_vocab.write_ranks(os.path.join(out, "small", "tokenizer.model"), ranks)
    merges = json.loads(trained.to_str())["model"]["merges"]
    legacy = {**small, "model": {**small["model"], "ignore_merges": False,
                                 "merges": [" ".join(m) for m in merges]}}
    with open(os.path.join(out, "trained.json"), "w", encoding="utf-8") as f:
        json.dump(legacy, f, ensure_ascii=True, separators=(",", ":"))

    hf = Tokenizer.from_str(json.dumps(small))
    hf_trained = Tokenizer.from_str(json.dumps(legacy))
    tik = tiktoken.Encoding("small", pat_str=llama_vocab.PATTERN, mergeable_ranks=ranks,
                            special_tokens={s: len(ranks) + i
                                            for i, s in enumerate(llama_vocab.SPECIALS)})
    texts = list(fuzz_strings.strings(COUNT, SEED + 2, longest=12))
    with open(os.path.join(out, "strings.jsonl"), "w", encoding="ascii") as f:
        def line(value):
            f.write(json.dumps(value, separators=(",", ":")) + "\n")

        line({"tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__})
        for text in texts:
            row = {"text": text, "ids": hf.encode(text, add_special_tokens=False).ids,
                   "plain": tik.encode(text, disallowed_special=()),
                   "trained": hf_trained.encode(text, add_special_tokens=False).ids}
            assert row["ids"] == tik.encode(text, allowed_special="all")
            line({k: v for k, v in row.items() if k in ("text", "ids") or v != row["ids"]})


main()
