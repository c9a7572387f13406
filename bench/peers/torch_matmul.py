#!/usr/bin/env python3
"""op_matmul beside torch.nn.functional.linear: same shapes, same threads, call by call in turn.

    bench/peers/torch_matmul.py BUILD/bench/matmul_bench OUT [--threads 2] [--repeats 9]
        [--cpu-time]

Writes OUT.json and OUT.md. Also the matrices of one decode step (memory bound) beside a read of the
same memory. Each repetition runs every contender once; medians, p10 and p90 over repetitions. --cpu-time: one thread
each, timed by its CPU time: for machines that are never quiet.
"""
import argparse
import datetime
import json
import platform
import statistics
import subprocess
import time

import torch

SHAPES = [  # rows of x, out features, in features
    (512, 1280, 1280), (6432, 1280, 1280), (512, 5120, 1280), (6432, 5120, 1280),
    (512, 1280, 5120), (6432, 1280, 5120), (512, 4096, 4096), (512, 14336, 4096),
    (512, 4096, 14336), (64, 4096, 4096),
]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
PAUSE = 0.05  # until the other side's idle threads sleep


class Ours:
    def __init__(self, program, threads, cpu_time):
        option = ["--cpu-time"] if cpu_time else []
        self.child = subprocess.Popen([program, str(threads)] + option, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        time.sleep(PAUSE)
        self.child.stdin.write(request + "\n")
        self.child.stdin.flush()
        return [float(x) for x in self.child.stdout.readline().split()]


def stats(values):
    v = sorted(values)
    pick = lambda q: v[min(len(v) - 1, int(q * len(v)))]
    return {"median": statistics.median(v), "p10": pick(0.1), "p90": pick(0.9)}


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


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def write_markdown(path, out):
    show = lambda s, digits: f"{s['median']:.{digits}f} ({s['p10']:.{digits}f}-{s['p90']:.{digits}f})"
    with open(path, "w") as f:
        f.write(f"{out['cpu']}, {out['threads']} threads, torch {out['torch']}, {out['date']}, "
                f"commit {out['commit']}, {out['clock']}; median (p10-p90) of {out['repeats']} repetitions in turn\n\n"
                "| n | out | in | compute | GFLOP/s | torch GFLOP/s | share of torch |\n"
                "|---|---|---|---|---|---|---|\n")
        for r in out["matmul"]:
            f.write(f"| {r['n']} | {r['rows']} | {r['cols']} | {r['compute']} | "
                    f"{show(r['gflops'], 0)} | {show(r['torch_gflops'], 0)} | "
                    f"{show(r['share_of_torch'], 2)} |\n")
        f.write("\nOne decode step of a 1B-like decoder (2.5 GB of bf16 weights), n rows:\n\n"
                "| n | compute | GB/s | memory read GB/s | share |\n|---|---|---|---|---|\n")
        for r in out["decode"]:
            f.write(f"| {r['n']} | {r['compute']} | {show(r['gb_s'], 1)} | "
                    f"{show(r['read_gb_s'], 1)} | {show(r['bandwidth_share'], 2)} |\n")


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
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True).stdout.strip()
    out = {"cpu": cpu_name(), "threads": args.threads, "torch": torch.__version__,
           "date": datetime.date.today().isoformat(), "commit": commit, "repeats": args.repeats,
           "clock": "thread CPU time" if args.cpu_time else "wall"}
    rows = [decode_row(ours, kind, n, args.repeats)
            for kind, n in (("f32", 1), ("bf16", 1), ("f32", 4), ("f32", 8))]
    out["decode"] = [r for r in rows if r]
    with torch.inference_mode():
        rows = [] if args.decode_only else [matmul_row(ours, shape, kind, args.repeats, clock)
                                            for shape in SHAPES for kind in DTYPES]
    out["matmul"] = [r for r in rows if r]
    with open(args.out + ".json", "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")
    write_markdown(args.out + ".md", out)
    print(open(args.out + ".md").read())


if __name__ == "__main__":
    main()
