"""What quantising costs: weights, layers, logits and fields against the 16-bit weights.

    python bench/quant_error.py MLLAMA TRUTH.jsonl OUT.md [N]      (needs numpy and safetensors)

The answers of N receipts of TRUTH.jsonl (default 200) are fed token by token as the plain embedded model
gave them: relative RMS error of the stream behind each decoder layer and of the logits, mean KL divergence
from the plain model's distribution, how often the likeliest token is the same; and the share of fields
that `mllama eval` finds exact on all receipts. Then the same, without fields, for a wider model of
normally distributed weights. `mllama quantize` writes what bitsandbytes would (tests/unit/test_quantise.c);
fp16 and FP4 are made here.
"""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

EMBEDDED = pathlib.Path(__file__).parent.parent / "models" / "receipts-tiny"
QUESTION = ("Extract the receipt as JSON with store_name, date (YYYY-MM-DD), total_amount, payment_method and "
            "items (item_name, quantity, price).")  # FLD_QUESTION of extract/fields.h
STATE = ".quant_state.bitsandbytes__"
NF4, DQ, INT8 = ["--nf4"], ["--nf4", "--double-quant"], ["--int8"]
TOWER, PROJECTOR, HEAD, CROSS = "vision_model", "multi_modal_projector", "lm_head", "cross_attn"
TYPES = [("bf16", None, None), ("fp16", "fp16", None), ("int8", INT8, None), ("nf4", NF4, None),
         ("nf4-dq", DQ, None), ("fp4", "fp4", None)]
CHOICES = [("nf4: self attention and MLP", NF4, [TOWER, PROJECTOR, HEAD, CROSS]),
           ("+ cross_attn", NF4, [TOWER, PROJECTOR, HEAD]), ("+ lm_head", NF4, [TOWER, PROJECTOR, CROSS]),
           ("+ projector", NF4, [TOWER, HEAD, CROSS]), ("+ tower", NF4, [PROJECTOR, HEAD, CROSS]),
           ("+ all but lm_head", NF4, [HEAD]), ("+ all", NF4, ["none"]),
           ("int8: self attention and MLP", INT8, [TOWER, PROJECTOR, HEAD, CROSS]),
           ("+ cross_attn", INT8, [TOWER, PROJECTOR, HEAD]), ("+ all", INT8, ["none"])]
FP4 = np.array([0, 0.0052083333, 0.6666667, 1, 0.33333334, 0.5, 0.16666667, 0.25], np.float32)
FP4 = np.concatenate([FP4, -FP4])  # quant_values_fp4 of loader/quant_state.c


# ---- checkpoints -------------------------------------------------------------------------------------------


def read_model(folder):
    """name -> (dtype, shape, bytes); numpy has no bfloat16."""
    data = (pathlib.Path(folder) / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0] + 8
    header = json.loads(data[8:n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[n + v["data_offsets"][0]:n + v["data_offsets"][1]])
            for k, v in header.items()}


def write_model(folder, source, tensors, config=None):
    """A directory with source's other files."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def widen(tensor):
    dtype, shape, data = tensor
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32).reshape(shape)


def narrow(x):
    """float32 to bf16, to the nearest, halves to even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16).tobytes()


def to_fp16(source, out):
    write_model(out, source, {k: ("F16", t[1], widen(t).astype(np.float16).tobytes())
                              for k, t in read_model(source).items()})


def to_fp4(source, nf4, out):
    """The NF4 directory with other codes and values; absmax is the same."""
    plain, tensors = read_model(source), {}
    order = np.argsort(FP4, kind="stable")
    middles = (FP4[order][1:] + FP4[order][:-1]) / 2
    quantised = read_model(nf4)
    for name, (dtype, shape, data) in quantised.items():
        if name.endswith(".quant_map"):
            data = FP4.tobytes()
        elif name.endswith(STATE + "nf4"):
            name, data = name[:-3] + "fp4", data.replace(b'"nf4"', b'"fp4"')
            shape = [len(data)]
        elif name + STATE + "nf4" in quantised:
            x = widen(plain[name]).reshape(-1, 64)
            x = x / np.maximum(np.abs(x).max(1, keepdims=True), 1e-38)
            codes = order[np.searchsorted(middles, x)].reshape(-1).astype(np.uint8)
            data = (codes[::2] << 4 | codes[1::2]).tobytes()
        tensors[name] = (dtype, shape, data)
    write_model(out, nf4, tensors)


def make_normal(mllama, out):
    """A wider model with the embedded one's tokenizer: norms 1, gates 0.5, other values normal, of a matrix
    with a variance of 1 / columns. bench/make_checkpoint knows the shapes."""
    shapes = out.with_name("shapes")
    shutil.copytree(EMBEDDED, shapes, ignore=shutil.ignore_patterns("model.safetensors"))
    config = json.loads((shapes / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 10,
                              "num_attention_heads": 8, "cross_attention_layers": [3, 8]}
    config["vision_config"] |= {"hidden_size": 320, "intermediate_size": 1280, "vision_output_dim": 640}
    (shapes / "config.json").write_text(json.dumps(config))
    tool = pathlib.Path(mllama).parent / "bench" / "make_checkpoint"
    subprocess.run([tool, shapes, shapes / "model.safetensors"], check=True)
    rng, tensors = np.random.default_rng(7), {}
    for name, (dtype, shape, _) in read_model(shapes).items():
        if name.endswith("gate") or "gate_attn" in name or "gate_ffn" in name:
            x = np.full(shape, 0.5, np.float32)
        elif len(shape) == 1:
            norm = "norm" in name and name.endswith("weight")
            x = np.full(shape, 1, np.float32) if norm else rng.standard_normal(shape, np.float32) * 0.02
        else:
            x = rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:])) ** -0.5
        tensors[name] = (dtype, shape, narrow(x))
    write_model(out, shapes, tensors)


def make(mllama, source, out, how, skip):
    """The directory of source's weights in another form."""
    if how is None:
        return source
    if how == "fp16":
        to_fp16(source, out)
        return out
    plain_nf4 = out.with_name(out.name + "-nf4") if how == "fp4" else out
    words = [w for s in skip or [] for w in ("--skip", s)]
    subprocess.run([mllama, "quantize", source, plain_nf4, *(NF4 if how == "fp4" else how), *words], check=True,
                   stderr=subprocess.DEVNULL)
    if how == "fp4":
        to_fp4(source, plain_nf4, out)
    return out


# ---- weights -----------------------------------------------------------------------------------------------


def dequantised(tensors, name, shape):
    """The weight that name stands for, in float32, by the formulas of kernels/ops.h."""
    module = name.removesuffix("weight")
    if module + "SCB" in tensors:
        codes = np.frombuffer(tensors[name][2], np.int8).reshape(shape)
        return codes * widen(tensors[module + "SCB"])[:, None] / np.float32(127)
    if name + ".quant_map" not in tensors:
        return widen(tensors[name])
    absmax = np.frombuffer(tensors[name + ".absmax"][2], np.uint8)
    if name + ".nested_absmax" in tensors:
        state = json.loads(tensors[name + STATE + "nf4"][2])
        outer = np.repeat(widen(tensors[name + ".nested_absmax"]), 256)[:len(absmax)]
        absmax = widen(tensors[name + ".nested_quant_map"])[absmax] * outer + np.float32(state["nested_offset"])
    else:
        absmax = absmax.view(np.float32)
    codes = np.frombuffer(tensors[name][2], np.uint8)
    codes = np.stack([codes >> 4, codes & 15], 1).reshape(-1, 64)
    return (widen(tensors[name + ".quant_map"])[codes] * absmax[:, None]).reshape(shape)


KINDS = [("tower", TOWER), ("projector", PROJECTOR), ("self attention", "self_attn"), ("cross attention", CROSS),
         ("MLP", "mlp"), ("lm_head", HEAD)]


def weight_errors(source, folder):
    """Relative RMS error of all matrices of a kind together."""
    plain, other, sums = read_model(source), read_model(folder), {}
    for name, tensor in plain.items():
        kind = next((kind for kind, word in KINDS if word in name), None)
        if kind is None or not name.endswith("weight") or len(tensor[1]) != 2 or "embedding" in name:
            continue
        x = widen(tensor).astype(float)
        error, size = sums.get(kind, (0, 0))
        sums[kind] = error + ((dequantised(other, name, tensor[1]) - x) ** 2).sum(), size + (x ** 2).sum()
    return [np.sqrt(sums[kind][0] / sums[kind][1]) for kind, _ in KINDS]


# ---- answers -----------------------------------------------------------------------------------------------


def trace(mllama, model, images, out, request, device="auto"):
    pictures = [word for image in images for word in ("-i", image)]
    subprocess.run([mllama, "trace", "--device", device, "-m", model, *pictures, "-o", out, *request], check=True,
                   stderr=subprocess.DEVNULL)
    return load_file(out)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def answers_of(mllama, images, tmp):
    """(image, prompt and answer as text of ids, ids of the prompt) of the plain embedded model."""
    out = []
    for image in images:
        t = trace(mllama, EMBEDDED, [image], tmp / "t", ["-p", QUESTION])
        ids = np.concatenate([t["input_ids"], t["generated"][:-1]])
        out.append((image, ",".join(map(str, ids.tolist())), len(t["input_ids"])))
    return out


def states(mllama, model, answer, tmp):
    """Logits and the streams behind the layers where the answer's tokens are chosen."""
    image, ids, n_prompt = answer
    t = trace(mllama, model, [image], tmp / "t", ["--ids", ids, "-n", "1"])
    layers = sum(k.startswith("hidden.") for k in t)
    return [t[k][n_prompt - 1:].astype(float) for k in ("logits", *(f"hidden.{i}" for i in range(layers)))]


def measure(mllama, source, models, answers, tmp):
    """For each model: relative RMS of logits and layers, KL, share of equal tokens; and the tokens."""
    sums, total = [None] * len(models), 0
    for answer in answers:
        plain = states(mllama, source, answer, tmp)
        a = log_softmax(plain[0])
        total += len(a)
        for i, model in enumerate(models):
            x = plain if model == source else states(mllama, model, answer, tmp)
            b = log_softmax(x[0])
            new = np.array([*(((u - v) ** 2).sum() for u, v in zip(x, plain)), *((v ** 2).sum() for v in plain),
                            (np.exp(a) * (a - b)).sum(), (a.argmax(-1) == b.argmax(-1)).sum()])
            sums[i] = new if sums[i] is None else sums[i] + new
    n = (len(sums[0]) - 2) // 2
    return [(np.sqrt(s[:n] / s[n:2 * n]), s[-2] / total, s[-1] / total) for s in sums], total


def evaluate(mllama, model, truth):
    out = subprocess.run([mllama, "eval", truth, "-m", model], check=True, capture_output=True, text=True)
    shares = json.loads(out.stdout.strip().splitlines()[-1])
    names = ["store_name", "date", "total_amount", "payment_method", "item_name", "quantity", "price"]
    return [np.mean([shares[k] for k in names]), min(shares[k] for k in names), shares["whole_document"]]


# ---- tables ------------------------------------------------------------------------------------------------


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|",
                      *("| " + " | ".join(row) + " |" for row in rows)]) + "\n\n"


def choices_table(mllama, source, choices, answers, truth, tmp):
    """One row a choice, and the directories."""
    models = [make(mllama, source, tmp / f"{source.name}-{i}", how, skip) for i, (_, how, skip) in enumerate(choices)]
    measured, total = measure(mllama, source, models, answers, tmp)
    rows = []
    for (name, _, _), model, (rms, kl, equal) in zip(choices, models, measured):
        size = (model / "model.safetensors").stat().st_size / 1e6
        fields = evaluate(mllama, model, truth) if truth else []
        rows.append([name, f"{size:.2f}", f"{np.median(rms[1:]):.2%}", f"{rms[1:].max():.2%}", f"{rms[0]:.2%}",
                     f"{kl:.2e}", f"{equal:.2%}", *(f"{x:.2%}" for x in fields)])
        print(rows[-1], flush=True)
    head = ["weights", "MB", "layers, median", "worst layer", "logits", "KL, nats a token", "same likeliest token",
            *(["fields exact, mean", "worst field", "whole documents"] if truth else [])]
    return table(head, rows), models, measured, total


def main():
    mllama, truth, out = sys.argv[1:4]
    n = int(sys.argv[4]) if len(sys.argv) > 4 else 200
    images = [pathlib.Path(truth).parent / json.loads(line)["file"] for line in open(truth)]
    with tempfile.TemporaryDirectory() as name:
        tmp = pathlib.Path(name)
        answers = answers_of(mllama, images[:n], tmp)
        types, models, measured, total = choices_table(mllama, EMBEDDED, TYPES, answers, truth, tmp)
        (tmp / "c").mkdir()
        choices, _, _, _ = choices_table(mllama, EMBEDDED, CHOICES, answers, truth, tmp / "c")
        names = [t[0] for t in TYPES[1:]]
        text = (f"# What quantising costs\n\n`python bench/quant_error.py BUILD/mllama TRUTH OUT {n}`: answers of "
                f"{len(answers)} receipts, {total} tokens; fields of {len(images)} receipts (seed 7). Errors are "
                f"relative RMS.\n\n## The embedded model, by type\n\nTower, projector, lm_head and "
                f"cross-attention projections in 16 bits, where they are quantised at all.\n\n{types}"
                f"Behind each decoder layer:\n\n")
        rows = [[str(k), *(f"{m[0][k + 1]:.2%}" for m in measured[1:])] for k in range(len(measured[0][0]) - 1)]
        text += table(["layer", *names], rows)
        text += f"## The embedded model, by what is quantised\n\n{choices}"
        text += "## The weights themselves\n\nEverything quantised. Embedded model / normal distribution.\n\n"
        normal = tmp / "normal"
        make_normal(mllama, normal)
        (tmp / "w").mkdir()
        both = []
        for source in (EMBEDDED, normal):
            both.append([weight_errors(source, make(mllama, source, tmp / "w" / f"{source.name}-{t}", how, ["none"]))
                         for t, how, _ in TYPES[1:]])
        rows = [[kind, *(f"{a[i]:.3%} / {b[i]:.3%}" for a, b in zip(*both))] for i, (kind, _) in enumerate(KINDS)]
        text += table(["matrices of", *names], rows)
        short = answers[:max(1, n // 10)]
        (tmp / "n").mkdir()
        a, _, _, total = choices_table(mllama, normal, TYPES[1:], short, None, tmp)
        b, _, _, _ = choices_table(mllama, normal, CHOICES, short, None, tmp / "n")
        text += (f"## Normally distributed weights\n\n1024 wide, 10 layers, two of them cross layers, tower 320 wide, "
                 f"gates 0.5; {len(short)} receipts, {total} tokens.\n\n{a}{b}")
        pathlib.Path(out).write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
