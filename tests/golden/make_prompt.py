#!/usr/bin/env python3
"""Writes tests/golden/prompt/cases.jsonl: conversations, and what transformers 5.23.0 renders and
tokenizes of them. Usage: make_prompt.py LLAMA_TEMPLATE [DIRECTORY]

LLAMA_TEMPLATE is chat_template.jinja of Llama-3.2-11B-Vision-Instruct (Meta's text, not kept here; the
script checks its SHA-256). The second template is that of models/receipts-tiny.
Lines: versions, then {template, messages, date_string, rendered, ids}."""
import hashlib
import json
import os
import random
import sys

import transformers

LLAMA_SHA256 = "53ff0dc467531d098a8bdd2ba38a3b2c157c9a90e96e16a0a79aa86476d47eea"
DATE = "26 Jul 2024"
TEXTS = ["What is the total?", "", " ", "\n", "\n\nTwo lines\nand a third\n", "  padded  ", "a", "1",
         "'s here", "It's 12.50!", "{{ bos_token }}", "\u4f60\u597d \U0001f600", "e\u0301",
         "\u2003thin\u2003", "tab\tand\r\nreturn\r\n", "<notspecial>", "x" * 150, "user", "[1, 2]"]


def content(rng, images):
    if rng.random() < 0.3:
        return rng.choice(TEXTS)
    parts = []
    for _ in range(rng.randint(0, 4)):
        image = images and rng.random() < 0.4
        parts.append({"type": "image"} if image else {"type": "text", "text": rng.choice(TEXTS)})
    return parts


def conversation(rng):
    images = rng.random() < 0.6
    messages = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": rng.choice(TEXTS)})
    for turn in range(rng.randint(1, 4)):
        role = "assistant" if turn % 2 else "user"
        messages.append({"role": role, "content": content(rng, images and role == "user")})
    return messages


def main():
    out = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(__file__), "prompt")
    with open(sys.argv[1], encoding="utf-8", newline="") as f:
        llama = f.read()
    assert hashlib.sha256(llama.encode()).hexdigest() == LLAMA_SHA256, "not the hub's template"
    here = os.path.dirname(os.path.abspath(__file__))
    plain = os.path.join(here, "../../models/receipts-tiny/chat_template.jinja")
    with open(plain, encoding="utf-8") as f:
        templates = {"llama": llama, "plain": f.read()}
    vocabulary = os.path.join(here, "tokenizer", "small")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=os.path.join(vocabulary, "tokenizer.json"), bos_token="<|begin_of_text|>")
    rng = random.Random(5)
    with open(os.path.join(out, "cases.jsonl"), "w", encoding="ascii") as f:
        f.write(json.dumps({"transformers": transformers.__version__}) + "\n")
        for case in range(160):
            name = "plain" if case % 4 == 3 else "llama"
            messages, date = conversation(rng), rng.choice((DATE, DATE, "1 Jan 2031"))
            rendered = tokenizer.apply_chat_template(
                messages, chat_template=templates[name], tokenize=False, add_generation_prompt=True,
                date_string=date)
            ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            row = {"template": name, "messages": messages, "date_string": date,
                   "rendered": rendered, "ids": ids}
            if date == DATE:
                del row["date_string"]
            f.write(json.dumps(row, separators=(",", ":")) + "\n")


main()
