#!/usr/bin/env python3
"""op_matmul beside torch.nn.functional.linear: same shapes, same threads, call by call in turn.

    bench/peers/torch_matmul.py BUILD/bench/matmul_bench OUT [--threads 2] [--repeats 9]
        [--cpu-time]

Writes OUT.json and OUT.md. Also the matrices of one decode step (memory bound) beside a read of the
same memory. Each repetition runs every contender once; medians, p10 and p90 over repetitions. --cpu-time: one thread
each, timed by its CPU time: for machines that are never quiet.
"""
import argparse
import time

import torch

from peer_tools import PAUSE, Ours, facts, show, stats, table, write

SHAPES = [  # rows of x, out features, in features
    (512, 1280, 1280), (6432, 1280, 1280), (512, 5120, 1280), (6432, 5120, 1280),
    (512, 1280, 5120), (6432, 1280, 5120), (512, 4096, 4096), (512, 14336, 4096),
    (512, 4096, 14336), (64, 4096, 4096),
]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def torch_seconds(x, w, clock):
    time.sleep(PAUSE)
    start = clock()
    torch.nn.functional.linear(x, w)
    return clock() - start


def matmul_row(ours, shape, kind, repeats, clock):
    n, rows, cols = shape
    x = torch.rand(n, cols).sub_(0.5).to(DTYPES[kind])
    w = torch.rand(rows, cols).sub_(0.5).to(DTYPES[kind])
    mine, theirs, share = [], [], []
    for i in range(repeats + 1):
        a = ours.ask(f"matmul {kind} {n} {rows} {cols}")[0]
        b = torch_seconds(x, w, clock)
        if i > 0 and a > 0:
            mine.append(2e-9 * n * rows * cols / a)
            theirs.append(2e-9 * n * rows * cols / b)
            share.append(b / a)
    if not mine:
        return None
    return {"n": n, "rows": rows, "cols": cols, "compute": kind, "gflops": stats(mine),
            "torch_gflops": stats(theirs), "share_of_torch": stats(share)}


def decode_row(ours, kind, n, repeats):
    speed, read, share = [], [], []
    for i in range(repeats + 1):
        r = ours.ask("read")[0]
        seconds, size = ours.ask(f"decode {kind} {n}")
        if i > 0 and seconds > 0:
            read.append(r)
            speed.append(size / seconds * 1e-9)
            share.append(speed[-1] / r)
    if not speed:
        return None
    return {"n": n, "compute": kind, "bytes": size, "gb_s": stats(speed), "read_gb_s": stats(read),
            "bandwidth_share": stats(share)}


def markdown(out):
    head = [f"{out['cpu']}, {out['threads']} threads, torch {out['torch']}, {out['date']}, commit {out['commit']}, "
            f"{out['clock']}; median (p10-p90) of {out['repeats']} repetitions in turn", ""]
    matmul = table(["n", "out", "in", "compute", "GFLOP/s", "torch GFLOP/s", "share of torch"],
                   [[r["n"], r["rows"], r["cols"], r["compute"], show(r["gflops"], 0), show(r["torch_gflops"], 0),
                     show(r["share_of_torch"], 2)] for r in out["matmul"]])
    decode = table(["n", "compute", "GB/s", "memory read GB/s", "share"],
                   [[r["n"], r["compute"], show(r["gb_s"], 1), show(r["read_gb_s"], 1), show(r["bandwidth_share"], 2)]
                    for r in out["decode"]])
    return head + matmul + ["", "One decode step of a 1B-like decoder (2.5 GB of bf16 weights), n rows:", ""] + decode


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("out")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeats", type=int, default=9)
    p.add_argument("--cpu-time", action="store_true")
    p.add_argument("--decode-only", action="store_true")
    args = p.parse_args()
    if args.cpu_time:
        args.threads = 1
    torch.set_num_threads(args.threads)
    ours = Ours(args.program, args.threads, args.cpu_time)
    clock = time.thread_time if args.cpu_time else time.perf_counter
    out = facts(args.program) | {"threads": args.threads, "torch": torch.__version__, "repeats": args.repeats,
                     "clock": "thread CPU time" if args.cpu_time else "wall"}
    rows = [decode_row(ours, kind, n, args.repeats)
            for kind, n in (("f32", 1), ("bf16", 1), ("f32", 4), ("f32", 8))]
    out["decode"] = [r for r in rows if r]
    with torch.inference_mode():
        rows = [] if args.decode_only else [matmul_row(ours, shape, kind, args.repeats, clock)
                                            for shape in SHAPES for kind in DTYPES]
    out["matmul"] = [r for r in rows if r]
    write(args.out, out, markdown(out))


if __name__ == "__main__":
    main()
