#!/usr/bin/env python3
"""Draws saved results of mllama bench: decoding against the memory's limit, ops against their roofline.

    build-peers/bin/python bench/plot.py decode MODEL.json... -o docs/plots/decode
    build-peers/bin/python bench/plot.py roofline OPS.json -o docs/plots/roofline

Writes OUT.svg and OUT.png, the same bytes for the same results. MODEL.json: `bench model -o json`, its rows that
decode one session; the limit is the memory read beside them over the bytes a token needs. OPS.json: `bench ops -o
json`; the roof is the median of the rates measured beside its cases. Needs matplotlib, which
bench/peers/requirements.txt has.
"""
import argparse
import json
import pathlib
import statistics

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "mllama", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
                        "axes.spines.right": False}
import matplotlib.pyplot as plt  # noqa: E402


CACHED = 256e6  # bytes of weights that might stay in a cache, so that memory is no limit


def made_by(rows):
    return f"{rows[0]['device']}, commit " + ", ".join(dict.fromkeys(r["build_commit"] for r in rows))


def save(figure, out):
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(out.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(out.with_suffix(".png"), dpi=110, metadata={"Software": None})


def draw_decode(rows, out):
    rows = [r for r in rows if r["bandwidth_share"] and r["n_batch"] == 1 and r["weight_bytes"] > CACHED]
    if not rows:
        raise SystemExit("no row decodes one session on a CPU: bench model -n 64 -o json")
    figure, axis = plt.subplots(figsize=(7, 0.9 + 0.42 * len(rows)))
    for i, r in enumerate(rows):
        limit = r["tokens_per_s"] / r["bandwidth_share"]
        axis.barh(i, 100 * r["bandwidth_share"], color="#4477aa", height=0.6)
        axis.plot([100, 100], [i - 0.4, i + 0.4], color="#cc3311", linewidth=2)
        axis.text(2, i, f"{r['tokens_per_s']:.4g} of {limit:.4g} tokens/s, {r['read_gb_s']:.0f} GB/s", va="center",
                  color="white")
    names = [f"{pathlib.Path(r['model']).name}, {r['quant']}, {r['test']}" + (", image" if r["image_tiles"] else "")
             for r in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, max(105, *(100 * r["bandwidth_share"] + 3 for r in rows)))
    axis.set_xlabel("decoding, % of what reading the weights would allow (red)")
    axis.set_title(made_by(rows), fontsize=9, loc="left")
    save(figure, out)


def group(row):
    if not row["op"].startswith("matmul"):
        return row["op"] if row["op"].startswith("attn") else "other ops"
    return "matmul " + row["shape"].split()[-2]


def draw_roofline(rows, out):
    rows = [r for r in rows if r["flop"] > 0 and r["peak_tflop_s"]]
    if not rows:
        raise SystemExit("no row with operations and a peak rate: bench ops -o json")
    read = statistics.median(r["read_gb_s"] for r in rows) * 1e9
    peak = statistics.median(r["peak_tflop_s"] for r in rows) * 1e12
    figure, axis = plt.subplots(figsize=(7, 4.6))
    intensity = [r["flop"] / r["bytes"] for r in rows]
    ends = [min(intensity) / 2, peak / read, max(intensity) * 2]
    axis.plot(ends, [min(x * read, peak) / 1e9 for x in ends], color="#cc3311",
              label=f"{read / 1e9:.0f} GB/s, {peak / 1e9:.0f} GFLOP/s")
    markers = dict(zip(sorted({group(r) for r in rows}), "osD^vPX*<>"))
    for name, marker in markers.items():
        some = [r for r in rows if group(r) == name]
        axis.scatter([r["flop"] / r["bytes"] for r in some], [r["tflop_s"] * 1e3 for r in some], marker=marker, s=22,
                     alpha=0.8, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations a byte")
    axis.set_ylabel("GFLOP/s, cold")
    axis.set_title(made_by(rows), fontsize=9, loc="left")
    axis.legend(fontsize=8, frameon=False)
    save(figure, out)


def main():
    draws = {"decode": draw_decode, "roofline": draw_roofline}
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("plot", choices=draws)
    p.add_argument("results", nargs="+", type=pathlib.Path)
    p.add_argument("-o", "--out", required=True, type=pathlib.Path)
    args = p.parse_args()
    draws[args.plot]([row for path in args.results for row in json.loads(path.read_text())], args.out)


if __name__ == "__main__":
    main()
