#!/usr/bin/env python3
"""Goldens of the rotary embedding at long positions, from transformers.

    python tests/golden/make_rope.py

writes tests/golden/rope.txt. A configuration is a line `config head_dim theta scaled factor low high
original`, then `freq` with the bits of its float32 frequencies, then `pos P` lines with the bits of a
head rotated at position P: element i before that is ((i * 37) % 64 - 32) / 16.
"""
import pathlib

import torch
import transformers
from transformers.models.mllama import modeling_mllama as mllama
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

OUT = pathlib.Path(__file__).parent / "rope.txt"
POSITIONS = [1, 8191, 8192, 65537, 100003, 131071]
# head_dim, theta, scaled, factor, low, high, original
CONFIGS = [(128, 500000, 1, 8, 1, 4, 8192), (64, 500000, 1, 8, 1, 4, 8192), (16, 500000, 1, 8, 1, 4, 32),
           (16, 10000, 0, 1, 1, 1, 8192)]


def bits(x):
    return " ".join(f"{b & 0xffffffff:08x}" for b in x.flatten().view(torch.int32).tolist())


def main():
    lines = [f"# transformers {transformers.__version__}, torch {torch.__version__}"]
    for head_dim, theta, scaled, factor, low, high, original in CONFIGS:
        rope = {"rope_type": "default", "rope_theta": float(theta)}
        if scaled:
            rope.update(rope_type="llama3", factor=float(factor), low_freq_factor=float(low),
                        high_freq_factor=float(high), original_max_position_embeddings=original)
        config = MllamaTextConfig(hidden_size=4 * head_dim, num_attention_heads=4, rope_parameters=rope,
                                  max_position_embeddings=131072)
        embedding = mllama.MllamaRotaryEmbedding(config)
        lines.append(f"config {head_dim} {theta} {scaled} {factor} {low} {high} {original}")
        lines.append("freq " + bits(embedding.inv_freq.float()))
        x = ((torch.arange(head_dim) * 37) % 64 - 32).float().view(1, 1, 1, head_dim) / 16
        for position in POSITIONS:
            cos, sin = embedding(x, torch.tensor([[position]]))
            rotated, _ = mllama.apply_rotary_pos_emb(x, x, cos, sin)
            lines.append(f"pos {position} " + bits(rotated.contiguous()))
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
