#!/usr/bin/env python3
"""Trains receipts-tiny from nothing on pages made on the fly.

Beside the answer, two things are supervised that would otherwise be learnt slowly: what stands in each cell of the page
(character, field, place within the field: a linear head on the projected vision states, thrown away afterwards) and where
two heads of the last cross-attention layer look for each answer token.
    python3 train.py --dir RUN --samples 300000 --ranks 2       start, or go on from RUN/last.pt
Each rank is a process with one thread that sees its own pages; gradients are averaged.
The learning rate follows the share of the planned samples; a number in RUN/plan replaces --samples while it runs.
"""
import argparse
import datetime
import json
import math
import os
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

import data
import receipts as R
import tokenizer as T
from evaluate import evaluate
from model import CONFIG, Mllama, from_hub, hub_config, save_weights

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


class Run:
    """Model, optimizer and progress of one rank; rank 0 alone writes."""

    def __init__(self, args):
        torch.manual_seed(1)
        self.args, self.last = args, os.path.join(args.dir, "last.pt")
        self.model = Mllama(dict(CONFIG, vocab=T.SIZE))
        self.cells = Cells(self.model.c["hidden"])
        self.parameters = list(self.model.parameters()) + list(self.cells.parameters())
        groups = [dict(params=[q for q in self.parameters if q.dim() > 1], weight_decay=0.02),
                  dict(params=[q for q in self.parameters if q.dim() <= 1], weight_decay=0.0)]
        self.optimizer = torch.optim.AdamW(groups, lr=args.peak, betas=(0.9, 0.98), eps=1e-9, fused=True)
        self.state = dict(step=0, samples=0, jitter=0)
        if os.path.exists(self.last):
            saved = torch.load(self.last, weights_only=False)
            self.model.load_state_dict(saved["model"])
            self.cells.load_state_dict(saved["cells"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.state = saved["state"]
        elif args.init:
            self.model.load_state_dict(from_hub(args.init).state_dict())
            self.state["jitter"] = R.JITTER

    def save(self):
        torch.save(dict(model=self.model.state_dict(), cells=self.cells.state_dict(),
                        optimizer=self.optimizer.state_dict(), state=self.state), self.last + ".part")
        os.replace(self.last + ".part", self.last)

    def planned(self):
        plan = os.path.join(self.args.dir, "plan")
        if os.path.exists(plan):
            with open(plan) as f:
                return int(f.read())
        return self.args.samples

    def update(self, loss):
        """One optimizer step on the mean gradient of all ranks; false when a rank's loss was not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for q in self.parameters:
            if q.grad is None:
                q.grad = torch.zeros_like(q)
        flat = torch.cat([loss.detach().view(1)] + [q.grad.flatten() for q in self.parameters])
        dist.all_reduce(flat)
        flat /= self.args.ranks
        if not torch.isfinite(flat[0]):
            return False
        for q, g in zip(self.parameters, flat[1:].split([q.numel() for q in self.parameters])):
            q.grad.copy_(g.view_as(q))
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return True


def work(rank, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + os.path.abspath(os.path.join(args.dir, "meet")), rank=rank,
                            world_size=args.ranks, timeout=datetime.timedelta(hours=4))
    run, encoder = Run(args), data.Encoder()
    model, state = run.model, run.state
    say = (lambda *x: print(*x, flush=True)) if rank == 0 else (lambda *x: None)
    say(f"{sum(q.numel() for q in model.parameters()) / 1e6:.2f} M parameters,", "from", state)
    stream = data.Stream(state["samples"] // args.ranks, f"{args.seed}.{rank}", state["jitter"], args.batch)
    mean, mark, saved_at, planned = {}, (time.time(), state["samples"]), time.time(), run.planned()
    while True:
        if state["step"] % 20 == 0:
            planned = run.planned()
        share = state["samples"] / planned
        order = torch.tensor([rate(share, args.peak, (state["step"] + 1) / 200), share >= 1, state["jitter"]], dtype=torch.float64)
        dist.broadcast(order, 0)
        lr, stop, stream.jitter.value = order[0].item(), bool(order[1]), int(order[2])
        if stop:
            break
        for g in run.optimizer.param_groups:
            g["lr"] = lr
        batch = stream.next()
        losses, stats = step_losses(model, run.cells, batch, encoder.prompt, encoder.image_at)
        loss = losses["answer"] + 0.3 * losses["look"] + losses["char"] + 0.5 * (losses["field"] + losses["place"])
        if not run.update(loss):
            say("skipped a batch: the loss is not finite")
        state["step"] += 1
        state["samples"] += args.batch * args.ranks
        for k, v in [*((k, v.item()) for k, v in losses.items()), *(("%" + k, v) for k, v in stats.items() if v == v)]:
            mean[k] = v if k not in mean else 0.98 * mean[k] + 0.02 * v
        if state["step"] % 100 == 0 and mean["%char"] > 0.9 and state["jitter"] < R.JITTER:
            state["jitter"] += 1
        if rank:
            continue
        if state["step"] % 50 == 0:
            now = time.time()
            say(f"{state['samples']:7d} {100 * share:5.1f}% {(state['samples'] - mark[1]) / (now - mark[0]):5.1f}/s lr {lr:.1e}"
                f" jitter {state['jitter']} " + " ".join(f"{k} {v:.3f}" for k, v in mean.items()))
            mark = now, state["samples"]
        if state["step"] % 1000 == 0:
            say("evaluation", json.dumps(evaluate(model.eval(), encoder, 64, 1000)))
            model.train()
            mark = time.time(), state["samples"]
        if time.time() - saved_at > 240:
            run.save()
            saved_at = time.time()
    if rank == 0:
        run.save()
        export(model, os.path.join(args.dir, "hf"))
        say("done:", state)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dir", required=True)
    p.add_argument("--samples", type=int, default=300000)
    p.add_argument("--peak", type=float, default=1.5e-3)
    p.add_argument("--batch", type=int, default=16, help="pages a step and rank")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--init", help="start from the weights of this checkpoint directory")
    p.add_argument("--export", help="only write the checkpoint directory of RUN/last.pt (or of fresh weights)")
    args = p.parse_args()
    os.makedirs(args.dir, exist_ok=True)
    if args.export:
        export(Run(args).model, args.export)
        return
    meet = os.path.join(args.dir, "meet")
    if os.path.exists(meet):
        os.remove(meet)
    mp.start_processes(work, (args,), nprocs=args.ranks, start_method="spawn")


if __name__ == "__main__":
    main()
