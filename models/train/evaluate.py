#!/usr/bin/env python3
"""Exact-match shares of a checkpoint directory on fresh receipts: python3 evaluate.py --model DIR --n 500 --seed 7"""
import argparse
import json

import torch

import data
import receipts as R
from model import from_hub

FIELDS = ("store_name", "date", "total_amount", "payment_method", "items")


def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return {}


def evaluate(model, encoder, n, seed, batch=32, strange=0.0, misses=None):
    """A flat dictionary of shares over n pages of a seed."""
    hits, count = {}, {}

    def tally(name, hit):
        hits[name] = hits.get(name, 0) + bool(hit)
        count[name] = count.get(name, 0) + 1

    for first in range(0, n, batch):
        pages = [R.sample(seed, i, strange=strange) for i in range(first, min(n, first + batch))]
        encoded = [data.tiles(p[0]) for p in pages]
        used, aspect = torch.tensor([e[1] for e in encoded]), torch.tensor([e[2] for e in encoded])
        gray = torch.stack([torch.from_numpy(e[0]) for e in encoded])
        answers = model.greedy(data.normalise(gray, used), aspect, used, encoder.prompt, encoder.image_at,
                               encoder.ids["eos"], data.LONGEST)
        for i, (ids, (_, fields, listed, _)) in enumerate(zip(answers, pages)):
            text = encoder.tokenizer.decode(ids)
            got = parse(text)
            tally("json", got)
            if listed is None:
                tally("not_a_receipt", got == fields)
                continue
            for f in FIELDS:
                hit = got.get(f) == fields[f]
                name = f
                if f == "store_name" and fields[f] is not None:
                    name = "store_name" if listed else "store_name_unseen"
                elif fields[f] is None:
                    name = "missing_is_null"
                tally(name, hit)
                if misses is not None and not hit:
                    misses.append((first + i, f, fields[f], got.get(f)))
            for want, have in zip(fields["items"], (got.get("items") or []) + [{}] * len(fields["items"])):
                for k in want:
                    tally(k, have.get(k) == want[k])
            tally("whole_answer", got == fields)
    return {k: round(hits[k] / count[k], 4) for k in sorted(hits)} | {"pages": n, "seed": seed}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--n", type=int, default=500)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--foreign", type=float, default=0.0)
    p.add_argument("--misses", action="store_true", help="also print each miss")
    a = p.parse_args()
    misses = [] if a.misses else None
    shares = evaluate(from_hub(a.model), data.Encoder(), a.n, a.seed, strange=a.foreign, misses=misses)
    for m in misses or ():
        print(*m)
    print(json.dumps(shares, indent=1))


if __name__ == "__main__":
    main()
