#!/usr/bin/env python3
"""Predicts, on paper, how fast the model runs on GPUs that are not at hand.

    model_card.py           rewrite bench/results/model_card.md from bench/results/resources.md
    model_card.py --check   fail where the two do not belong together

Every kernel's hot loop, as NVRTC 12.9 compiles it (resources.md), says what a warp issues, and what
it moves through the load/store unit and the tensor cores, for each byte or product; the card's
rates say how long that takes an SM. The slowest of these bounds the kernel. What it reads from
memory is bounded by the card's bandwidth and, by Little's law, by the bytes that the resident warps
have on their way over the latency. The constants below are the assumptions, each with its source;
the page repeats them. Nothing here was measured on the cards.
"""

import os
import re
import sys
from math import ceil

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = os.path.join(ROOT, "bench", "results", "resources.md")
PAGE = os.path.join(ROOT, "bench", "results", "model_card.md")

# sm; SMs; GHz and GB/s as the makers publish them; latency: seconds from a load to its data while
# the memory is busy; hmma: cycles of an SM for one HMMA of a warp (884 step, 16816), from the
# published dense rate with float32 sums; Hopper's mma.sync reaches about 0.63 of it.
CARDS = {
    "V100": ("70", 80, 1.53, 900, 0.60e-6, 2 / 4),
    "L40S": ("89", 142, 2.52, 864, 0.65e-6, 16 / 4),
    "A100": ("80", 108, 1.41, 2039, 0.70e-6, 8 / 4),
    "H100": ("90", 132, 1.83, 3350, 0.75e-6, 4 / 4 / 0.63),
    "H200": ("90", 132, 1.83, 4800, 0.80e-6, 4 / 4 / 0.63),
}
MEMORY_GB = {"V100": 32, "L40S": 48, "A100": 80, "H100": 80, "H200": 141}
HMMA_FLOP = {"70": 512, "80": 4096, "89": 4096, "90": 4096}
COPY = 0.90        # of the published bandwidth, what a plain copy reaches (V100 0.9, H200 4.3 TB/s)
AHEAD = 0.75       # of a loop's loads on their way, averaged over the loop
GAP = 1.0e-6       # from the end of a kernel of a graph to the first instruction of the next
EARLY = 0.4e-6     # from there to where a kernel that began early goes on (sm_90)
L2 = 0.3e-6        # from a load to its data, where a kernel just wrote them
OUTSIDE = 1.2      # instructions of a warp outside its hot loop, for each that stands there
BEFORE = 0.7       # of them before it, in a matmul of single tokens
# How much of its bound a kernel reaches with this many warps for each of an SM's four schedulers.
HIDDEN = {1: 0.60, 2: 0.75, 3: 0.82, 4: 0.87}


def table():
    """{(kernel, sm): {column: number}} of resources.md."""
    rows = {}
    with open(TABLE) as f:
        lines = [[c.strip() for c in l.strip().strip("|").split("|")] for l in f if l[0] == "|"]
    for cells in lines[2:]:
        rows[cells[0], cells[1]] = dict(zip(lines[0][2:], map(int, cells[2:])))
    return rows


ROWS = table()


def find(pattern, sm):
    """The row of the one kernel whose name matches, or None."""
    for (kernel, arch), row in ROWS.items():
        if arch == sm and re.fullmatch(pattern, kernel):
            return row
    return None


def loop_cycles(row, hmma):
    """Cycles of an SM for one turn of one warp through the hot loop, by what bounds it."""
    return {"issue": row["loop"] / 4, "load/store": row["loop LSU"], "tensor": row["loop HMMA"] * hmma,
            "exp": row["loop MUFU"] * 2}


def hidden(warps):
    """The share of its bound that an SM reaches with this many warps resident."""
    return HIDDEN[max(1, min(4, int(warps / 4)))]


def resident_warps(row):
    return row["blocks"] * row["threads"] // 32


def is_early(card):
    """Whether the kernels of a token begin before the one in front has ended."""
    return int(CARDS[card][0]) >= 90


def small_kernel(card):
    """Seconds of a kernel that only passes activations on: two latencies and a launch."""
    return 2 * CARDS[card][4] + (EARLY if is_early(card) else GAP)


def stream(card, row, size, blocks, behind=0):
    """Seconds to stream size bytes with a grid of blocks, and what bounds it. behind: seconds that
    the kernel in front works while this one may fetch weights; 0 where it fetches nothing."""
    sm, sms, ghz, gb_s, latency, hmma = CARDS[card]
    turn = 32 * row["loop bytes"]  # bytes of a warp's turn
    cycles = loop_cycles(row, hmma)
    warps = row["threads"] // 32
    outside = OUTSIDE * (row["all"] - row["loop"]) / 4 / (size / blocks / warps / turn)
    bound = max(cycles, key=lambda c: cycles[c] + outside * (c == "issue"))

    def compute(resident, share=1):
        busy = min(sms, resident)
        slowest = max(cycles[c] + share * outside * (c == "issue") for c in cycles)
        return busy * ghz * 1e9 * turn / slowest * hidden(resident / busy * warps)

    def rate(resident):
        flying = resident * warps * turn * AHEAD / latency
        return min(gb_s * 1e9 * COPY, flying, compute(resident))
    slots = sms * row["blocks"]
    full, rest = divmod(blocks, slots)
    per_block = size / blocks
    seconds = full * slots * per_block / rate(slots)
    if rest:
        seconds += rest * per_block / rate(rest)
    least = rate(slots)
    why = "memory" if least == gb_s * 1e9 * COPY else bound if least == compute(slots) else "latency"
    if not is_early(card):
        return seconds + latency + GAP, why
    if not behind:
        return seconds + latency + EARLY, why
    # What the first blocks hold is fetched meanwhile, when they go on it is multiplied at once.
    first = min(blocks, slots)
    held = min(size, first * warps * turn)
    late = max(0, latency + held / (gb_s * 1e9 * COPY) - behind)
    return seconds + late + held * (1 / compute(first, 1 - BEFORE) - 1 / rate(first)) + L2 + EARLY, why


def tensor_rate(card, row):
    """FLOP/s of a kernel that computes, all SMs busy, and what bounds it."""
    sm, sms, ghz, _, _, hmma = CARDS[card]
    cycles = loop_cycles(row, hmma)
    bound = max(cycles, key=cycles.get)
    flop = row["loop HMMA"] * HMMA_FLOP[sm]
    return sms * ghz * 1e9 * flop / cycles[bound] * hidden(resident_warps(row)), bound


# ---- the model ----------------------------------------------------------------------------------

class Model:
    """Sizes of a checkpoint."""

    def __init__(self, name, hidden, inter, selfs, crosses, tile, memory):
        self.name, self.hidden, self.inter = name, hidden, inter
        self.selfs, self.crosses = selfs, crosses
        self.patches = (tile // 14) ** 2 + 1
        self.rows = 4 * ((self.patches + 7) // 8 * 8)  # of the vision tower, 4 tiles
        self.keys = 4 * self.patches                   # of cross attention
        self.memory = memory                           # GB by format

    def matrices(self, cross):
        """The matmuls of a layer for a token, as they are launched: [(rows, cols)]."""
        h, kv, inter = self.hidden, 1024, self.inter
        first = (h, h) if cross else (h + 2 * kv, h)
        return [first, (h, h), (2 * inter, h), (h, inter)]


SIZES = {"nf4": 54.2, "nf4-dq": 50.2, "int8": 91.6, "fp16": 177.2}
MODELS = [Model("11B, tiles of 560", 4096, 14336, 32, 8, 560,
                {"nf4": 8.8, "nf4-dq": 8.4, "int8": 12.6, "fp16": 21.3}),
          Model("11B, tiles of 448", 4096, 14336, 32, 8, 448,
                {"nf4": 8.8, "nf4-dq": 8.4, "int8": 12.6, "fp16": 21.3}),
          Model("90B, tiles of 560", 8192, 28672, 80, 20, 560, SIZES)]
VOCAB, CONTEXT, PROMPT = 128256, 512, 64

# format: bytes a weight, of them those of the codes, kernels of single tokens and of prompts
FORMATS = {
    "nf4": (0.5 + 4 / 64, 0.5, r"gemv_q4_kernel<false, 1, TILES>", r"gemm_quant_kernel<true, .*>"),
    "nf4-dq": (0.5 + 1 / 64, 0.5, r"gemv_q4_kernel<true, 1, TILES>", r"gemm_quant_kernel<true, .*>"),
    "int8": (1, 1, r"gemv_i8_kernel", r"gemm_quant_kernel<false, .*>"),
    "fp16": (2, 2, r"gemv_kernel", r"gemm_kernel<.*, false>"),
}
GEMV_ROWS = 16
# Kernels of a token that only pass activations on, as a run of the tests' model launches them: norms
# (with the sums before them), rotation with kv_append, rows made fp16, the activation; at the end
# the choice of the token.
SMALL = {"self": 5, "cross": 5, "rest": 8}
VISION_KERNEL, PREFILL_ATTENTION = r"vision_kernel<80, 32, true>", r"attn_prefill_kernel<128, __half>"
DECODE_ATTENTION = r"attn_decode_kernel<128, __half>"


def gemv(card, fmt, rows, cols):
    """Seconds and bound of one matmul of a token; (None, None) without a kernel."""
    weight, codes, pattern, _ = FORMATS[fmt]
    wide = fmt.startswith("nf4") and card != "V100" and rows / 2 / GEMV_ROWS >= 4 * CARDS[card][1]
    tiles = 2 if wide else 1
    row = find(pattern.replace("TILES", str(tiles)), CARDS[card][0])
    if row is None or not row["loop bytes"]:
        return None, None
    row = dict(row)
    row["loop bytes"] = row["loop bytes"] * weight / codes
    return stream(card, row, rows * cols * weight, ceil(rows / GEMV_ROWS / tiles),
                  2 * CARDS[card][4])


def gemm(card, fmt, n, rows, cols, added=0):
    """Seconds of one matmul of n rows by the best tile shape, or None; added: bytes an output that are
    read and added to it, or by which it is less than a float."""
    sm, sms, _, gb_s, latency, _ = CARDS[card]
    best = None
    for (kernel, arch), row in ROWS.items():
        shape = re.fullmatch(FORMATS[fmt][3], kernel) and re.findall(r"\d+", kernel.split("<")[1])
        if arch != sm or not shape or not row["loop HMMA"]:
            continue
        bm, bn = int(shape[0]), int(shape[1])
        rate, _ = tensor_rate(card, row)
        turns = ceil(ceil(n / bm) * ceil(rows / bn) / sms)
        seconds = turns * 2 * bm * bn * cols / (rate / sms)
        size = rows * cols * FORMATS[fmt][0] + n * (2 * cols + (4 + added) * rows)
        seconds = max(seconds, size / (gb_s * 1e9 * COPY))
        best = min(best or seconds, seconds)
    return best and best + latency + GAP


def attend(card, size, heads):
    """Seconds to read size bytes of keys and values for a token."""
    row = find(DECODE_ATTENTION, CARDS[card][0])
    gb_s = CARDS[card][3] * 1e9
    if row is None or not row["loop bytes"]:
        return size / (gb_s * 0.5) + 2 * (CARDS[card][4] + GAP)
    keys = size / (2 * 2 * 128 * heads)
    return stream(card, row, size, heads * min(64, ceil(keys / 256)))[0]


def token_parts(card, model, fmt):
    """Seconds of a token by what they go to: 4 tiles, CONTEXT tokens before it. None without a
    kernel."""
    ramp = L2 + EARLY if is_early(card) else CARDS[card][4] + GAP
    parts = dict.fromkeys(("matmuls", "their launches", "head", "attention", "small kernels"), 0.0)
    for cross, layers in ((False, model.selfs), (True, model.crosses)):
        for rows, cols in model.matrices(cross):
            seconds, _ = gemv(card, fmt, rows, cols)
            if seconds is None:
                return None
            parts["matmuls"] += layers * (seconds - ramp)
            parts["their launches"] += layers * ramp
        keys = model.keys if cross else CONTEXT
        parts["attention"] += layers * attend(card, keys * 2 * 1024 * 2, 8)
        small = layers * SMALL["cross" if cross else "self"]
        parts["small kernels"] += small * small_kernel(card)
    parts["head"], _ = gemv(card, "fp16", VOCAB, model.hidden)
    parts["small kernels"] += SMALL["rest"] * (2 * CARDS[card][4] + GAP)
    return None if parts["head"] is None else parts


def token(card, model, fmt):
    """Seconds a token, or None."""
    parts = token_parts(card, model, fmt)
    return parts and sum(parts.values())


def token_bytes(model, fmt):
    """Bytes read for a token."""
    weights = sum(layers * sum(r * c for r, c in model.matrices(cross))
                  for cross, layers in ((False, model.selfs), (True, model.crosses)))
    kv = 4 * 1024 * (model.selfs * CONTEXT + model.crosses * model.keys)
    return weights * FORMATS[fmt][0] + VOCAB * model.hidden * 2 + kv


def prefill(card, model, fmt, n):
    """Seconds for a prompt of n tokens behind an image; None without a kernel."""
    total = 0
    attention = find(PREFILL_ATTENTION, CARDS[card][0]) or find(VISION_KERNEL, CARDS[card][0])
    rate, _ = tensor_rate(card, attention)
    for cross, layers in ((False, model.selfs), (True, model.crosses)):
        for rows, cols in model.matrices(cross):
            seconds = gemm(card, fmt, n, rows, cols)
            if seconds is None:
                return None
            total += layers * seconds
        keys = model.keys if cross else n
        total += layers * (4 * n * keys * model.hidden / rate + 2 * GAP)
    return total + (gemv(card, "fp16", VOCAB, model.hidden)[0] or 0)


# What the kernels between a vision layer's matmuls read and write, in bytes for each of the (rows,
# 1280) activations: floats take 4, what a matmul or the attention reads 2.
VISION_PASSES = {
    "two norms": 2 * (4 + 2),
    "largest v": 4,
    "k, v to fp16": 2 * (4 + 2),
}


GELU_GEMM = "gemm_kernel<128, 128, 32, 64, 64, true>"


def gelu_alone(card, model):
    """Seconds that gelu takes an image if nothing else runs meanwhile: in its matmul's epilogue a
    warp takes 8 of the 64 rows a turn."""
    sm, sms, ghz = CARDS[card][:3]
    row = find(re.escape(GELU_GEMM), sm)
    if row is None:
        return None
    warps = ceil(model.rows / 128) * (5120 // 128) * 4
    issued = warps * (row["all"] - row["loop"]) * 8
    return 40 * issued / (sms * 4 * ghz * 1e9 * HIDDEN[2])


def image(card, model):
    """Seconds for an image of 4 tiles, to the keys and values of the cross layers."""
    t, rate = model.rows, tensor_rate(card, find(VISION_KERNEL, CARDS[card][0]))[0]
    layer = [gemm(card, "fp16", t, *shape) for shape in
             ((3840, 1280), (1280, 1280, 4), (5120, 1280, -2), (1280, 5120, 4))]
    end = [gemm(card, "fp16", t, model.hidden, 7680), gemm(card, "fp16", t, 2048, model.hidden)]
    if None in layer + end:
        return None
    passes = sum(VISION_PASSES.values()) * t * 1280 / (CARDS[card][3] * 1e9 * COPY)
    return 40 * (sum(layer) + 4 * t * t * 1280 / rate + passes) + end[0] + model.crosses * end[1]


# ---- the page -----------------------------------------------------------------------------------

def number(x, form="{:.0f}"):
    return "-" if x is None else form.format(x)


def grid(head, rows):
    out = ["| " + " | ".join(head) + " |", "|" + " --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(out + ["| " + " | ".join(r) + " |" for r in rows]) + "\n\n"


def fits(card, model, fmt):
    return model.memory[fmt] * 1.06 + 1.5 < MEMORY_GB[card]


def by_card(value):
    """Rows (model, format) by cards of value(card, model, format); what does not fit stays out."""
    rows = []
    for model in MODELS:
        for fmt in FORMATS:
            cells = [value(c, model, fmt) if fits(c, model, fmt) else "" for c in CARDS]
            if any(cells):
                rows.append([f"{model.name}, {fmt}"] + cells)
    return grid(["model and weights"] + list(CARDS), rows)


def decode_cell(card, model, fmt):
    seconds = token(card, model, fmt)
    if seconds is None:
        return "-"
    share = token_bytes(model, fmt) / seconds / CARDS[card][3] / 1e9
    return f"{1 / seconds:.0f} ({100 * share:.0f} %)"


def receipt_cell(card, model, fmt):
    parts = image(card, model), prefill(card, model, fmt, PROMPT), token(card, model, fmt)
    if None in parts:
        return "-"
    return " / ".join(f"{parts[0] + parts[1] + n * parts[2]:.2f}" for n in (64, 300, 512))


def kernels():
    """What bounds the large kernels on each card."""
    rows = []
    for fmt in FORMATS:
        for shape in ((28672, 4096), (4096, 14336), (4096, 4096)):
            cells = []
            for card in CARDS:
                seconds, bound = gemv(card, fmt, *shape)
                size = shape[0] * shape[1] * FORMATS[fmt][0]
                cells.append("-" if seconds is None else
                             f"{100 * size / seconds / CARDS[card][3] / 1e9:.0f} %, {bound}")
            rows.append([f"one token, {fmt}, {shape[0]} x {shape[1]}"] + cells)
    peak = {"V100": 125, "L40S": 362, "A100": 312, "H100": 989, "H200": 989}
    for fmt in FORMATS:
        cells = []
        for card in CARDS:
            seconds = gemm(card, fmt, 512, 28672, 4096)
            flop = 2 * 512 * 28672 * 4096
            cells.append("-" if seconds is None else f"{flop / seconds / peak[card] / 1e10:.0f} %")
        rows.append([f"512 tokens, {fmt}, 28672 x 4096"] + cells)
    cells = []
    for card in CARDS:
        rate, bound = tensor_rate(card, find(VISION_KERNEL, CARDS[card][0]))
        cells.append(f"{rate / peak[card] / 1e10:.0f} %, {bound}")
    rows.append(["vision attention"] + cells)
    return grid(["kernel"] + list(CARDS), rows)


def token_table():
    """Where a token's time goes."""
    columns = [token_parts(card, MODELS[0], "nf4-dq") for card in CARDS]
    if None in columns:
        return "No kernel yet.\n\n"
    return grid(["milliseconds"] + list(CARDS),
                [[part] + [f"{1e3 * c[part]:.2f}" for c in columns] for part in columns[0]])


def bars():
    """What this project asks of its kernels, beside what is predicted."""
    model, rows = MODELS[0], []

    def bar(what, card, least, predicted, unit, most=False):
        met = "no kernel yet" if predicted is None else \
            "met" if (predicted <= least if most else predicted >= least) else "missed"
        rows.append([f"{card}: {what}", f"{'at most' if most else 'at least'} {least} {unit}",
                     number(predicted, "{:.0f} " + unit), met])

    for card, least in (("L40S", 119), ("V100", 108), ("H200", 540)):
        seconds = token(card, model, "nf4-dq")
        bar("tokens with nf4-dq behind an image", card, least, seconds and 1 / seconds, "a second")
    seconds, _ = gemv("H200", "nf4-dq", 28672, 4096)
    size = 28672 * 4096 * FORMATS["nf4-dq"][0]
    bar("a large matmul of a token, nf4-dq", "H200", 75, seconds and size / seconds / 48e9,
        "% of the bandwidth")
    for card, peak in (("V100", 125), ("L40S", 362), ("H200", 989)):
        seconds = gemm(card, "nf4", 512, 28672, 4096)
        share = seconds and 2 * 512 * 28672 * 4096 / seconds / peak / 1e10
        bar("nf4 matmul of 512 tokens", card, 55, share, "% of the peak")
    for card, most in (("V100", 300), ("L40S", 90), ("H200", 35)):
        seconds = image(card, model)
        bar("an image of 4 tiles", card, most, seconds and seconds * 1e3, "ms", True)
    return grid(["bar", "asked", "predicted", ""], rows)


def assumptions():
    rows = [[c, f"sm_{v[0]}", str(v[1]), str(v[2]), str(v[3]), f"{v[4] * 1e6:.2f}", f"{v[5]:.2f}"]
            for c, v in CARDS.items()]
    return grid(["card", "code", "SMs", "GHz", "GB/s", "latency, us", "cycles a HMMA"], rows)


def page():
    return f"""# The model on cards that are not at hand, on paper

Made by `bench/model_card.py` from resources.md: what a warp issues and moves in every kernel's hot
loop, as compiled, against the rates of the card. **Nothing here was measured on these cards**; the
figures say what bounds a kernel and which bar it cannot reach, and are to be replaced by those of
`make gpu-test`. A dash: the kernel is not written yet; an empty cell: the weights do not fit.

## Tokens a second

One sequence, {CONTEXT} tokens and an image of 4 tiles before it, the head in 16 bits; in brackets the
share of the published bandwidth that the bytes read make.

{by_card(decode_cell)}Where the time of a token goes (11B, tiles of 560, nf4-dq); launches: from the end of one kernel to the
first data of the next.

{token_table()}## Image, prompt

Milliseconds for an image of 4 tiles / a prompt of {CONTEXT} tokens.

{by_card(lambda c, m, f: number(image(c, m) and 1e3 * image(c, m)) + " / "
         + number(prefill(c, m, f, CONTEXT) and 1e3 * prefill(c, m, f, CONTEXT)))}## Seconds a receipt

An image of 4 tiles, {PROMPT} tokens of prompt, an answer of 64 / 300 / 512 tokens.

{by_card(receipt_cell)}## The bars

What is asked of the kernels (11B, tiles of 560).

{bars()}## What bounds the kernels

Share of the published bandwidth or dense tensor rate, and the bound: memory, latency (bytes on their
way, Little's law), or issue, load/store, tensor, exp of the SM.

{kernels()}## Assumptions

{assumptions()}- A plain copy reaches {COPY:.0%} of the published bandwidth; no kernel more.
- Bytes on their way: resident warps times the loads of a turn of the hot loop times {AHEAD}.
- An SM issues 4 instructions a cycle, moves 128 bytes, does a quarter of an exp for a warp; a kernel
  reaches {", ".join(f"{v:.0%}" for v in HIDDEN.values())} of that with 1, 2, 3, 4 warps a scheduler.
- Kernels of a token are also charged what a warp does outside its hot loop: {OUTSIDE} times the
  instructions that stand there, for short loops; of prompts and images the hot loop is all. The ramp
  of each launch is a latency and {GAP * 1e6:.0f} us.
- Between a vision layer's matmuls and its attention the other kernels move {sum(VISION_PASSES.values())} bytes for each
  activation ({"; ".join(VISION_PASSES)}), all from memory.
- Residuals and gelu are in the epilogues of the matmuls, their bytes counted there; gelu's instructions are
  taken to run beside the products of the SM's other block. If nothing did, an image would take
  {", ".join(f"{1e3 * gelu_alone(c, MODELS[0]):.1f}" for c in CARDS)} ms more on {", ".join(CARDS)}.
- {SMALL["self"]} small kernels a self layer, {SMALL["cross"]} a cross layer, {SMALL["rest"]} a token, each two
  latencies and a launch; decoded tokens are one graph.
- From sm_90 on these and the matmuls of a layer begin early (docs/GPU.md): {EARLY * 1e6:.1f} us instead of
  {GAP * 1e6:.0f} between two of them, and a matmul's first blocks have fetched what they hold while the
  kernel in front worked for two latencies; {L2 * 1e6:.1f} us then for the activations, from L2.
- Hopper's mma.sync reaches 0.63 of the published rate, which wgmma has; clocks do not throttle.
"""


def main(arguments):
    if arguments == ["--check"]:
        with open(PAGE) as f:
            if f.read() == page():
                return 0
        print("bench/results/model_card.md is not what resources.md gives: `make resources`")
        return 1
    with open(PAGE, "w") as f:
        f.write(page())
    print(os.path.relpath(PAGE))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
