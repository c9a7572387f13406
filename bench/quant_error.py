"""What quantising costs in answers: logits and fields of the embedded model against its 16-bit weights.

    python bench/quant_error.py MLLAMA TRUTH.jsonl OUT.md [N]      (needs numpy and safetensors)

For every choice of what is quantised: bytes of the file; over the answers of N receipts (default 40),
fed token by token as the plain model gave them, the relative RMS error of the logits, the mean KL
divergence from the plain model's distribution and how often the likeliest token is the same; and the
share of fields that `mllama eval` finds exact on all receipts of TRUTH.jsonl.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

PARTS = ["vision_model", "multi_modal_projector", "lm_head", "cross_attn"]
QUESTION = ("Extract the receipt as JSON with store_name, date (YYYY-MM-DD), total_amount, payment_method and "
            "items (item_name, quantity, price).")  # FLD_QUESTION of extract/fields.h
CHOICES = [
    ("int8, default", ["--int8"], None), ("int8, all", ["--int8"], []),
    ("nf4, default", ["--nf4"], None), ("nf4-dq, default", ["--nf4", "--double-quant"], None),
    ("nf4, cross_attn too", ["--nf4"], PARTS[:3]), ("nf4, lm_head too", ["--nf4"], PARTS[:2] + PARTS[3:]),
    ("nf4, tower and projector too", ["--nf4"], PARTS[2:]),
    ("nf4, all but lm_head", ["--nf4"], ["lm_head"]), ("nf4, all", ["--nf4"], []),
]


def trace(mllama, model, image, out, prompt):
    subprocess.run([mllama, "trace", "-m", model, "-i", image, "-o", out, *prompt], check=True,
                   stderr=subprocess.DEVNULL)
    return load_file(out)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def measure(mllama, model, answers, out):
    error = size = kl = 0.0
    equal = total = 0
    for image, ids, n_prompt, plain in answers:
        x = trace(mllama, model, image, out, ["--ids", ids, "-n", "1"])["logits"][n_prompt - 1:].astype(float)
        a, b = log_softmax(plain), log_softmax(x)
        error += ((x - plain) ** 2).sum()
        size += (plain ** 2).sum()
        kl += (np.exp(a) * (a - b)).sum()
        equal += (a.argmax(-1) == b.argmax(-1)).sum()
        total += len(a)
    return np.sqrt(error / size), kl / total, equal / total


def evaluate(mllama, model, truth):
    out = subprocess.run([mllama, "eval", truth, "-m", model], check=True, capture_output=True, text=True)
    shares = json.loads(out.stdout.strip().splitlines()[-1])
    names = ["store_name", "date", "total_amount", "payment_method", "item_name", "quantity", "price"]
    return [shares[k] for k in names if k in shares]


def main():
    mllama, truth, out = sys.argv[1:4]
    n = int(sys.argv[4]) if len(sys.argv) > 4 else 40
    plain_model = pathlib.Path(__file__).parent.parent / "models" / "receipts-tiny"
    folder = pathlib.Path(truth).parent
    images = [folder / json.loads(line)["file"] for line in open(truth)][:n]
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        file = f"{tmp}/t.safetensors"
        answers = []
        for image in images:
            t = trace(mllama, plain_model, image, file, ["-p", QUESTION])
            ids = np.concatenate([t["input_ids"], t["generated"][:-1]])
            text = ",".join(map(str, ids.tolist()))
            full = trace(mllama, plain_model, image, file, ["--ids", text, "-n", "1"])
            n_prompt = len(t["input_ids"])
            answers.append((image, text, n_prompt, full["logits"][n_prompt - 1:].astype(float)))
        for name, flags, skip in [("plain bf16", None, None), *CHOICES]:
            model = plain_model
            if flags:
                model = f"{tmp}/{len(rows)}"
                words = [] if skip is None else skip or ["none"]
                subprocess.run([mllama, "quantize", plain_model, model, *flags,
                                *[w for s in words for w in ("--skip", s)]], check=True,
                               stderr=subprocess.DEVNULL)
            size = (pathlib.Path(model) / "model.safetensors").stat().st_size
            rms, kl, equal = measure(mllama, model, answers, file)
            fields = evaluate(mllama, model, truth)
            rows.append(f"| {name} | {size / 1e6:.2f} | {rms:.2%} | {kl:.5f} | {equal:.2%} | "
                        f"{np.mean(fields):.2%} | {min(fields):.2%} |")
            print(rows[-1], flush=True)
    tokens = sum(len(a[3]) for a in answers)
    head = (f"Answers: {len(answers)} receipts, {tokens} tokens. Fields: {len(open(truth).readlines())} receipts.\n\n"
            "| weights | MB | logits, relative RMS error | KL, nats a token | same likeliest token | "
            "fields exact, mean | worst field |\n| --- | --- | --- | --- | --- | --- | --- |\n")
    pathlib.Path(out).write_text(head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
