"""Our quantised directories in transformers with bitsandbytes, and theirs here: tensors and logits.

    python tests/golden/diff_bitsandbytes.py MLLAMA OUT.md     (make.py's needs, bitsandbytes, accelerate)

For tiny random checkpoints (make.py's, gates far from zero) and the embedded model, each with an image:
- ours: what `mllama quantize` writes, tensor by tensor against what transformers saves of the same weights and the
  same choice of modules, and its logits here and there;
- theirs: what transformers saves in NF4 and FP4, double-quantised or not, in other storage types, and LLM.int8, in
  shards as saved and in one file under old names: its logits here and there.
`float32`: weights that bitsandbytes dequantised, all else in float32; the goldens' bar. `as loaded`: what
from_pretrained gives, in the 16 bits of config.json and with bitsandbytes' own kernels. That rounds every activation,
so its bar is twice what 16 bits cost the plain checkpoint; 2 % more for int8, whose activations are quantised there
and not here, and for float32 checkpoints, since bitsandbytes' AVX-512 kernel rounds to bf16 all the same. Ends with
an error where a bar is missed.
"""
import json
import logging
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import bitsandbytes as bnb
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, MllamaForConditionalGeneration
from transformers.models.mllama import processing_mllama as processing

import make

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBEDDED, PAGE = ROOT / "models" / "receipts-tiny", ROOT / "models" / "samples" / "receipt-3974-0000.png"
QUESTION = ("Extract the receipt as JSON with store_name, date (YYYY-MM-DD), total_amount, payment_method and "
            "items (item_name, quantity, price).")  # FLD_QUESTION of extract/fields.h
EXACT = 1e-4  # of the largest logit, as test_goldens has it
# bitsandbytes 0.50.2 for AVX-512 dequantises rows wrongly whose length is a multiple of 16 but not of 64.
CASES = {
    "tiny, bf16": dict(images=[(30, 55)], dtype="bfloat16", names="old", keys="old", shards=2, hidden=64, mlp=128,
                       v_hidden=64, v_mlp=128, kept=[1], patch=10),
    "tiny, fp16, rows of 44, 38, 24": dict(images=[(33, 20)], dtype="float16", hidden=44, heads=2, kv_heads=2, mlp=38),
    "tiny, float32": dict(images=[(90, 70)], hidden=64, mlp=128, v_hidden=64, v_mlp=64, kept=[1]),
}
NF4, DQ, INT8 = ["--nf4"], ["--nf4", "--double-quant"], ["--int8"]
ALL = ["--skip", "none"]
OURS = [NF4, DQ, INT8, NF4 + ALL, DQ + ALL, INT8 + ALL, DQ + ["--skip", "layers.2.mlp", "--skip", "vision_model"]]
TOWER = ["vision_model", "model.vision_model", "multi_modal_projector", "model.multi_modal_projector", "lm_head"]
THEIRS = {  # llm_int8_skip_modules None: transformers chooses
    "NF4": ("nf4", False, "uint8", []),
    "NF4 + DQ, tower skipped": ("nf4", True, "uint8", TOWER),
    "NF4 + DQ in bf16 storage": ("nf4", True, "bfloat16", None),
    "FP4": ("fp4", False, "uint8", []),
    "FP4 + DQ in float32 storage": ("fp4", True, "float32", ["lm_head"]),
    "LLM.int8": (None, None, None, []),
    "LLM.int8, tower skipped": (None, None, None, TOWER),
}

# ---- both sides --------------------------------------------------------------------------------------------


def checkpoint(folder, case):
    """A tiny checkpoint, an image beside it: (directory, image, words of the request)."""
    case = make.DEFAULTS | case
    dtype, tokenizer = getattr(torch, case["dtype"]), make.make_tokenizer()
    eos = [tokenizer.token_to_id(t) for t in case["eos"]]
    model = MllamaForConditionalGeneration._from_config(make.make_config(case, eos)).float()
    make.randomise(model, 1, dtype)
    folder.mkdir()
    state, extra, _ = make.plain(model, case, dtype)
    make.save_model(folder, model, tokenizer, case, dtype, state, extra)
    image = folder.with_suffix(".png")
    make.draw(case["images"][0], 1).save(image)
    return folder, image, ["--raw", "-p", case["prompt"].replace("@", "<|image|>")]


def ours(mllama, folder, image, request, tmp):
    out = tmp / "trace.safetensors"
    subprocess.run([mllama, "trace", "-m", folder, "-i", image, *request, "-n", "200", "--device", "cpu",
                    "--reference", "hf5", "-o", out], check=True, stderr=subprocess.DEVNULL)
    return load_file(out)


def load(folder, **options):
    return MllamaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", device_map="cpu",
                                                          **options).eval()


def quantised_layers(model):
    return [m for m in model.modules() if isinstance(m, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt))]


def in_float32(folder):
    model = load(folder, dtype=torch.float32)
    if quantised_layers(model):
        model = model.dequantize()
    for p in model.parameters():
        p.data = p.data.float()
    return model


def as_loaded(folder):
    """bitsandbytes repacks 4-bit weights for AVX-512, but fails where the sizes do not suit that."""
    model = load(folder)
    for m in quantised_layers(model):
        if m.out_features % 32 or m.in_features % 64:
            m.support_avx512bf16_for_cpu = False
    return model


def forward(model, trace, new_tokens=0):
    """Logits of the prompt; the greedy answer."""
    ids, tiles = trace["input_ids"][None], trace["num_tiles"]
    most = trace["pixel_values"].shape[1]
    mask = torch.zeros(1, len(tiles), most, dtype=torch.long)
    for i, n in enumerate(tiles):
        mask[0, i, :n] = 1
    ranges = processing.get_cross_attention_token_mask(ids[0].tolist(), model.config.image_token_index)
    dense = processing.convert_sparse_cross_attention_mask_to_dense([ranges], [tiles.tolist()], most, ids.shape[1])
    patches = next(p for n, p in model.named_parameters() if n.endswith("patch_embedding.weight"))
    feed = dict(input_ids=ids, pixel_values=trace["pixel_values"][None].to(patches.dtype), aspect_ratio_mask=mask,
                aspect_ratio_ids=trace["aspect_ratio_ids"][None], cross_attention_mask=torch.from_numpy(dense),
                attention_mask=torch.ones_like(ids))
    with torch.no_grad():
        logits = model(**feed).logits[0].float()
        if not new_tokens:
            return logits, None
        return logits, model.generate(**feed, do_sample=False, max_new_tokens=new_tokens)[0, ids.shape[1]:].tolist()


def far(a, b):
    """The largest difference by the largest value, the relative RMS difference, likeliest tokens that differ."""
    return (float((a - b).abs().max() / b.abs().max()), float((a - b).norm() / b.norm()),
            int((a.argmax(-1) != b.argmax(-1)).sum()))


# ---- files -------------------------------------------------------------------------------------------------


def renamed(key, new):
    """A tensor's name in the new or the old layout."""
    old = {"model.language_model.": "language_model.model.", "model.vision_model.": "vision_model.",
           "model.multi_modal_projector.": "multi_modal_projector.", "lm_head.": "language_model.lm_head."}
    pairs = [(b, a) for a, b in old.items()] if new else old.items()
    return next((b + key.removeprefix(a) for a, b in pairs if key.startswith(a)), key)


def tensors_of(folder):
    """New name -> tensor, of all shards."""
    return {renamed(k, True): v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def with_old_names(source, folder):
    """source with all tensors in one file."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    save_file({renamed(k, False): v for k, v in tensors_of(source).items()}, folder / "model.safetensors")
    return folder


def save_theirs(source, folder, config, **options):
    load(source, quantization_config=config).save_pretrained(folder, **options)
    for file in source.iterdir():
        if not (folder / file.name).exists() and ".safetensors" not in file.name:
            shutil.copy(file, folder)
    return folder


def config_of(folder):
    """What the directory says of itself."""
    words = json.loads((folder / "config.json").read_text())["quantization_config"]
    return BitsAndBytesConfig(**{k: v for k, v in words.items() if k[0] != "_" and k != "quant_method"})


def same(name, a, b):
    if ".quant_state." in name:  # JSON; the offset is a mean, and torch's sum is a float32
        a, b = (json.loads(bytes(x.tolist())) for x in (a, b))
        return abs(a.pop("nested_offset", 0) - b.pop("nested_offset", 0)) < 1e-6 and a == b
    if ".nested_absmax" in name:
        return torch.allclose(a, b, 1e-5, 0)
    return a.dtype == b.dtype and torch.equal(a, b)


def compare_tensors(mine, theirs):
    """(tensors, double-quantised absmax, of them not equal); an error where anything else differs."""
    mine, theirs = tensors_of(mine), tensors_of(theirs)
    if mine.keys() != theirs.keys():
        raise SystemExit(f"other tensors: {sorted(mine.keys() ^ theirs.keys())[:4]}")
    doubled = apart = 0
    for name, a in mine.items():
        b = theirs[name]
        if name.endswith(".absmax") and a.dtype == b.dtype == torch.uint8:
            values, step = mine[name.replace(".absmax", ".nested_quant_map")], (a.int() - b.int()).abs()
            doubled, apart = doubled + a.numel(), apart + int((step > 0).sum())
            # bitsandbytes' C++ form searches a table: next to a middle it takes the neighbour, for 0 code 131
            equal = bool(((step <= 1) | ((values[a.int()] - values[b.int()]).abs() < 3e-5)).all())
        else:
            equal = same(name, a, b)
        if not equal:
            raise SystemExit(f"{name}: {a.dtype} {a.flatten()[:8]}, theirs {b.dtype} {b.flatten()[:8]}")
    return len(mine), doubled, apart


# ---- rows --------------------------------------------------------------------------------------------------


class Logits:
    """Ours for a directory beside transformers'; remembers the missed bars."""

    def __init__(self, mllama, tmp):
        self.mllama, self.tmp, self.missed = mllama, tmp, []

    def cells(self, what, folder, image, request, rounding=None):
        """HEAD's. Answers of random weights wander apart by any rounding: only the trained model's are compared."""
        trace = ours(self.mllama, folder, image, request, self.tmp)
        exact = far(trace["logits"], forward(in_float32(folder), trace)[0])[0]
        if exact > EXACT:
            self.missed.append(f"{what}: {exact:.1e} of the largest logit")
        try:
            model = as_loaded(folder)
            logits, answer = forward(model, trace, len(trace["generated"]) if image == PAGE else 0)
        except RuntimeError as error:
            if "view size" not in str(error):
                raise
            return [f"{exact:.1e}", "bitsandbytes fails", "", ""], None
        _, rms, other = far(logits, trace["logits"])
        more = rounding == 0 or any(isinstance(m, bnb.nn.Linear8bitLt) for m in quantised_layers(model))
        if rounding is not None and rms > 2 * rounding + 0.02 * more:
            self.missed.append(f"{what}: {rms:.2%} of the logits, as loaded; {rounding:.2%} in 16 bits")
        text = "" if answer is None else "the same" if answer == trace["generated"].tolist() else "another"
        return [f"{exact:.1e}", f"{rms:.2%}", f"{other} of {len(logits)}", text], rms


HEAD = ["float32", "as loaded", "other likeliest token", "answer"]


def table(head, rows):
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def run(mllama, tmp):
    logits, mine, theirs = Logits(mllama, tmp), [], []
    sources = {name: checkpoint(tmp / f"source{i}", case) for i, (name, case) in enumerate(CASES.items())}
    sources["embedded, bf16"] = EMBEDDED, PAGE, ["-p", QUESTION]
    for name, (source, *request) in sources.items():
        cells, rounding = logits.cells(name, source, *request)
        rounding = 0 if rounding < EXACT else rounding
        mine.append([name, "not quantised", "", *cells])
        for i, how in enumerate(OURS):
            what, folder = " ".join(how), tmp / f"{source.name}-ours{i}"
            subprocess.run([mllama, "quantize", source, folder, *how], check=True, stderr=subprocess.DEVNULL)
            saved = save_theirs(source, tmp / f"{source.name}-saved{i}", config_of(folder))
            n, doubled, apart = compare_tensors(folder, saved)
            equal = f"{n} of {n}" + (f"; {apart} of {doubled} absmax differ" if doubled else "")
            mine.append([name, what, equal, *logits.cells(f"{name}, {what}", folder, *request, rounding)[0]])
            print(mine[-1], flush=True)
        for i, (what, (kind, double, storage, skip)) in enumerate(THEIRS.items()):
            four = dict(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double,
                        bnb_4bit_quant_storage=storage, bnb_4bit_compute_dtype=load(source).dtype)
            config = BitsAndBytesConfig(**(four if kind else dict(load_in_8bit=True)), llm_int8_skip_modules=skip)
            new = save_theirs(source, tmp / f"{source.name}-new{i}", config, max_shard_size="100KB")
            old = with_old_names(new, tmp / f"{source.name}-old{i}")
            a, b = (ours(mllama, folder, *request, tmp)["logits"] for folder in (new, old))
            if not torch.equal(a, b):
                logits.missed.append(f"{name}, {what}: other logits under old names")
            files = len(list(new.glob("*.safetensors")))
            cells, _ = logits.cells(f"{name}, theirs: {what}", new, *request, rounding)
            theirs.append([name, what, str(files), *cells])
            print(theirs[-1], flush=True)
    return logits.missed, mine, theirs


def main():
    mllama, out = sys.argv[1:]
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        missed, mine, theirs = run(mllama, pathlib.Path(name))
    versions = f"transformers {transformers.__version__}, bitsandbytes {bnb.__version__}, torch {torch.__version__}"
    pathlib.Path(out).write_text(
        f"# Quantised directories, ours and bitsandbytes'\n\n`python tests/golden/diff_bitsandbytes.py BUILD/mllama "
        f"OUT`; {versions}, on a CPU\nwith {torch.backends.cpu.get_cpu_capability()}. The script says what is compared "
        f"and which bars hold; missed: {len(missed)}.\n\n"
        f"## `mllama quantize`, loaded by transformers\n\n{table(['weights', 'quantize', 'tensors equal', *HEAD], mine)}"
        f"\n## Saved by transformers, loaded here\n\nUnder new names in shards, and under old ones in one file: the same "
        f"logits here.\n\n{table(['weights', 'saved as', 'shards', *HEAD], theirs)}")
    if missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main()
