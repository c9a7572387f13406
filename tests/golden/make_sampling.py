"""Makes tests/golden/sampling.json: what transformers' generate answers in some cases of make.py with
logits processors and beams, in the reference meta.

    python tests/golden/make_sampling.py        (after make.py; same packages)

A run: case, options (names of generate), ids, and score where beams were searched.
"""
import json

import torch
import transformers
from transformers import MllamaForConditionalGeneration

import make
from reference import reference

NAMES = ("one_tile", "two_images", "text_only", "long_prompt")
RUNS = (
    dict(repetition_penalty=1.25), dict(no_repeat_ngram_size=2), dict(min_new_tokens=30),
    dict(repetition_penalty=1.5, no_repeat_ngram_size=3, suppress_tokens=[10, 20, 30, 40]),
    dict(num_beams=3), dict(num_beams=4, early_stopping=True), dict(num_beams=2, repetition_penalty=1.25),
    dict(num_beams=5, min_new_tokens=6, no_repeat_ngram_size=2),
)


def main():
    torch.set_num_threads(1)
    runs = []
    for name in NAMES:
        case = make.DEFAULTS | make.CASES[name]
        folder = make.HERE / "cases" / name
        images = [make.draw(size, sum(map(ord, name)) + i) for i, size in enumerate(case["images"])]
        inputs = make.make_inputs(case, make.make_tokenizer(), images)
        feed = {k: torch.from_numpy(v) for k, v in inputs.items() if k != "num_tiles"}
        model = MllamaForConditionalGeneration.from_pretrained(
            folder / "model", dtype=torch.float32, attn_implementation="eager").eval()
        for options in RUNS:
            with torch.no_grad(), reference(model, "meta"):
                out = model.generate(**feed, do_sample=False, max_new_tokens=32, return_dict_in_generate=True,
                                     output_scores=True, **options)
            run = {"case": name, "options": options, "ids": out.sequences[0, feed["input_ids"].shape[1]:].tolist()}
            if "num_beams" in options:
                run["score"] = round(float(out.sequences_scores[0]), 6)
            runs.append(run)
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n  ".join(json.dumps(run) for run in runs)
    text = f'{{"made_with": {json.dumps(made_with)}, "runs": [\n  {lines}\n]}}\n'
    (make.HERE / "sampling.json").write_text(text)


if __name__ == "__main__":
    main()
