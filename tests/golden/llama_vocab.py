"""The Llama 3 vocabulary as pip's llama-models 0.3.0 ships it, and tokenizer.json made from it."""
import base64
import json
import os
import subprocess
import sys
import zipfile

PACKAGE = "llama-models==0.3.0"
MEMBER = "llama_models/llama3/tokenizer.model"
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
           r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
NAMED = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1",
         "finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id",
         "python_tag"]
SPECIALS = [f"<|{name}|>" for name in
            NAMED + [f"reserved_special_token_{i}" for i in range(2, 247)] + ["image"]]


def byte_table():
    """The character that byte-level text writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def read_ranks(path):
    with open(path, "rb") as f:
        return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, f)}


def write_ranks(path, ranks):
    with open(path, "wb") as f:
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            f.write(base64.b64encode(token) + b" %d\n" % rank)


def tokenizer_json(ranks, specials=SPECIALS):
    """What transformers' converter makes of the ranks, with the post-processor of the hub's file."""
    table = byte_table()
    text = {token: "".join(table[b] for b in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.get):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        cuts = [cut for cut in cuts if cut[0] in ranks and cut[1] in ranks]
        cuts.sort(key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
        merges += [[text[left], text[right]] for left, right in cuts]
    bos, first = specials[0], len(ranks)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": first + i, "content": s, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}
                         for i, s in enumerate(specials)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated",
             "invert": False}, byte_level]},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
                                      {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                                    {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {bos: {"id": bos, "ids": [first], "tokens": [bos]}}},
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": True,
                  "vocab": {text[token]: rank for token, rank in ranks.items()},
                  "merges": merges},
    }


def pip(command, *arguments):
    """Whether pip did it; without waiting long for a network that is not there."""
    return subprocess.run([sys.executable, "-m", "pip", command, "-q", "--no-deps", "--retries", "1",
                           "--timeout", "15", *arguments], check=False).returncode == 0


def fetch(directory):
    """Leaves tokenizer.model in directory/model and tokenizer.json in directory/json; None if pip
    cannot get the package."""
    model = os.path.join(directory, "model", "tokenizer.model")
    converted = os.path.join(directory, "json", "tokenizer.json")
    for path in (model, converted):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(model):
        if not pip("download", "-d", directory, PACKAGE):
            return None
        wheel = next(f for f in os.listdir(directory) if f.startswith("llama_models"))
        with zipfile.ZipFile(os.path.join(directory, wheel)) as z, open(model, "wb") as f:
            f.write(z.read(MEMBER))
    if not os.path.exists(converted):
        with open(converted, "w", encoding="utf-8") as f:
            json.dump(tokenizer_json(read_ranks(model)), f, ensure_ascii=False, indent=2)
    return os.path.dirname(model), os.path.dirname(converted)
