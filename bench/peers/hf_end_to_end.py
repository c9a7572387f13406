"""hf_end_to_end.py MODEL [--binary build/mllama] [--rounds 3] [--new 32] [--peers A,B] [--output OUT]

One image and one prompt through `mllama run` (default, --compute bf16, --quant nf4) and through
transformers in bf16 (its default attention) and in bitsandbytes' NF4 (the same modules left in 16
bits as ours), on the same checkpoint and the same cores, one after the other in every round, each in
a process of its own. Medians of vision seconds, decode tokens/s and peak resident bytes, in OUT.json
and OUT.md. transformers: vision is the tower and the projector, decode the steps behind the first
token. MODEL: see make_synthetic.py (prompts are ids, so no tokenizer is needed).
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from peer_tools import facts, show, stats, table, write

PEERS = ("mllama", "mllama --compute bf16", "transformers bf16", "mllama --quant nf4", "transformers nf4")
SKIP = ["vision_model", "multi_modal_projector", "lm_head", "cross_attn"]  # what `quantize` leaves alone


def prompt_ids(config):
    """Five tokens, the image, a question of 26."""
    return [1, 6, 9, 7, 10, config["image_token_index"], *range(100, 126)]


def run_transformers(model_dir, new_tokens, kind):
    """In a process of its own: prints one line of JSON."""
    import torch
    import transformers
    from transformers import BitsAndBytesConfig, MllamaForConditionalGeneration

    quant = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
                               llm_int8_skip_modules=SKIP)
    options = {"quantization_config": quant, "device_map": "cpu"} if kind == "nf4" else {}
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = MllamaForConditionalGeneration.from_pretrained(model_dir, dtype=torch.bfloat16, **options).eval()
    config = json.loads((pathlib.Path(model_dir) / "config.json").read_text())
    ids = torch.tensor([prompt_ids(config)])
    vision = config["vision_config"]
    tiles, size = vision["max_num_tiles"], vision["image_size"]
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(1, 1, tiles, 3, size, size, generator=generator).to(torch.bfloat16)
    cross = torch.zeros(1, ids.shape[1], 1, tiles, dtype=torch.long)
    cross[:, 5:] = 1
    spent = {}

    def begin(_module, _inputs):
        spent["begin"] = time.monotonic()

    def end(_module, _inputs, _output):
        spent["vision"] = time.monotonic() - spent["begin"]

    model.model.vision_model.register_forward_pre_hook(begin)
    model.model.multi_modal_projector.register_forward_hook(end)
    feed = dict(input_ids=ids, pixel_values=pixels, aspect_ratio_ids=torch.tensor([[6]]),
                aspect_ratio_mask=torch.ones(1, 1, tiles, dtype=torch.long), cross_attention_mask=cross,
                attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None)
    marks = []

    class Mark(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            marks.append(time.monotonic())
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    with torch.inference_mode():
        model.generate(**feed, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
                       stopping_criteria=transformers.StoppingCriteriaList([Mark()]))
    rate = (len(marks) - 1) / (marks[-1] - marks[0])
    print(json.dumps({"vision": spent["vision"], "decode": rate}))


def measure(command):
    """(stdout, peak resident bytes) of one process."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"failed with status {status}: {' '.join(command)}")
        out.seek(0)
        return out.read().decode(), usage.ru_maxrss * 1024


def measure_peer(peer, args, image, ids):
    if peer.startswith("transformers"):
        text, resident = measure([sys.executable, __file__, args.model, "--new", str(args.new), "--peer",
                                  peer.split()[1]])
        result = json.loads(text.strip().splitlines()[-1])
    else:
        command = [args.binary, "run", "-m", args.model, "--image", image, "--ids", ids, "-n", str(args.new), "--json",
                   "--max-images", "1", "-c", "512", "--eos", "5"] + peer.split()[1:]
        text, resident = measure(command)
        said = json.loads(text)
        # the first new token comes from the prefill's logits
        rate = (said["tokens"]["generated"] - 1) / said["seconds"]["decode"]
        result = {"vision": said["seconds"]["vision"], "decode": rate}
    return result | {"resident": resident}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--binary", default="build/mllama")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--output")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        run_transformers(args.model, args.new, args.peer)
        return
    config = json.loads((pathlib.Path(args.model) / "config.json").read_text())
    ids = ",".join(map(str, prompt_ids(config)))
    size = config["vision_config"]["image_size"]
    with tempfile.TemporaryDirectory() as folder:
        image = f"{folder}/page.png"
        noise = np.random.default_rng(3).integers(0, 256, (2 * size, 2 * size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(image)
        runs = {peer: [] for peer in args.peers.split(",")}
        for _ in range(args.rounds):
            for peer in runs:
                runs[peer].append(measure_peer(peer, args, image, ids))
                print(peer, runs[peer][-1], file=sys.stderr, flush=True)
    import torch
    import transformers
    report = facts(args.binary) | {"cores": len(os.sched_getaffinity(0)), "rounds": args.rounds, "torch": torch.__version__,
                        "transformers": transformers.__version__, "new_tokens": args.new,
                        "model": {k: config[k] for k in ("vision_config", "text_config")}, "runs": runs,
                        "stats": {p: {k: stats([x[k] for x in r]) for k in r[0]} for p, r in runs.items()}}
    lines = [f"{report['cpu']}, {report['cores']} cores, torch {torch.__version__}, transformers "
             f"{transformers.__version__}, {report['date']}, commit {report['commit']}; median (p10-p90) of "
             f"{args.rounds} rounds in turn", ""]
    lines += table(["", "vision, s", "decode, tokens/s", "peak resident, MiB"],
                   [[p, show(m["vision"], 2), show(m["decode"], 1), f"{m['resident']['median'] / 2**20:.0f}"]
                    for p, m in report["stats"].items()], 1)
    if args.output:
        write(args.output, report, lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
