#!/usr/bin/env python3
"""Names and shapes of every tensor of transformers' mllama for the released geometries.

    python tests/golden/make_weights.py > tests/golden/weights.txt

Needs torch and transformers; nothing is allocated (meta device). A line: geometry, new-layout name
with %d for the layer, shape, layers. test_weights.c compares the weight table with it."""
import re

import torch
import transformers
from transformers import MllamaConfig, MllamaForConditionalGeneration

TEXT_90B = dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=100,
                num_attention_heads=64, num_key_value_heads=8,
                cross_attention_layers=list(range(3, 100, 5)))
GEOMETRIES = {"11b": ({"image_size": 560}, {}), "11b-base": ({"image_size": 448}, {}),
              "90b": ({"image_size": 560}, TEXT_90B)}


def main():
    print(f"# transformers {transformers.__version__}, torch {torch.__version__}")
    for name, (vision, text) in GEOMETRIES.items():
        config = MllamaConfig(vision_config=vision, text_config=text)
        with torch.device("meta"):
            state = MllamaForConditionalGeneration(config).state_dict()
        rows = {}
        for key, value in state.items():
            layer = re.search(r"\.(\d+)\.", key)
            pattern = re.sub(r"\.\d+\.", ".%d.", key)
            shape = "x".join(map(str, value.shape))
            layers = rows.setdefault((pattern, shape), [])
            layers.append(int(layer[1]) if layer else -1)
        for (pattern, shape), layers in rows.items():
            print(name, pattern, shape, ",".join(map(str, layers)))


if __name__ == "__main__":
    main()
