#!/usr/bin/env python3
"""torch and bitsandbytes on a GPU, at the shapes of `mllama bench ops` and `bench model`.

    gpu_peers.py [--device cuda] [--small]

Prints one JSON list of rows {peer, test, seconds (median), least, most}, also where it is stopped
before the end. Single ops: weights in turn from 256 MB of copies, so that caches do not help, as
`bench ops` does. Models: transformers' Mllama of the 11B's geometry with random weights, eager, in
fp16 and, where bitsandbytes is there, with the decoder's linears in NF4, double-quantised: an image
of 4 tiles, a prompt of 512 tokens, 64 tokens behind it. --small: tiny shapes, to try the script.
Exit status 69: no torch, or no GPU that it can use.
"""
import argparse
import json
import signal
import statistics
import sys
import time

COLD_BYTES = 256e6
MATRICES = [("11b.q", 4096, 4096), ("11b.kv", 1024, 4096), ("11b.gate", 14336, 4096),
            ("11b.down", 4096, 14336), ("11b.head", 128256, 4096)]
TOWER = [("vision.qkvo", 1280, 1280), ("vision.fc1", 5120, 1280), ("vision.fc2", 1280, 5120)]


class Bench:
    def __init__(self, torch, bnb, device, small):
        self.torch, self.bnb, self.device, self.small = torch, bnb, device, small
        self.rows = []

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def seconds(self, calls):
        """Of one of calls, which follow each other, sorted, of five repetitions."""
        samples = []
        for repetition in range(6):
            self.wait()
            start = time.perf_counter()
            for call in calls:
                call()
            self.wait()
            if repetition > 0:
                samples.append((time.perf_counter() - start) / len(calls))
        return sorted(samples)

    def add(self, peer, test, samples):
        self.rows.append({"peer": peer, "test": test, "seconds": statistics.median(samples),
                          "least": samples[0], "most": samples[-1]})

    def random(self, *shape):
        return self.torch.randn(*shape, dtype=self.torch.float16, device=self.device) / 32

    # ---- ops ---------------------------------------------------------------------------------

    def linears(self, name, rows, cols, counts):
        """One matrix in fp16 and in NF4, at several numbers of activation rows."""
        copies = 2 if self.small else max(1, min(16, 1 + int(COLD_BYTES / (2 * rows * cols))))
        weights = [self.random(rows, cols) for _ in range(copies)]
        linear = self.torch.nn.functional.linear
        x = {n: self.random(n, cols) for n in counts}
        for n in counts:
            calls = [lambda w=weights[i % copies]: linear(x[n], w) for i in range(20)]
            self.add("torch fp16", f"{name} n={n}", self.seconds(calls))
        if self.bnb is None or name.startswith("vision") or name.endswith("head"):
            return
        quantised = [self.bnb.functional.quantize_4bit(w, quant_type="nf4", compress_statistics=True)
                     for w in weights]
        for n in counts:
            calls = [lambda q=quantised[i % copies]: self.bnb.matmul_4bit(x[n], q[0].t(),
                                                                          quant_state=q[1])
                     for i in range(20)]
            self.add("bitsandbytes nf4-dq", f"{name} n={n}", self.seconds(calls))

    def attention(self, test, q, k, causal):
        attend = self.torch.nn.functional.scaled_dot_product_attention
        grouped = q[0] != k[0]
        q, key, value = self.random(1, *q), self.random(1, *k), self.random(1, *k)
        call = lambda: attend(q, key, value, is_causal=causal, enable_gqa=grouped)
        self.add("torch fp16", test, self.seconds([call] * 5))

    def ops(self):
        shrink = 32 if self.small else 1
        for name, rows, cols in MATRICES:
            self.linears(name, rows // shrink, cols // shrink,
                         [1, 8] if name.endswith("head") else [1, 8, 512 // shrink])
        for name, rows, cols in TOWER:
            self.linears(name, rows // shrink, cols // shrink, [6432 // shrink])
        self.attention("attn vision rows=6432", (16, 6432 // shrink, 80), (16, 6432 // shrink, 80),
                       False)
        self.attention("attn 11b keys=6404 n=1", (32, 1, 128), (8, 6404 // shrink, 128), False)

    # ---- models ------------------------------------------------------------------------------

    def model(self):
        from transformers import MllamaConfig, MllamaForConditionalGeneration
        from transformers.models.mllama.configuration_mllama import (MllamaTextConfig,
                                                                     MllamaVisionConfig)
        text, vision = {}, {"image_size": 560}
        if self.small:
            text = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=4,
                        num_attention_heads=4, num_key_value_heads=2, cross_attention_layers=[1])
            vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                          num_global_layers=1, attention_heads=2, image_size=56, patch_size=14,
                          intermediate_layers_indices=[0], vision_output_dim=64)
        config = MllamaConfig(text_config=MllamaTextConfig(**text),
                              vision_config=MllamaVisionConfig(**vision))
        self.torch.set_default_dtype(self.torch.float16)
        with self.torch.device(self.device):
            model = MllamaForConditionalGeneration(config).eval()
        self.torch.set_default_dtype(self.torch.float32)
        return model

    def quantise(self, model):
        """The decoder's linears as bitsandbytes' load_in_4bit has them."""
        for layer in model.model.language_model.layers:
            for name, old in list(layer.named_modules()):
                if not isinstance(old, self.torch.nn.Linear):
                    continue
                new = self.bnb.nn.Linear4bit(old.in_features, old.out_features, bias=False,
                                             compute_dtype=self.torch.float16, quant_type="nf4",
                                             compress_statistics=True, device="meta")
                new.weight = self.bnb.nn.Params4bit(old.weight.data, requires_grad=False,
                                                    quant_type="nf4", compress_statistics=True)
                parent, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(parent), leaf, new.to(self.device))

    def images(self, model):
        """Vision states of 4 tiles, and how long they take."""
        torch, vision = self.torch, model.config.vision_config
        size = vision.image_size
        pixels = self.random(1, 1, 4, 3, size, size)
        ratio = torch.tensor([[6]], device=self.device)
        mask = torch.ones(1, 1, 4, dtype=torch.long, device=self.device)

        def encode():
            out = model.model.vision_model(pixels, ratio, mask)
            states = model.model.multi_modal_projector(out.last_hidden_state)
            return states.reshape(1, -1, states.shape[-1])
        states = encode()
        return states, self.seconds([encode])

    def answer(self, peer, model, states):
        """The prompt at once, then token by token, the way generate does it."""
        torch, n_prompt, n_new = self.torch, 512, 64
        vocab = model.config.text_config.vocab_size
        ids = torch.randint(0, min(vocab, 1000), (1, n_prompt), device=self.device)
        prefill, decode = [], []
        for repetition in range(3):
            self.wait()
            start = time.perf_counter()
            out = model(input_ids=ids, cross_attention_states=states, use_cache=True,
                        logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            self.wait()
            filled = time.perf_counter()
            for _ in range(n_new):
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
                token.item()
            end = time.perf_counter()
            if repetition > 0:
                prefill.append(filled - start)
                decode.append((end - filled) / n_new)
        self.add(peer, "11b pp512", sorted(prefill))
        self.add(peer, "11b a token behind an image", sorted(decode))

    def models(self):
        model = self.model()
        states, samples = self.images(model)
        self.add("transformers fp16", "11b vision4", samples)
        self.answer("transformers fp16", model, states)
        if self.bnb is not None:
            self.quantise(model)
            self.answer("transformers bitsandbytes nf4-dq", model, states)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        print(f"no torch for python3 here: {error}", file=sys.stderr)
        return 69
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here", file=sys.stderr)
        return 69
    bnb = None
    try:
        import bitsandbytes as bnb
    except Exception as error:  # its libraries may be missing, or too new
        print(f"no bitsandbytes here, only torch: {error}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(torch, bnb, args.device, args.small)
    status = 0
    try:
        with torch.inference_mode():
            bench.ops()
            bench.models()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 1
    finally:
        versions = {"torch": torch.__version__, "bitsandbytes": getattr(bnb, "__version__", None)}
        print(json.dumps([versions, *bench.rows]))
        sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
