"""make_gguf.py FOLDER: the decoder of `mllama bench model --synthetic 1b` as llama.cpp reads it, with made-up weights.

1b-f16.gguf and 1b-q4_0.gguf: 16 layers of Llama-3.2-1B's shape, a head (also the embedding) of 128256 x 2048 in fp16,
matrices in fp16 or Q4_0. Without an image mllama's one cross layer is skipped, so the work is the same: the same
matrices, and the head in 16 bits on both sides. Every layer gets the same random numbers, at a place of its own.
"""
import pathlib
import sys

import gguf
import numpy as np

LAYERS, HIDDEN, WIDE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 16, 2048, 8192, 32, 8, 64, 128256
KV = KV_HEADS * HEAD_DIM
MATRICES = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (KV, HIDDEN), "attn_v": (KV, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (WIDE, HIDDEN), "ffn_up": (WIDE, HIDDEN), "ffn_down": (HIDDEN, WIDE)}
FILES = {"f16": gguf.GGMLQuantizationType.F16, "q4_0": gguf.GGMLQuantizationType.Q4_0}


def write(path, kind):
    random = np.random.default_rng(1)
    numbers = lambda rows, cols: random.standard_normal((rows, cols), dtype=np.float32) / np.float32(cols ** 0.5)
    matrices = {name: gguf.quants.quantize(numbers(*shape), kind) for name, shape in MATRICES.items()}
    ones = np.ones(HIDDEN, np.float32)
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(LAYERS)
    w.add_context_length(131072)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(WIDE)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_rope_freq_base(500000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(VOCAB)
    w.add_tokenizer_model("no_vocab")
    w.add_tensor("token_embd.weight", numbers(VOCAB, HIDDEN).astype(np.float16))
    w.add_tensor("output_norm.weight", ones)
    for i in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{i}.{name}.weight", ones)
        for name, data in matrices.items():
            w.add_tensor(f"blk.{i}.{name}.weight", data, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in FILES.items():
        path = folder / f"1b-{name}.gguf"
        if not path.exists():
            write(folder / "part", kind)
            (folder / "part").rename(path)


if __name__ == "__main__":
    main()
