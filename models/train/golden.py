#!/usr/bin/env python3
"""Greedy answers of receipts-tiny by transformers in float32, computing what Meta's reference computes.

    python3 golden.py --model DIR --samples DIR --out DIR [--n 4]

transformers 5 keeps vision states after a layer where Meta keeps them before it, and lets text rows before the image take
the attention of a cross layer; both are put right here. Each file also records the prompt's token ids and the first logits.
"""
import argparse
import json
import os

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mllama import modeling_mllama as hf

import tokenizer as T


def encode_layers(self, hidden_states, attention_mask=None):
    inputs = []
    for layer in self.layers:
        inputs.append(hidden_states)
        hidden_states = layer(hidden_states=hidden_states, attention_mask=attention_mask)
    return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=(*inputs, hidden_states))


def cross_layer(self, hidden_states, cross_attention_states=None, cross_attention_mask=None, attention_mask=None,
                full_text_row_masked_out_mask=None, position_ids=None, past_key_values=None, use_cache=False,
                position_embeddings=None, **kwargs):
    sees = 1.0 if full_text_row_masked_out_mask is None else full_text_row_masked_out_mask[:, 0]
    branch, _ = self.cross_attn(hidden_states=self.input_layernorm(hidden_states), attention_mask=cross_attention_mask,
                                cross_attention_states=cross_attention_states, past_key_values=past_key_values, **kwargs)
    hidden_states = hidden_states + torch.tanh(self.cross_attn_attn_gate) * sees * branch
    branch = self.mlp(self.post_attention_layernorm(hidden_states))
    return hidden_states + torch.tanh(self.cross_attn_mlp_gate) * sees * branch


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--samples", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--n", type=int, default=4)
    a = p.parse_args()
    hf.MllamaVisionEncoder.forward = encode_layers
    hf.MllamaCrossAttentionDecoderLayer.forward = cross_layer
    processor = AutoProcessor.from_pretrained(a.model)
    model = AutoModelForImageTextToText.from_pretrained(a.model, dtype=torch.float32, attn_implementation="eager").eval()
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": T.QUESTION}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.samples, "truth.jsonl"), encoding="utf-8") as f:
        pages = [json.loads(line) for line in f][:a.n]
    for page in pages:
        image = Image.open(os.path.join(a.samples, page["file"])).convert("RGB")
        inputs = processor(text=prompt, images=[image], return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=140, do_sample=False, return_dict_in_generate=True, output_logits=True)
        start = inputs["input_ids"].shape[1]
        ids = out.sequences[0].tolist()
        top2 = torch.stack(out.logits).float().topk(2).values[:, 0]
        golden = {
            "file": page["file"], "prompt": prompt, "prompt_ids": ids[:start],
            "aspect_ratio_id": inputs["aspect_ratio_ids"][0, 0].item(), "token_ids": ids[start:],
            "text": processor.tokenizer.decode(ids[start:], skip_special_tokens=True),
            "smallest_margin": round((top2[:, 0] - top2[:, 1]).min().item(), 4),
            "first_logits": [round(x, 5) for x in out.logits[0][0].tolist()],
            "made_with": f"transformers {transformers.__version__}, eager, float32, semantics meta",
        }
        name = os.path.splitext(page["file"])[0] + ".json"
        with open(os.path.join(a.out, name), "w", encoding="utf-8") as f:
            json.dump(golden, f, ensure_ascii=False)
            f.write("\n")
        print(name, golden["text"])


if __name__ == "__main__":
    main()
