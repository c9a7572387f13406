#!/usr/bin/env python3
"""mllama beside what else does the same work: torch, transformers, bitsandbytes, llama.cpp.

    bench/peers/run.py [PART...] [--build build] [--venv build-peers] [--out bench/results/peers]

Parts: matmul, attn (torch), q4 (bitsandbytes' and llama.cpp's 4-bit products, torch), model (transformers in
bf16 and NF4, a whole answer to an image), llama (llama.cpp, a whole decoder); default: all. Every part runs both sides in turn, repetition by
repetition. Makes the virtual environment of bench/peers/requirements.txt (6 GB with torch) where there is none. OUT.json
and OUT.md hold one table with the ratios; rows of parts that did not run stay from the last time, with their own
commit and date. Brings the build folder up to date first, so that the commit that its mllama tells is that of
everything measured.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import venv

from peer_tools import ROOT, cpu_name, facts, show, table, write

HERE = pathlib.Path(__file__).resolve().parent


def enter_venv(folder):
    """Goes on in the environment, which it makes first where it is not complete."""
    python = folder / "bin" / "python"
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    wanted = (HERE / "requirements.txt").read_text()
    mark = folder / "requirements.txt"
    if not mark.exists() or mark.read_text() != wanted:
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
        mark.write_text(wanted)
    os.execv(python, [python, *sys.argv])


def row(work, unit, peer, ours, theirs, faster):
    """ours, theirs: stats or one number in unit; faster: how many times as fast we are."""
    return {"work": work, "unit": unit, "peer": peer, "ours": ours, "theirs": theirs, "faster": faster}


def speeds(work, unit, peer, ours, theirs):
    return row(work, unit, peer, ours, theirs, ours["median"] / theirs["median"])


def matmul(args, out):
    call(args, "torch_matmul.py", args.build / "bench/matmul_bench", out, "--threads", args.threads)
    return [row(f"matmul {r['compute']} {r['n']} x {r['cols']} -> {r['rows']}", "GFLOP/s", f"torch {r['compute']}",
                r["gflops"], r["torch_gflops"], r["share_of_torch"]["median"])
            for r in json.loads(out.with_suffix(".json").read_text())["matmul"]]


def attn(args, out):
    call(args, "torch_attn.py", args.build / "bench/attn_bench", out, "--threads", args.threads)
    return [speeds("attention, " + r["request"], r["unit"], "torch " + name, r["speed"], theirs)
            for r in json.loads(out.with_suffix(".json").read_text())["attention"]
            for name, theirs in r["torch"].items()]


def read_tables(text):
    """Every markdown table as a list of {column: cell}."""
    tables, lines = [], []
    for line in text.splitlines() + [""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif lines:
            tables.append([dict(zip(lines[0], cells)) for cells in lines[2:]])
            lines = []
    return tables


def q4(args, out):
    path = out.with_suffix(".md")
    call(args, "q4_matmul.py", args.build / "bench/matmul_bench", path, args.threads)
    from q4_matmul import BITS  # which needs torch

    decode, prefill = read_tables(path.read_text())[:2]
    rows = []
    bnb, q4_0 = "bitsandbytes, bf16", "Q4_0, int8 dot"
    pairs = [("nf4", bnb), ("nf4, bf16 dot", bnb), ("nf4, int8 dot", bnb), ("nf4", q4_0), ("nf4, int8 dot", q4_0)]
    for r in decode:
        rate = {name: {"median": float(r[name]) * 8 / bits} for name, bits in BITS.items() if float(r[name]) > 0}
        rows += [speeds(f"one row, {mine}, {r['out x in']}", "G weights/s", theirs.replace("Q4_0", "llama.cpp Q4_0"),
                        rate[mine], rate[theirs]) for mine, theirs in pairs if theirs in rate]
    for r in prefill:
        rows += [speeds(f"{r['rows']} rows, {mine}, {r['out x in']}", "GFLOP/s", theirs.replace("Q4_0", "llama.cpp Q4_0"),
                        {"median": float(r[mine])}, {"median": float(r[theirs])})
                 for mine, theirs in [("nf4", "torch f32"), ("nf4, bf16 dot", "torch bf16"), *pairs[1:]]
                 if float(r[theirs]) > 0]
    return rows


def model(args, out):
    folder = args.venv / "synthetic"
    if not (folder / "config.json").exists():
        call(args, "make_synthetic.py", folder)
    call(args, "hf_end_to_end.py", folder, "--binary", args.build / "mllama", "--output", out)
    peers = json.loads(out.with_suffix(".json").read_text())["stats"]
    rows = []
    for mine, theirs in [("mllama", "transformers bf16"), ("mllama --compute bf16", "transformers bf16"),
                         ("mllama --quant nf4", "transformers nf4")]:
        a, b = peers[mine], peers[theirs]
        rows.append(speeds(f"{mine}: a token behind an image", "tokens/s", theirs, a["decode"], b["decode"]))
        rows.append(row(f"{mine}: an image of 4 tiles", "s", theirs, a["vision"], b["vision"],
                        b["vision"]["median"] / a["vision"]["median"]))
        mb = [{"median": x["resident"]["median"] / 1e6} for x in (a, b)]
        rows.append(row(f"{mine}: peak memory", "MB", theirs, *mb, None))
    return rows


def llama(args, out):
    call(args, "make_gguf.py", args.venv / "gguf")
    call(args, "llama_model.py", args.build / "mllama", args.venv / "gguf", out, "--threads", args.threads)
    data = json.loads(out.with_suffix(".json").read_text())
    rows = []
    for mine, theirs in [("bf16", "llama.cpp F16"), ("bf16, --compute bf16", "llama.cpp F16"),
                         *((mine, "llama.cpp Q4_0") for mine in ("nf4", "nf4, --compute bf16", "nf4, --compute int8"))]:
        a, b = data["stats"][mine], data["stats"][theirs]
        rows.append(speeds(f"1b, {mine}: a prompt of {data['prompt']}", "tokens/s", theirs, a["prompt"], b["prompt"]))
        rows.append(speeds(f"1b, {mine}: a token", "tokens/s", theirs, a["decode"], b["decode"]))
    return rows


PARTS = {"matmul": matmul, "attn": attn, "q4": q4, "model": model, "llama": llama}


def call(args, script, *words):
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    subprocess.run([sys.executable, HERE / script, *map(str, words)], check=True, env=environment)


def cell(value):
    digits = 0 if value["median"] >= 100 else 1 if value["median"] >= 10 else 2
    return show(value, digits) if "p10" in value else f"{value['median']:.{digits}f}"


def markdown(data):
    lines = [f"{data['cpu']}. Median (p10-p90), both sides in turn; faster: how many times as fast mllama is."]
    for part, d in data["parts"].items():
        lines += ["", f"{part}: {d['threads']} threads, {d['date']}, commit {d['commit']}", ""]
        lines += table(["work", "unit", "mllama", "peer", "theirs", "faster"],
                       [[r["work"], r["unit"], cell(r["ours"]), r["peer"], cell(r["theirs"]),
                         f"{r['faster']:.2f}" if r["faster"] else ""] for r in d["rows"]], 1)
    return lines


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    p.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    p.add_argument("--venv", type=pathlib.Path, default=ROOT / "build-peers")
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results/peers")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = p.parse_args()
    wrong = [part for part in args.parts if part not in PARTS]
    if wrong:
        p.error(f"no part {wrong[0]}: there are {', '.join(PARTS)}")
    args.build, args.venv = args.build.resolve(), args.venv.resolve()
    enter_venv(args.venv)
    subprocess.run(["cmake", "--build", args.build, "--target", "mllama", "matmul_bench", "attn_bench"], check=True,
                   stdout=sys.stderr)
    old = args.out.with_suffix(".json")
    data = json.loads(old.read_text()) if old.exists() else {"parts": {}}
    data["cpu"] = cpu_name()
    for part in args.parts or PARTS:
        rows = PARTS[part](args, args.venv / ("result-" + part))
        data["parts"][part] = facts(args.build / "mllama") | {"threads": args.threads, "rows": rows}
        write(args.out, data, markdown(data))


if __name__ == "__main__":
    main()
