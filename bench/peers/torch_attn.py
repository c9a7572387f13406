#!/usr/bin/env python3
"""Attention beside torch's scaled_dot_product_attention: same shapes, same threads, in turn.

    bench/peers/torch_attn.py BUILD/bench/attn_bench OUT [--threads 2] [--repeats 5]
        [--cpu-time]

Writes OUT.json and OUT.md. Vision and prefill in GFLOP/s (4 rows^2 heads dim, half of it where
causal) against torch in float32 and bf16; decode in GB/s of K and V against a read of the same
memory, and against torch. Medians, p10 and p90 over repetitions. --cpu-time: one
thread each, timed by its CPU time (but for the read): for machines that are never quiet.
"""
import argparse
import time

import torch

from peer_tools import PAUSE, Ours, facts, show, stats, table, write

VISION = [(6432, 16, 80)]
PREFILL = [(512, 32, 8, 128)]
DECODE = [(4096, 32, 8, 128)]
SEQS = 8  # of a decode, as attn_bench has it


def torch_seconds(q, k, v, causal, clock):
    time.sleep(PAUSE)
    start = clock()
    torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
    return clock() - start


def measure(ours, request, work, tensors, causal, repeats, clock):
    """work: FLOP or bytes of one call; tensors: {name: (q, k, v)} for torch."""
    mine, read, theirs = [], [], {name: [] for name in tensors}
    for i in range(repeats + 1):
        answer = ours.ask(request)
        seconds = {name: torch_seconds(*t, causal, clock) for name, t in tensors.items()}
        if i > 0:
            mine.append(work / answer[0] * 1e-9)
            read.append(answer[2] if len(answer) > 2 else 0)
            for name in tensors:
                theirs[name].append(work / seconds[name] * 1e-9)
    row = {"request": request, "unit": "GB/s" if any(read) else "GFLOP/s", "speed": stats(mine),
           "torch": {name: stats(v) for name, v in theirs.items()}}
    if any(read):
        row["read_gb_s"] = stats(read)
    return row


def qkv(seqs, rows, keys, heads, kv_heads, dim, dtypes):
    t = [torch.rand(seqs, h, n, dim).sub_(0.5) for h, n in ((heads, rows), (kv_heads, keys), (kv_heads, keys))]
    return {str(d).split(".")[1]: [x.to(d) for x in t] for d in dtypes}


def markdown(out):
    head = [f"{out['cpu']}, {out['threads']} threads, torch {out['torch']}, {out['date']}, {out['clock']}, "
            f"commit {out['commit']}; median (p10-p90) of {out['repeats']} repetitions in turn", ""]
    theirs = lambda r: [show(r["torch"][n], 1) if n in r["torch"] else "" for n in ("float32", "bfloat16")]
    return head + table(["shape", "unit", "ours", "torch float32", "torch bfloat16", "memory read"],
                        [[r["request"], r["unit"], show(r["speed"], 1), *theirs(r),
                          show(r["read_gb_s"], 1) if "read_gb_s" in r else ""] for r in out["attention"]], 2)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("out")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--cpu-time", action="store_true")
    args = p.parse_args()
    args.threads = 1 if args.cpu_time else args.threads
    clock = time.thread_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    ours = Ours(args.program, args.threads, args.cpu_time)
    both, rows = (torch.float32, torch.bfloat16), []
    with torch.inference_mode():
        for n, h, d in VISION:
            rows.append(measure(ours, f"vision {n} {h} {d}", 4.0 * n * n * h * d, qkv(1, n, n, h, h, d, both), False,
                                args.repeats, clock))
        for n, h, kv, d in PREFILL:
            rows.append(measure(ours, f"prefill {n} {h} {kv} {d}", 2.0 * n * n * h * d,
                                qkv(1, n, n, h, kv, d, both), True, args.repeats, clock))
        for n, h, kv, d in DECODE:
            rows.append(measure(ours, f"decode {n} {h} {kv} {d}", 8.0 * SEQS * n * kv * d,
                                qkv(SEQS, 1, n, h, kv, d, both[:1]), False, args.repeats, clock))
    out = facts(args.program) | {"threads": args.threads, "torch": torch.__version__, "repeats": args.repeats,
                     "clock": "CPU time of one thread" if args.cpu_time else "wall", "attention": rows}
    write(args.out, out, markdown(out))


if __name__ == "__main__":
    main()
