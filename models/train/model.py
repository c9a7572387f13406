"""A lean torch forward of mllama for one image a prompt, with the state-dict names of the Hugging Face hub.

It computes what Meta's reference computes (kept vision states are layer inputs, rows before the image skip the
cross-attention layers altogether), returns the attention weights that the gaze loss needs, and leaves everything else
out: no cache in training, no several images, no generation machinery.
"""
import json
import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

CONFIG = dict(
    tile=112, patch=16, max_tiles=4, vis_hidden=192, vis_heads=4, vis_inter=512, vis_layers=4, vis_global=1, kept=[2],
    hidden=192, heads=4, kv_heads=2, inter=384, layers=5, cross=[1, 3], vocab=640, rope_theta=10000.0, eps=1e-5,
)
CANVASES = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]


class RMSNorm(nn.Module):
    def __init__(self, n, eps, value=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((n,), value))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def linear(i, o, bias=False):
    return nn.Linear(i, o, bias=bias)


def attend(q, k, v, mask):
    """Plain attention: on a CPU its products and softmax beat the fused kernel's backward pass at these sizes."""
    b, h, n, d = q.shape
    s = torch.bmm((q * d ** -0.5).reshape(b * h, n, d), k.reshape(b * h, -1, d).transpose(1, 2))
    if mask is not None:
        s = (s.view(b, h, n, -1) + mask).view(b * h, n, -1)
    return torch.bmm(torch.softmax(s, -1, dtype=s.dtype), v.reshape(b * h, -1, d)).view(b, h, n, d)


class VisionAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        h = c["vis_hidden"]
        self.heads = c["vis_heads"]
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (linear(h, h) for _ in range(4))

    def forward(self, x, mask):
        b, n, h = x.shape
        w = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        q, k, v = F.linear(x, w).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        o = attend(q, k, v, mask)
        return self.o_proj(o.transpose(1, 2).reshape(b, n, h))


class VisionMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1 = linear(c["vis_hidden"], c["vis_inter"], True)
        self.fc2 = linear(c["vis_inter"], c["vis_hidden"], True)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class VisionLayer(nn.Module):
    def __init__(self, c, gated):
        super().__init__()
        h, self.gated = c["vis_hidden"], gated
        self.self_attn, self.mlp = VisionAttention(c), VisionMLP(c)
        self.input_layernorm = nn.LayerNorm(h, eps=c["eps"])
        self.post_attention_layernorm = nn.LayerNorm(h, eps=c["eps"])
        if gated:
            self.gate_attn = nn.Parameter(torch.tensor([0.8]))
            self.gate_ffn = nn.Parameter(torch.tensor([0.8]))

    def forward(self, x, mask):
        a = self.self_attn(self.input_layernorm(x), mask)
        x = x + (self.gate_attn.tanh() * a if self.gated else a)
        a = self.mlp(self.post_attention_layernorm(x))
        return x + (self.gate_ffn.tanh() * a if self.gated else a)


class Layers(nn.Module):
    def __init__(self, c, n, gated):
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(c, gated) for _ in range(n))


class TilePosition(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embedding = nn.Embedding(len(CANVASES) + 1, c["max_tiles"] * c["vis_hidden"])
        self.gate = nn.Parameter(torch.tensor([0.5]))

    def forward(self, ids, tiles):
        return self.gate.tanh() * self.embedding(ids).view(len(ids), tiles, 1, -1)


class Position(nn.Module):
    def __init__(self, c, rows):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(rows, c["vis_hidden"]) * 0.1)
        self.gate = nn.Parameter(torch.tensor([0.5]))
        self.tile_embedding = nn.Embedding(len(CANVASES) + 1, c["max_tiles"] * rows * c["vis_hidden"])

    def forward(self, ids, tiles):
        g = self.gate.tanh()
        return (1 - g) * self.embedding + g * self.tile_embedding(ids).view(len(ids), tiles, *self.embedding.shape)


class Vision(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, h = c, c["vis_hidden"]
        self.side = c["tile"] // c["patch"]
        self.rows = self.side ** 2 + 1
        self.pad = -self.rows % 8
        self.class_embedding = nn.Parameter(torch.randn(h) * 0.1)
        self.patch_embedding = nn.Conv2d(3, h, c["patch"], stride=c["patch"], bias=False)
        self.gated_positional_embedding = Position(c, self.rows)
        self.pre_tile_positional_embedding = TilePosition(c)
        self.post_tile_positional_embedding = TilePosition(c)
        self.layernorm_pre, self.layernorm_post = nn.LayerNorm(h, eps=1e-5), nn.LayerNorm(h, eps=1e-5)
        self.transformer = Layers(c, c["vis_layers"], False)
        self.global_transformer = Layers(c, c["vis_global"], True)

    def mask(self, tiles_used):
        """Additive mask that blocks pairs of padding rows: 7 a tile and every row of a missing tile."""
        t, full = self.c["max_tiles"], self.rows + self.pad
        missing = torch.arange(t)[None, :, None] >= tiles_used[:, None, None]
        pad = (missing | (torch.arange(full) >= self.rows)).view(len(tiles_used), 1, t * full).float()
        return (pad.transpose(1, 2) * pad)[:, None] * -1e30

    def forward(self, pixels, ids, mask):
        """pixels [B, T, 3, S, S] -> [B, T * rows, hidden * (1 + kept)]"""
        b, t, p, s = *pixels.shape[:2], self.c["patch"], self.side
        x = pixels[..., :s * p, :s * p].reshape(b, t, 3, s, p, s, p).permute(0, 1, 3, 5, 2, 4, 6).reshape(b, t, s * s, -1)
        x = F.linear(x, self.patch_embedding.weight.flatten(1)).float()
        x = x + self.pre_tile_positional_embedding(ids, t)
        x = torch.cat([self.class_embedding.expand(b, t, 1, -1), x], 2)
        x = self.layernorm_pre(x + self.gated_positional_embedding(ids, t))
        full = self.rows + self.pad
        x = F.pad(x, (0, 0, 0, self.pad)).view(b, t * full, -1)
        kept = []
        for i, layer in enumerate(self.transformer.layers):
            if i in self.c["kept"]:
                kept.append(x)
            x = layer(x, mask)
        x = self.layernorm_post(x)
        x = (x.view(b, t, full, -1) + self.post_tile_positional_embedding(ids, t)).view(b, t * full, -1)
        for layer in self.global_transformer.layers:
            x = layer(x, mask)
        x = torch.cat([x, torch.stack(kept, -1).flatten(2)], -1)
        return x.view(b, t, full, -1)[:, :, :self.rows].reshape(b, t * self.rows, -1)


class TextMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj = linear(c["hidden"], c["inter"]), linear(c["hidden"], c["inter"])
        self.down_proj = linear(c["inter"], c["hidden"])

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    def __init__(self, c, cross):
        super().__init__()
        h, self.heads, self.kv = c["hidden"], c["heads"], c["kv_heads"]
        d = h // self.heads
        self.q_proj, self.o_proj = linear(h, h), linear(h, h)
        self.k_proj, self.v_proj = linear(h, self.kv * d), linear(h, self.kv * d)
        if cross:  # unit norm weights cap a logit at sqrt(d): too flat for a sharp gaze over 200 rows
            self.q_norm, self.k_norm = RMSNorm(d, c["eps"], 1.7), RMSNorm(d, c["eps"], 1.7)

    def split(self, x, n):
        return x.view(*x.shape[:2], n, -1).transpose(1, 2)

    def keys(self, x):
        r = self.heads // self.kv
        return self.split(self.k_proj(x), self.kv), self.split(self.v_proj(x), self.kv), r


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class SelfLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c, False), TextMLP(c)
        self.input_layernorm = RMSNorm(c["hidden"], c["eps"])
        self.post_attention_layernorm = RMSNorm(c["hidden"], c["eps"])

    def forward(self, x, rope, past=None):
        a, y = self.self_attn, self.input_layernorm(x)
        q = rotate(a.split(a.q_proj(y), a.heads), *rope)
        k, v, r = a.keys(y)
        k = rotate(k, *rope)
        if past is not None:
            if "k" in past:
                k, v = torch.cat([past["k"], k], 2), torch.cat([past["v"], v], 2)
            past["k"], past["v"] = k, v
        k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
        mask = torch.full((n, n), -1e30).triu(1).to(v.dtype) if (n := q.shape[2]) > 1 else None
        o = attend(q.to(v.dtype), k.to(v.dtype), v, mask)
        x = x + a.o_proj(o.transpose(1, 2).flatten(2))
        return x + self.mlp(self.post_attention_layernorm(x))


class CrossLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cross_attn, self.mlp = Attention(c, True), TextMLP(c)
        self.input_layernorm = RMSNorm(c["hidden"], c["eps"])
        self.post_attention_layernorm = RMSNorm(c["hidden"], c["eps"])
        self.cross_attn_attn_gate = nn.Parameter(torch.tensor([1.0]))
        self.cross_attn_mlp_gate = nn.Parameter(torch.tensor([1.0]))

    def memory(self, vision):
        a = self.cross_attn
        k, v, r = a.keys(vision)
        return a.k_norm(k).repeat_interleave(r, 1), v.repeat_interleave(r, 1)

    def forward(self, x, memory, mask, row):
        """Returns the new state and the log attention weights [B, heads, L, rows]."""
        a = self.cross_attn
        q = a.q_norm(a.split(a.q_proj(self.input_layernorm(x)), a.heads))
        k, v = memory
        s = (q.to(v.dtype) @ k.to(v.dtype).transpose(2, 3)).float() / math.sqrt(q.shape[-1]) + mask
        w = s.log_softmax(-1)
        o = a.o_proj((w.exp().to(v.dtype) @ v).transpose(1, 2).flatten(2))
        x = x + self.cross_attn_attn_gate.tanh() * (row * o)
        return x + self.cross_attn_mlp_gate.tanh() * (row * self.mlp(self.post_attention_layernorm(x))), w


class Text(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab"] + 8, c["hidden"])
        self.layers = nn.ModuleList(CrossLayer(c) if i in c["cross"] else SelfLayer(c) for i in range(c["layers"]))
        self.norm = RMSNorm(c["hidden"], c["eps"])


class LanguageModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = Text(c)
        self.lm_head = linear(c["hidden"], c["vocab"])


class Mllama(nn.Module):
    def __init__(self, c=None):
        super().__init__()
        self.c = c = dict(CONFIG, **(c or {}))
        self.vision_model = Vision(c)
        self.multi_modal_projector = linear(c["vis_hidden"] * (1 + len(c["kept"])), c["hidden"], True)
        self.language_model = LanguageModel(c)
        d = c["hidden"] // c["heads"]
        self.register_buffer("freq", c["rope_theta"] ** (-torch.arange(0, d, 2).float() / d), persistent=False)
        self.init()

    def init(self):
        for name, m in self.named_modules():
            if isinstance(m, (nn.Linear, nn.Conv2d)):
                nn.init.normal_(m.weight, 0, 0.7 / math.sqrt(m.weight[0].numel()))
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Embedding):
                nn.init.normal_(m.weight, 0, 0.1 if "vision" in name else 0.3)
        n = self.c["layers"]
        for m in self.modules():
            if isinstance(m, (SelfLayer, CrossLayer)):
                m.mlp.down_proj.weight.data /= math.sqrt(n)

    def rope(self, start, n):
        a = torch.outer(torch.arange(start, start + n).float(), self.freq)
        a = torch.cat([a, a], -1)
        return a.cos(), a.sin()

    def see(self, pixels, ids, tiles_used, shared_mask=False):
        mask = self.vision_model.mask(tiles_used[:1] if shared_mask else tiles_used)
        if torch.is_autocast_enabled("cpu"):
            mask = mask.bfloat16()
        return self.multi_modal_projector(self.vision_model(pixels, ids, mask))

    def vision_mask(self, tiles_used):
        """Additive mask of the rows of missing tiles, [B, 1, 1, T * rows]."""
        t, rows = self.c["max_tiles"], self.vision_model.rows
        missing = (torch.arange(t)[None] >= tiles_used[:, None]).repeat_interleave(rows, 1)
        return missing[:, None, None].float() * -1e30

    def memories(self, seen):
        text = self.language_model.model
        return {i: text.layers[i].memory(seen) for i in self.c["cross"]}

    def read(self, tokens, image_at, memories, vmask, start=0, past=None):
        """Hidden states after the final norm, and the log attention weights of each cross layer."""
        text, n = self.language_model.model, tokens.shape[1]
        x, rope, gaze = text.embed_tokens(tokens), self.rope(start, n), {}
        row = (torch.arange(start, start + n) >= image_at).float()[:, None]
        for i, layer in enumerate(text.layers):
            if i in self.c["cross"]:
                x, gaze[i] = layer(x, memories[i], vmask, row)
            else:
                x = layer(x, rope, None if past is None else past[i])
        return text.norm(x), gaze

    @torch.no_grad()
    def greedy(self, pixels, ids, tiles_used, prompt, image_at, stop, limit):
        """Greedy answers for a batch that shares one prompt; lists of token ids, the stop token left out."""
        memories, vmask = self.memories(self.see(pixels, ids, tiles_used)), self.vision_mask(tiles_used)
        past = [{} for _ in range(self.c["layers"])]
        tokens, start, b = torch.tensor([prompt]).expand(len(pixels), -1), 0, len(pixels)
        out, done = [[] for _ in range(b)], [False] * b
        for _ in range(limit):
            x, _ = self.read(tokens, image_at, memories, vmask, start, past)
            start += tokens.shape[1]
            tokens = self.language_model.lm_head(x[:, -1]).float().argmax(-1)[:, None]
            for i, t in enumerate(tokens[:, 0].tolist()):
                done[i] = done[i] or t in stop
                if not done[i]:
                    out[i].append(t)
            if all(done):
                break
        return out


def hub_config(c, special):
    """config.json with the keys of the released checkpoints."""
    return {
        "architectures": ["MllamaForConditionalGeneration"], "image_token_index": c["vocab"], "model_type": "mllama",
        "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "mllama_text_model", "bos_token_id": special["bos"], "eos_token_id": special["eos"],
            "pad_token_id": special["pad"], "cross_attention_layers": c["cross"], "dropout": 0, "hidden_act": "silu",
            "hidden_size": c["hidden"], "initializer_range": 0.02, "intermediate_size": c["inter"],
            "max_position_embeddings": 2048, "num_attention_heads": c["heads"], "num_hidden_layers": c["layers"],
            "num_key_value_heads": c["kv_heads"], "rms_norm_eps": c["eps"], "rope_scaling": None,
            "rope_theta": c["rope_theta"], "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
            "vocab_size": c["vocab"],
        },
        "vision_config": {
            "model_type": "mllama_vision_model", "attention_heads": c["vis_heads"], "hidden_act": "gelu",
            "hidden_size": c["vis_hidden"], "image_size": c["tile"], "initializer_range": 0.02,
            "intermediate_layers_indices": c["kept"], "intermediate_size": c["vis_inter"], "max_num_tiles": c["max_tiles"],
            "norm_eps": c["eps"], "num_channels": 3, "num_global_layers": c["vis_global"],
            "num_hidden_layers": c["vis_layers"], "patch_size": c["patch"],
            "supported_aspect_ratios": [list(a) for a in CANVASES],
            "vision_output_dim": c["vis_hidden"] * (1 + len(c["kept"])), "torch_dtype": "bfloat16",
        },
    }


def from_hub(directory):
    """The model of a checkpoint directory written by save_hub, weights widened to float32."""
    with open(os.path.join(directory, "config.json")) as f:
        j = json.load(f)
    t, v = j["text_config"], j["vision_config"]
    model = Mllama(dict(
        tile=v["image_size"], patch=v["patch_size"], max_tiles=v["max_num_tiles"], vis_hidden=v["hidden_size"],
        vis_heads=v["attention_heads"], vis_inter=v["intermediate_size"], vis_layers=v["num_hidden_layers"],
        vis_global=v["num_global_layers"], kept=v["intermediate_layers_indices"], hidden=t["hidden_size"],
        heads=t["num_attention_heads"], kv_heads=t["num_key_value_heads"], inter=t["intermediate_size"],
        layers=t["num_hidden_layers"], cross=t["cross_attention_layers"], vocab=t["vocab_size"],
        rope_theta=t["rope_theta"], eps=t["rms_norm_eps"]))
    weights = load_file(os.path.join(directory, "model.safetensors"))
    model.load_state_dict({k: w.float() for k, w in weights.items()})
    return model.eval()


def save_weights(state, path):
    save_file({k: v.detach().to(torch.bfloat16).contiguous() for k, v in state.items()}, path, metadata={"format": "pt"})
