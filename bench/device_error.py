#!/usr/bin/env python3
"""What a GPU's arithmetic costs in accuracy: its traces beside the CPU's float32.

    python bench/device_error.py CPU_MLLAMA GPU_MLLAMA OUT.md     (needs numpy and safetensors)

Both commands may be one; without a card the second is mllama_shim700 or _shim800 of the tests. The
embedded model reads the sample receipts, each fed the answer that the CPU gives; the tiny checkpoints of
tests/golden get their own requests. Per tensor: the largest difference over the largest magnitude,
the relative RMS error, and for the logits how often the likeliest token is the same.
"""
import pathlib
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

from quant_error import EMBEDDED, trace

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUESTION = "Read this receipt."


def ids_of(*parts):
    return ["--ids", ",".join(map(str, np.concatenate(parts).tolist())), "-n", "1"]


def requests(cpu, file):
    """(name, model, images, request) of every case."""
    for image in sorted((ROOT / "models" / "samples").glob("*.png")):
        t = trace(cpu, EMBEDDED, [image], file, ["-p", QUESTION], "cpu")
        yield "embedded model, samples", EMBEDDED, [image], ids_of(t["input_ids"], t["generated"][:-1])
    for case in sorted((ROOT / "tests" / "golden" / "cases").iterdir()):
        images = sorted((case / "images").glob("*")) if (case / "images").exists() else []
        ids = load_file(case / "expected.safetensors")
        ids = next(v for k, v in sorted(ids.items()) if k.endswith("input_ids"))
        yield "tiny checkpoints", case / "model", images, ids_of(ids)


class Sums:
    """What is collected of one tensor over all requests of a kind."""

    def __init__(self):
        self.largest, self.error, self.size, self.equal, self.rows = 0.0, 0.0, 0.0, 0, 0

    def add(self, exact, found):
        exact, found = exact.astype(np.float64), found.astype(np.float64)
        apart = np.abs(found - exact)
        self.largest = max(self.largest, apart.max() / np.abs(exact).max())
        self.error += (apart ** 2).sum()
        self.size += (exact ** 2).sum()
        self.equal += int((exact.argmax(-1) == found.argmax(-1)).sum())
        self.rows += exact[..., 0].size


def main():
    cpu, gpu, out = sys.argv[1:4]
    sums = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model, images, request in requests(cpu, f"{folder}/a"):
            a = trace(cpu, model, images, f"{folder}/a", request, "cpu")
            b = trace(gpu, model, images, f"{folder}/b", request, "cuda")
            last = max((k for k in a if k.startswith("hidden.")), key=lambda k: int(k[7:]))
            for key in ("vision_last_hidden", "cross_attention_states", last, "logits"):
                if key in a:
                    shown = "hidden, last layer" if key == last else key
                    sums.setdefault((name, shown), Sums()).add(a[key], b[key])
    lines = ["| requests | tensor | largest difference | relative RMS | likeliest token equal |", "| --- | --- | ---: | ---: | ---: |"]
    for (name, key), s in sums.items():
        equal = f"{s.equal} of {s.rows}" if key == "logits" else ""
        lines.append(f"| {name} | {key} | {s.largest:.1e} | {np.sqrt(s.error / s.size):.1e} | {equal} |")
    pathlib.Path(out).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
