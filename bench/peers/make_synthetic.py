"""make_synthetic.py DIR: a random mllama checkpoint of 0.5 B parameters for end-to-end timing.

Real tile geometry (560, patch 14, 4 tiles: 6432 vision rows), bf16, fixed seed, about 0.95 GB. The
values mean nothing; they are small enough that nothing overflows. No tokenizer: prompts are ids.
"""
import pathlib
import sys

import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration

VISION = dict(hidden_size=640, attention_heads=8, num_hidden_layers=16, num_global_layers=4, intermediate_size=2560,
              image_size=560, patch_size=14, max_num_tiles=4, intermediate_layers_indices=[2, 6, 10],
              vision_output_dim=640 * 4)
TEXT = dict(vocab_size=32768, hidden_size=1024, num_hidden_layers=18, num_attention_heads=16, num_key_value_heads=4,
            intermediate_size=4096, cross_attention_layers=[3, 8, 13], max_position_embeddings=4096, bos_token_id=1,
            eos_token_id=2, pad_token_id=3,
            rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})


def main():
    folder = pathlib.Path(sys.argv[1])
    config = MllamaConfig(vision_config=VISION, text_config=TEXT, image_token_index=TEXT["vocab_size"],
                          tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    model = MllamaForConditionalGeneration._from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
            elif "gate" in name and p.numel() == 1:
                p.fill_(0.5)
            else:
                fan_in = p[0].numel() if p.dim() > 1 else p.numel()
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float32) / min(fan_in, 4096) ** 0.5)
    model.save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters in {folder}")


if __name__ == "__main__":
    main()
