#!/usr/bin/env python3
"""Trains receipts-tiny from nothing on pages made on the fly.

Beside the answer, two things are supervised that would otherwise be learnt slowly: what stands in each cell of the page
(character, field, place within the field: a linear head on the projected vision states, thrown away afterwards) and where
two heads of the last cross-attention layer look for each answer token.
    python3 train.py --dir RUN --samples 300000         start, or go on from RUN/last.pt
The learning rate follows the share of the planned samples; a number in RUN/plan replaces --samples while it runs.
"""
import argparse
import json
import math
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import data
import receipts as R
import tokenizer as T
from evaluate import evaluate
from model import CONFIG, Mllama, hub_config, save_weights

CHARS, PLACES = 96, 17
GAZE_LAYER, GAZE_HEADS = 3, (0, 2)  # one head of each key/value group: left cells, right cells


class Cells(nn.Linear):
    """Names the two cells of every patch from the projected vision states."""

    def __init__(self, hidden):
        super().__init__(hidden, 2 * (CHARS + R.FIELDS + PLACES))

    def losses(self, seen, labels):
        x = self(seen).float().view(*seen.shape[:2], 2, -1)
        char, field, place = x.split([CHARS, R.FIELDS, PLACES], -1)
        c, f, p = labels.unbind(-1)
        weight = torch.ones(CHARS)
        weight[0] = 0.1
        lc = F.cross_entropy(char.flatten(0, -2), c.flatten(), weight=weight, ignore_index=-100)
        weight = torch.ones(R.FIELDS)
        weight[0] = 0.1
        lf = F.cross_entropy(field.flatten(0, -2), f.flatten(), weight=weight)
        inside = f > 0
        lp = F.cross_entropy(place[inside], p[inside]) if inside.any() else lf * 0
        with torch.no_grad():
            ink = c > 0
            share = lambda x, y, m: (x[m].argmax(-1) == y[m]).float().mean().item()
            stats = dict(char=share(char, c, ink), field=share(field, f, inside), place=share(place, p, inside))
        return lc, lf, lp, stats


def step_losses(model, cells, batch, prompt, image_at):
    used, tokens = batch["used"], batch["tokens"]
    pixels = data.normalise(batch["pixels"], used)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = model.see(pixels, batch["aspect"], used, shared_mask=bool((used == data.MAX_TILES).all()))
        lc, lf, lp, stats = cells.losses(seen, batch["labels"])
        inputs = torch.cat([torch.tensor(prompt).expand(len(tokens), -1), tokens[:, :-1].clamp(min=0)], 1)
        x, gaze = model.read(inputs, image_at, model.memories(seen), model.vision_mask(used))
        at = len(prompt) - 1
        logits = model.language_model.lm_head(x[:, at:]).float()
    answer = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=-100)
    weights = gaze[GAZE_LAYER][:, list(GAZE_HEADS), at:].transpose(1, 2).exp()  # [B, n, 2, rows]
    target = batch["gaze"]
    wanted = target.amax(-1) > 0
    mass = (weights * target).sum(-1)[wanted]
    look = -(mass + 1e-5).log().mean()
    with torch.no_grad():
        stats["gaze"] = (mass > 0.5).float().mean().item()
        real = tokens != -100
        right = (logits.argmax(-1) == tokens) | ~real
        stats["token"] = right[real].float().mean().item()
        stats["whole"] = right.all(-1).float().mean().item()
    return dict(answer=answer, look=look, char=lc, field=lf, place=lp), stats


def rate(share, peak, warm):
    decay = max(0.0, (share - 0.35) / 0.65)
    return peak * min(1.0, warm) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, decay))))


def export(model, directory):
    """Write a checkpoint directory in the layout of the released models."""
    T.write(directory, model.c["tile"], model.c["max_tiles"])
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(hub_config(model.c, T.special_ids()), f, indent=2)
        f.write("\n")
    part = os.path.join(directory, "model.safetensors")
    save_weights(model.state_dict(), part + ".part")
    os.chmod(part + ".part", 0o644)
    os.replace(part + ".part", part)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dir", required=True)
    p.add_argument("--samples", type=int, default=300000)
    p.add_argument("--peak", type=float, default=1.5e-3)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--stop-after", type=int, default=1 << 60, help="samples after which to stop")
    p.add_argument("--export", help="only write the checkpoint directory of RUN/last.pt (or of fresh weights)")
    a = p.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    os.makedirs(a.dir, exist_ok=True)
    last, plan = os.path.join(a.dir, "last.pt"), os.path.join(a.dir, "plan")
    model = Mllama(dict(CONFIG, vocab=T.SIZE))
    cells = Cells(model.c["hidden"])
    everything = list(model.parameters()) + list(cells.parameters())
    groups = [dict(params=[q for q in everything if q.dim() > 1], weight_decay=0.02),
              dict(params=[q for q in everything if q.dim() <= 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=a.peak, betas=(0.9, 0.98), eps=1e-9, fused=True)
    state = dict(step=0, samples=0, jitter=0, cpu=0.0)
    if os.path.exists(last):
        saved = torch.load(last, weights_only=False)
        model.load_state_dict(saved["model"])
        cells.load_state_dict(saved["cells"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        state = saved["state"]
        print("resumed", state, flush=True)
    if a.export:
        export(model, a.export)
        return
    print(f"{sum(q.numel() for q in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    encoder = data.Encoder()
    stream = data.Stream(state["samples"], a.seed, state["jitter"], a.batch)
    mean, began, mark, saved_at = {}, time.time(), (time.time(), state["samples"]), time.time()

    def save():
        torch.save(dict(model=model.state_dict(), cells=cells.state_dict(), optimizer=optimizer.state_dict(),
                        rng=torch.get_rng_state(), state=state), last + ".part")
        os.replace(last + ".part", last)

    while True:
        planned = a.samples
        if state["step"] % 20 == 0 and os.path.exists(plan):
            with open(plan) as f:
                a.samples = planned = int(float(f.read()))
        share = state["samples"] / planned
        if share >= 1 or state["samples"] >= a.stop_after:
            break
        lr = rate(share, a.peak, (state["step"] + 1) / 200)
        for g in optimizer.param_groups:
            g["lr"] = lr
        batch = stream.next()
        losses, stats = step_losses(model, cells, batch, encoder.prompt, encoder.image_at)
        loss = losses["answer"] + 0.3 * losses["look"] + losses["char"] + 0.5 * (losses["field"] + losses["place"])
        optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            print("skipped a batch: loss", loss.item(), flush=True)
            state["samples"] += len(batch["used"])
            continue
        loss.backward()
        nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step()
        state["step"] += 1
        state["samples"] += len(batch["used"])
        for k, v in [*((k, v.item()) for k, v in losses.items()), *(("%" + k, v) for k, v in stats.items() if v == v)]:
            mean[k] = v if k not in mean else 0.98 * mean[k] + 0.02 * v
        if state["step"] % 100 == 0 and mean["%char"] > 0.9 and state["jitter"] < R.JITTER:
            state["jitter"] += 1
            stream.jitter.value = state["jitter"]
        if state["step"] % 50 == 0:
            now = time.time()
            print(f"{state['samples']:7d} {100 * share:5.1f}% {(state['samples'] - mark[1]) / (now - mark[0]):5.1f}/s lr {lr:.1e} jitter"
                  f" {state['jitter']} " + " ".join(f"{k} {v:.3f}" for k, v in mean.items()), flush=True)
            mark = now, state["samples"]
        if state["step"] % 1000 == 0:
            print("evaluation", json.dumps(evaluate(model.eval(), encoder, 64, 1000)), flush=True)
            model.train()
            mark = time.time(), state["samples"]
        if time.time() - saved_at > 240:
            save()
            saved_at = time.time()
    save()
    export(model, os.path.join(a.dir, "hf"))
    print(f"done: {state['samples']} samples, {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
