"""Makes the end-to-end goldens: tests/golden/cases/NAME/{model, images, case.json, expected.safetensors}.

    python tests/golden/make.py [NAME...]        (needs torch, transformers 5.23, tokenizers, Pillow)

Each case is a tiny random mllama checkpoint (an HF directory), images, a prompt, and what
transformers, patched to each reference (reference.py), makes of them in float32 with eager
attention. expected.safetensors holds, named as docs/MODEL.md says:
  pixel_values, aspect_ratio_ids, num_tiles, input_ids          the same in every reference
  MODE.TENSOR                                                   for MODE of meta, hf4, hf5
A tensor that would equal another mode's is stored once (case.json: "same").
Pixels are Pillow's BILINEAR with the horizontal pass first (what Pillow does up to 12).
The seed of a case is the first one whose greedy choices are clear (margins) and do not loop early.
"""
import json
import math
import pathlib
import sys

import numpy as np
import PIL
import torch
import transformers
from PIL import Image, ImageDraw
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama import processing_mllama as processing

from reference import reference

HERE = pathlib.Path(__file__).parent
MODES = ("meta", "hf4", "hf5")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eom_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|python_tag|>"]
MERGES = ["t h", "th e", "i n", "a n", "e r", "o n", "r e", "Ġ t", "Ġt h", "Ġth e", "Ġ a", "o u"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
VOCAB = 256 + len(MERGES) + len(SPECIAL)
IMAGE = VOCAB  # the image token: an embedding row, no logit
CHAT = ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n")

# What a case changes of DEFAULTS. images: sizes (w, h) that are drawn; prompt: "@" is the image.
DEFAULTS = dict(
    images=[(40, 60)], prompt=CHAT.format("@What is the total?"), dtype="float32", names="new", keys="new",
    shards=1, eos=["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], tile=30, patch=7, max_tiles=4,
    v_hidden=24, v_heads=2, v_mlp=36, v_layers=3, v_global=2, kept=[0, 2], v_eps=1e-5,
    hidden=32, heads=4, kv_heads=2, mlp=44, layers=5, cross=[1, 3], rope="llama3", theta=500000.0)
CASES = {
    "one_tile": dict(images=[(30, 30)]),
    "four_tiles_bf16": dict(images=[(90, 70)], dtype="bfloat16", names="old", keys="old"),
    "three_tiles": dict(images=[(20, 95)], prompt="<|begin_of_text|>@Text"),
    "two_images": dict(images=[(45, 20), (50, 61)], shards=2, dtype="bfloat16",
                       prompt="<|begin_of_text|>First: @ a page. Then @ noise. The total is"),
    "images_side_by_side": dict(images=[(33, 33), (90, 20), (10, 10)], dtype="bfloat16", names="old",
                                prompt="<|begin_of_text|>Some text before. @@ both, then @"),
    "text_only": dict(images=[], prompt="<|begin_of_text|>The answer is no", dtype="float16"),
    "base_model": dict(images=[(64, 40)], prompt="<|begin_of_text|>@The page says", tile=32, patch=8,
                       eos=["<|end_of_text|>"], names="old", keys="old", dtype="bfloat16"),
    "kept_unsorted": dict(images=[(31, 31)], kept=[3, 0, 2], v_global=1, v_layers=4, dtype="float16"),
    "one_tile_at_most": dict(images=[(90, 70), (5, 9)], max_tiles=1, dtype="bfloat16",
                             prompt="<|begin_of_text|>Compare @ and @ now"),
    "two_tiles_at_most": dict(images=[(80, 20)], max_tiles=2, dtype="bfloat16"),
    "three_tiles_at_most": dict(images=[(29, 66)], max_tiles=3, keys="old", dtype="bfloat16"),
    "one_kv_head": dict(images=[(60, 60)], kv_heads=1, heads=2, cross=[1, 4], dtype="bfloat16"),
    "as_many_kv_heads": dict(images=[(61, 30)], kv_heads=4, rope=None, cross=[2], layers=4,
                             dtype="bfloat16"),
    "odd_sizes": dict(images=[(35, 32)], hidden=42, heads=3, kv_heads=3, mlp=37, v_hidden=30,
                      v_heads=3, v_mlp=29, v_layers=3, kept=[1], theta=10000.0, patch=9, v_eps=1e-6,
                      dtype="float16"),
    "cross_layers_adjacent": dict(images=[(24, 70)], kept=[1], cross=[1, 2], v_global=1, names="old",
                                  dtype="bfloat16"),
    "image_last": dict(images=[(30, 61), (62, 31)], prompt="<|begin_of_text|>Look at @@",
                       dtype="bfloat16"),
    "long_prompt": dict(images=[(70, 70)], dtype="bfloat16",
                        prompt=CHAT.format("@" + "Read every line, then answer in one word. " * 3)),
}


def make_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [m.replace(" ", "") for m in MERGES]
    merges = [tuple(m.split(" ")) for m in MERGES]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL + ["<|image|>"])
    assert tokenizer.token_to_id("<|image|>") == IMAGE
    return tokenizer


def canvases(max_tiles):
    """All (rows, cols) in the order of their ids, the first being 1."""
    return [(r, c) for r in range(1, max_tiles + 1) for c in range(1, max_tiles + 1)
            if r * c <= max_tiles]


def make_config(case, eos):
    ratios = canvases(case["max_tiles"])
    rope = {"rope_type": "default", "rope_theta": case["theta"]}
    if case["rope"]:
        rope = {"rope_type": "llama3", "rope_theta": case["theta"], "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32}
    vision = dict(
        hidden_size=case["v_hidden"], attention_heads=case["v_heads"], num_hidden_layers=case["v_layers"],
        num_global_layers=case["v_global"], intermediate_size=case["v_mlp"], image_size=case["tile"],
        patch_size=case["patch"], max_num_tiles=case["max_tiles"], norm_eps=case["v_eps"],
        intermediate_layers_indices=case["kept"], vision_output_dim=case["v_hidden"] * (1 + len(case["kept"])),
        supported_aspect_ratios=[list(r) for r in ratios])
    text = dict(
        vocab_size=VOCAB, hidden_size=case["hidden"], num_hidden_layers=case["layers"],
        num_attention_heads=case["heads"], num_key_value_heads=case["kv_heads"],
        intermediate_size=case["mlp"], cross_attention_layers=case["cross"], rope_parameters=rope,
        max_position_embeddings=2048, bos_token_id=VOCAB - 8, eos_token_id=eos if len(eos) > 1 else eos[0],
        pad_token_id=VOCAB - 2)
    return MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)


def randomise(model, seed, dtype):
    """Random weights, gates far from zero, rounded to the dtype they are stored in."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if "gate" in name and p.numel() == 1:
                r = torch.sign(r) * (0.5 + 0.6 * torch.rand(p.shape, generator=g))
            elif "norm" in name:
                r = r * 0.1 + (1 if name.endswith("weight") else 0)
            elif name.endswith("bias"):
                r = r * 0.1
            elif "embedding" in name or "embed_tokens" in name:
                r = r * 0.5
            elif name.startswith("lm_head"):
                r = r * 2.0 / math.sqrt(p.shape[1])
            else:
                r = r * 1.3 / math.sqrt(p[0].numel())
            p.copy_(r.to(dtype).float())


def draw(size, seed):
    """A page of rectangles, lines and noise: what a resize can get wrong shows in it."""
    w, h = size
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(120, 256, (h, w, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = int(rng.integers(w)), int(rng.integers(h))
        pen.rectangle([x, y, x + w // 4, y + h // 5], fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
        pen.line([x, 0, w - x, h], fill=(0, 0, int(rng.integers(255))))
    return image


def preprocess(image, size, max_tiles):
    """(pixels (max_tiles, 3, size, size), tiles in use, aspect ratio id); docs/MODEL.md has the rules."""
    w, h = image.size
    options = canvases(max_tiles)
    scales = [min(r * size / h, c * size / w) for r, c in options]
    enlarging = [s for s in scales if s >= 1]
    best = min(enlarging) if enlarging else max(scales)
    rows, cols = min((o for o, s in zip(options, scales) if s == best), key=lambda o: o[0] * o[1])
    tw = min(max(w, size), cols * size)
    th = min(max(h, size), rows * size)
    if tw / w < th / h:
        new = tw, min(math.floor(h * (tw / w)) or 1, th)
    else:
        new = min(math.floor(w * (th / h)) or 1, tw), th
    image = image.resize((new[0], h), Image.BILINEAR).resize(new, Image.BILINEAR)
    page = np.zeros((rows * size, cols * size, 3), np.uint8)
    page[:new[1], :new[0]] = np.asarray(image)
    x = (page * 0.00392156862745098).astype(np.float32)
    x = (x - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    x = x.reshape(rows, size, cols, size, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, size, size)
    pixels = np.zeros((max_tiles, 3, size, size), np.float32)
    pixels[:rows * cols] = x
    return pixels, rows * cols, options.index((rows, cols)) + 1


def make_inputs(case, tokenizer, images):
    ids = tokenizer.encode(case["prompt"].replace("@", "<|image|>"), add_special_tokens=False).ids
    inputs = {"input_ids": np.array([ids], np.int64)}
    if images:
        done = [preprocess(i, case["tile"], case["max_tiles"]) for i in images]
        tiles = [d[1] for d in done]
        inputs["pixel_values"] = np.stack([d[0] for d in done])[None]
        inputs["aspect_ratio_ids"] = np.array([[d[2] for d in done]])
        mask = np.zeros((1, len(done), case["max_tiles"]), np.int64)
        for i, n in enumerate(tiles):
            mask[0, i, :n] = 1
        inputs["aspect_ratio_mask"] = mask
        ranges = processing.get_cross_attention_token_mask(ids, IMAGE)
        inputs["cross_attention_mask"] = processing.convert_sparse_cross_attention_mask_to_dense(
            [ranges], [tiles], case["max_tiles"], len(ids))
        inputs["num_tiles"] = np.array(tiles)
    return inputs


def run(model, inputs, mode, new_tokens=64):
    """Every stage's tensors in one mode, and the smallest lead of a greedy choice."""
    feed = {k: torch.from_numpy(v) for k, v in inputs.items() if k != "num_tiles"}
    seen = {}
    inner, hooks = model.model, []

    def watch(module, name, take):
        def note(_module, _inputs, output):
            seen.setdefault(name, take(output).detach())
        hooks.append(module.register_forward_hook(note))

    for i, layer in enumerate(inner.language_model.layers):
        watch(layer, f"hidden.{i}", lambda out: out[0])
    watch(inner.vision_model, "vision_last_hidden", lambda out: out.last_hidden_state[0])
    watch(inner.multi_modal_projector, "cross_attention_states", lambda out: out.reshape(-1, out.shape[-1]))
    watch(model.lm_head, "logits", lambda out: out[0])
    with torch.no_grad(), reference(model, mode):
        model(**feed)
        for hook in hooks:
            hook.remove()
        out = model.generate(**feed, do_sample=False, max_new_tokens=new_tokens, output_logits=True,
                             return_dict_in_generate=True)
    for i in range(len(inner.language_model.layers)):
        if f"hidden.{i}" not in seen:  # a skipped cross layer changes nothing
            seen[f"hidden.{i}"] = (seen[f"hidden.{i - 1}"] if i else
                                   inner.language_model.embed_tokens(feed["input_ids"])[0].detach())
    tensors = {k: np.ascontiguousarray(v.numpy()) for k, v in seen.items()}
    steps = torch.cat(out.logits)
    chosen = out.sequences[0, feed["input_ids"].shape[1]:]
    tensors["generated"] = chosen.numpy()
    tensors["generated_logprobs"] = torch.log_softmax(steps, -1).gather(1, chosen[:, None])[:, 0].numpy()
    top = torch.topk(steps, 2).values
    return tensors, float((top[:, 0] - top[:, 1]).min())


def usable(results):
    for tensors, margin in results.values():
        ids = tensors["generated"]
        if margin < 4e-3 or len(ids) < 12 or len(set(ids[-24:].tolist())) < 4:
            return False
    return sum(len(t["generated"]) == 64 for t, _ in results.values()) >= 2


def stored_name(name, case):
    if case["names"] == "new":
        return name
    if name.startswith("lm_head"):
        return "language_model." + name
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1) if \
        name.startswith("language_model.") else name


def save_model(folder, model, tokenizer, case, dtype, state, config_extra):
    config = model.config.to_dict() | config_extra
    config["architectures"], config["dtype"] = ["MllamaForConditionalGeneration"], case["dtype"]
    for part in (config["text_config"], config["vision_config"]):
        for key in ("_name_or_path", "architectures", "transformers_version"):
            part.pop(key, None)
    if case["keys"] == "old":
        text = config["text_config"]
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope.pop("rope_theta")
        text["rope_scaling"] = rope if rope["rope_type"] == "llama3" else None
        config["torch_dtype"] = config.pop("dtype")
    eos = [tokenizer.token_to_id(t) for t in case["eos"]]
    generation = {"bos_token_id": VOCAB - 8, "eos_token_id": eos if len(eos) > 1 else eos[0],
                  "pad_token_id": VOCAB - 2, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    image = {"do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
             "do_resize": True, "image_mean": MEAN, "image_std": STD, "image_processor_type":
             "MllamaImageProcessor", "max_image_tiles": case["max_tiles"], "resample": 2,
             "rescale_factor": 0.00392156862745098, "size": {"height": case["tile"], "width": case["tile"]}}
    for name, value in (("config", config), ("generation_config", generation), ("preprocessor_config", image)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = sorted(state)
    if case["shards"] == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    cut = len(names) // case["shards"] + 1
    index = {}
    for s in range(case["shards"]):
        file = f"model-{s + 1:05d}-of-{case['shards']:05d}.safetensors"
        part = {n: state[n] for n in names[s * cut:(s + 1) * cut]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= {n: file for n in part}
    size = sum(v.numel() * v.element_size() for v in state.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=0) + "\n")


def plain(model, case, dtype):
    """What is stored, what config.json says beside it, and the weights of each mode (None: the model's)."""
    state = {stored_name(k, case): v.to(dtype).contiguous() for k, v in model.state_dict().items()}
    return state, {}, {mode: None for mode in MODES}


def run_with(model, weights, inputs, mode):
    if weights:
        model.load_state_dict(weights, strict=False)
    return run(model, inputs, mode)


def make(name, case, store=plain, made_with=None):
    case = DEFAULTS | case
    dtype = getattr(torch, case["dtype"])
    tokenizer = make_tokenizer()
    images = [draw(size, sum(map(ord, name)) + i) for i, size in enumerate(case["images"])]
    eos = [tokenizer.token_to_id(t) for t in case["eos"]]
    inputs = make_inputs(case, tokenizer, images)
    model = MllamaForConditionalGeneration._from_config(make_config(case, eos), attn_implementation="eager")
    model = model.float().eval()
    model.generation_config.eos_token_id = eos
    model.generation_config.pad_token_id = VOCAB - 2
    for seed in range(1, 200):
        randomise(model, seed, dtype)
        state, config_extra, weights = store(model, case, dtype)
        results = {mode: run_with(model, weights[mode], inputs, mode) for mode in MODES}
        if usable(results):
            break
    else:
        raise SystemExit(f"{name}: no usable seed")

    folder = HERE / "cases" / name
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    save_model(folder / "model", model, tokenizer, case, dtype, state, config_extra)
    for i, image in enumerate(images):
        image.save(folder / "images" / f"{i}.png", optimize=True)
    expected, same = {"input_ids": inputs["input_ids"][0]}, {}
    if images:
        expected |= {"pixel_values": inputs["pixel_values"][0], "num_tiles": inputs["num_tiles"],
                     "aspect_ratio_ids": inputs["aspect_ratio_ids"][0]}
    for mode in MODES:
        for key, value in sorted(results[mode][0].items()):
            twin = next((m for m in MODES if m != mode and f"{m}.{key}" in expected
                         and np.array_equal(expected[f"{m}.{key}"], value)), None)
            if twin:
                same[f"{mode}.{key}"] = f"{twin}.{key}"
            else:
                expected[f"{mode}.{key}"] = np.ascontiguousarray(value)
    save_numpy(expected, folder / "expected.safetensors")
    about = {"made_with": {"transformers": transformers.__version__, "torch": torch.__version__,
                           "pillow": PIL.__version__, "attention": "eager", "dtype": "float32"} | (made_with or {}),
             "seed": seed, "prompt": case["prompt"].replace("@", "<|image|>"), "images": len(images),
             "dtype": case["dtype"], "new_tokens": 64,
             "margins": {m: round(results[m][1], 5) for m in MODES}, "same": same}
    (folder / "case.json").write_text(json.dumps(about, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name:22s} seed {seed:3d}  {size // 1024:5d} KiB  margins {about['margins']}  generated "
          f"{[len(results[m][0]['generated']) for m in MODES]}", flush=True)


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name, CASES[name])


if __name__ == "__main__":
    main()
