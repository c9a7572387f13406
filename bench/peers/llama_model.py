"""A whole decoder in mllama and in llama.cpp: llama_model.py MLLAMA FOLDER OUT [--threads N] [--rounds 5]

`mllama bench model --synthetic 1b` and the files of make_gguf.py in FOLDER, a prompt at once, then tokens one by one
behind the first, as both programs' bench does it; in turn, round by round, one repetition each behind one that does
not count. llama.cpp runs in this process, by llama-cpp-python, which pip builds for this machine, keys in fp16 as its
own default, ours in float32.
"""
import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import time

import llama_cpp
import numpy as np

from peer_tools import PAUSE, facts, show, stats, table, write

OURS = {"bf16": ["--quant", "none"], "bf16, --compute bf16": ["--quant", "none", "--compute", "bf16"],
        "nf4": ["--quant", "nf4"], "nf4, --compute bf16": ["--quant", "nf4", "--compute", "bf16"],
        "nf4, --compute int8": ["--quant", "nf4", "--compute", "int8"]}
THEIRS = {"llama.cpp F16": "1b-f16.gguf", "llama.cpp Q4_0": "1b-q4_0.gguf"}
VOCAB = 128256


class LlamaCpp:
    def __init__(self, path, args):
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = args.prompt + args.new + 1
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = args.threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        assert self.context, path

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def feed(self, ids):
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)  # waits
        return np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (VOCAB,))

    def seconds(self, first, then):
        """Of feeding `then` tokens, all at once where first is 0, else one by one behind so many."""
        ids = [k * 7919 % VOCAB for k in range(first + then)]
        self.clear()
        if first:
            self.feed(ids[:first])
        start = time.perf_counter()
        for part in ([[i] for i in ids[first:]] if first else [ids]):
            logits = self.feed(part)
        spent = time.perf_counter() - start
        assert np.isfinite(logits).all() and logits.std() > 0
        return spent

    def measure(self, args):
        time.sleep(PAUSE)
        rates = {}
        for name, first, then in (("prompt", 0, args.prompt), ("decode", 1, args.new)):
            self.seconds(first, then)
            rates[name] = then / self.seconds(first, then)
        return rates


def measure_ours(args, options):
    command = [args.program, "bench", "model", "--synthetic", "1b", "-p", str(args.prompt), "-n", str(args.new), "-r", "1",
               "-t", str(args.threads), "-o", "json", "--device", "cpu", *options]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return {"prompt": rows[0]["tokens_per_s"], "decode": rows[1]["tokens_per_s"], "read": rows[1]["read_gb_s"]}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("out")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--prompt", type=int, default=128)
    p.add_argument("--new", type=int, default=16)
    args = p.parse_args()
    llama_cpp.llama_backend_init()
    silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silence, None)
    theirs = {name: LlamaCpp(args.folder / file, args) for name, file in THEIRS.items()}
    runs = {name: [] for name in [*OURS, *THEIRS]}
    for _ in range(args.rounds):
        for name, options in OURS.items():
            runs[name].append(measure_ours(args, options))
        for name, peer in theirs.items():
            runs[name].append(peer.measure(args))
        print({name: r[-1] for name, r in runs.items()}, file=sys.stderr, flush=True)
    out = facts(args.program) | {"threads": args.threads, "rounds": args.rounds, "prompt": args.prompt, "new": args.new,
                                 "llama_cpp_python": llama_cpp.__version__,
                                 "llama_cpp": llama_cpp.llama_print_system_info().decode(), "runs": runs,
                                 "stats": {n: {k: stats([x[k] for x in r]) for k in r[0]} for n, r in runs.items()}}
    head = ["", f"prompt of {args.prompt}, tokens/s", "one by one, tokens/s"]
    write(args.out, out, table(head, [[n, show(s["prompt"], 0), show(s["decode"], 1)] for n, s in out["stats"].items()], 1))


if __name__ == "__main__":
    main()
