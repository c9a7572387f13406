#!/usr/bin/env python3
"""Goldens of the sampler from transformers' own logits processors.

    python tests/golden/make_sampler.py

writes tests/golden/beams.txt: what generate(num_beams=...) makes of a toy model whose logits follow from
the last two ids (toy_logits()), and tests/golden/sampler.txt: one case of random options a block, with
    scores   hash64 of the float32 scores after the processors, bit for bit
    kept     hash64 of one byte an id: 1 where temperature, top-k, top-p and min-p leave it
    best     the most likely id and its log-probability after the processors
Logits are made up from the seed, the same in tests/unit/test_sampler.c (logits()).
"""
import pathlib

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as lp

from make_images import hash64

OUT = pathlib.Path(__file__).parent / "sampler.txt"


def logits(vocab, seed):
    """All different: multiples of 2^-18 in [-8, 8), by an odd factor modulo 2^22."""
    i = np.arange(vocab, dtype=np.uint64) + np.uint64(seed)
    return ((i * np.uint64(2654435761 + 15838 * seed) & 0x3FFFFF).astype(np.int64) - (1 << 21)).astype(np.float32) / (1 << 18)


def f32(x):
    return float(np.float32(x))


def options(rng, vocab):
    def some(p, value, off):
        return value if rng.random() < p else off

    def ids(n, low=0):
        return [int(x) for x in rng.integers(low, vocab, n)]

    alphabet = ids(int(rng.integers(2, 7)))
    n = int(rng.integers(1, 40))
    text = [alphabet[int(i)] for i in rng.integers(0, len(alphabet), n)]
    if rng.random() < 0.5:  # an image token: one past the last logit
        text[int(rng.integers(0, n))] = vocab
    words = [ids(1), [*text[-1:], ids(1)[0]], [*text[-2:], ids(1)[0]], ids(2)]
    eos = ids(int(rng.integers(1, 4)))
    words = [w for w in words if max(w) < vocab][: int(rng.integers(0, 5))] + some(0.3, [[eos[0]]], [])
    return dict(
        temperature=some(0.6, f32(rng.uniform(0.3, 2)), 1.0), top_k=some(0.5, int(rng.integers(1, vocab)), 0),
        top_p=some(0.5, f32(rng.uniform(0, 1)), 1.0), min_p=some(0.4, f32(rng.uniform(0, 0.5)), 0.0),
        penalty=some(0.6, f32(rng.uniform(0.5, 2)), 1.0), ngram=some(0.5, int(rng.integers(1, 5)), 0),
        min_new=some(0.4, int(rng.integers(1, 20)), 0), n_prompt=int(rng.integers(0, n + 1)), text=text,
        bias=some(0.5, {i: f32(rng.normal() * 5) for i in ids(4)}, {}), words=some(0.6, words, []),
        suppress=some(0.4, ids(3), []), eos=eos)


def processors(o):
    """In the order of GenerationMixin._get_logits_processor."""
    out = lp.LogitsProcessorList()
    eos = torch.tensor(o["eos"])
    if o["bias"]:
        out.append(lp.SequenceBiasLogitsProcessor([[[i], b] for i, b in o["bias"].items()]))
    if o["penalty"] != 1.0:
        out.append(lp.RepetitionPenaltyLogitsProcessor(o["penalty"]))
    if o["ngram"]:
        out.append(lp.NoRepeatNGramLogitsProcessor(o["ngram"]))
    words = [w for w in o["words"] if w not in [[e] for e in o["eos"]]]
    if words:  # transformers refuses a list that its own filter has emptied
        out.append(lp.NoBadWordsLogitsProcessor(o["words"], eos))
    if o["min_new"]:
        out.append(lp.MinNewTokensLengthLogitsProcessor(o["n_prompt"], o["min_new"], eos))
    if o["suppress"]:
        out.append(lp.SuppressTokensLogitsProcessor(o["suppress"]))
    return out


def warpers(o):
    out = lp.LogitsProcessorList()
    if o["temperature"] != 1.0:
        out.append(lp.TemperatureLogitsWarper(o["temperature"]))
    if o["top_k"]:
        out.append(lp.TopKLogitsWarper(o["top_k"]))
    if o["top_p"] < 1.0:
        out.append(lp.TopPLogitsWarper(o["top_p"]))
    if o["min_p"]:
        out.append(lp.MinPLogitsWarper(o["min_p"]))
    return out


def listed(name, values):
    return " ".join([name, str(len(values)), *map(str, values)]) + "\n"


def block(rng, vocab, seed):
    o = options(rng, vocab)
    text = torch.tensor([o["text"]])
    scores = processors(o)(text, torch.from_numpy(logits(vocab, seed))[None])
    kept = torch.isfinite(warpers(o)(text, scores.clone()))[0].numpy().astype(np.uint8)
    best = int(scores.argmax())
    logprob = float(torch.log_softmax(scores[0].double(), -1)[best])
    return (
        f"case {vocab} {seed} {o['temperature']!r} {o['top_k']} {o['top_p']!r} {o['min_p']!r} {o['penalty']!r} "
        f"{o['ngram']} {o['min_new']} {o['n_prompt']}\n" + listed("text", o["text"])
        + listed("bias_ids", list(o["bias"])) + listed("bias", list(o["bias"].values()))
        + listed("bad_words", [i for w in o["words"] for i in [*w, -1]]) + listed("suppress", o["suppress"])
        + listed("eos", o["eos"])
        + f"scores {hash64(scores.numpy().tobytes())} kept {hash64(kept.tobytes())} best {best} {logprob:.9f}\n")


# ---- beams


def toy_logits(vocab, seed, a, b, eos):
    i = np.arange(vocab, dtype=np.uint64) + np.uint64(seed + 977 * a + 131 * b)
    out = ((i * np.uint64(2654435761) & 0x3FFFFF).astype(np.int64) - (1 << 21)).astype(np.float32) / (1 << 19)
    out[eos] += np.float32(2)
    return out


class Toy(transformers.PreTrainedModel, transformers.GenerationMixin):
    def __init__(self, vocab, seed, eos):
        super().__init__(transformers.PretrainedConfig(vocab_size=vocab, eos_token_id=eos, is_encoder_decoder=False))
        self.toy = vocab, seed, eos
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, **_):
        vocab, seed, eos = self.toy
        rows = [toy_logits(vocab, seed, int(r[-2]) if len(r) > 1 else 0, int(r[-1]), eos) for r in input_ids]
        return transformers.modeling_outputs.CausalLMOutput(logits=torch.from_numpy(np.stack(rows))[:, None])

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}


def beam_case(rng, seed):
    vocab, beams, most = int(rng.integers(20, 70)), int(rng.integers(2, 6)), int(rng.integers(1, 25))
    eos = [int(x) for x in rng.choice(vocab, int(rng.integers(1, 4)), replace=False)]
    prompt = [int(x) for x in rng.integers(0, vocab, int(rng.integers(1, 6)))]
    penalty = f32(rng.uniform(1, 1.5)) if rng.random() < 0.3 else 1.0
    ngram, early = (2 if rng.random() < 0.3 else 0), bool(rng.random() < 0.5)
    out = Toy(vocab, seed, eos).generate(
        torch.tensor([prompt]), num_beams=beams, max_new_tokens=most, early_stopping=early, use_cache=False,
        do_sample=False, repetition_penalty=penalty, no_repeat_ngram_size=ngram, eos_token_id=eos, pad_token_id=eos[0],
        length_penalty=1.0, return_dict_in_generate=True, output_scores=True)
    score = float(out.sequences_scores[0])
    new = out.sequences[0].tolist()[len(prompt):]
    return (f"case {vocab} {seed} {beams} {int(early)} {most} {penalty!r} {ngram}\n" + listed("prompt", prompt)
            + listed("eos", eos) + listed("new", new) + f"score {score:.7f}\n")


if __name__ == "__main__":
    version = f"# transformers {transformers.__version__}, torch {torch.__version__}\n"
    rng = np.random.default_rng(34304)
    with open(OUT, "w") as f:
        f.write(version)
        for seed in range(240):
            f.write(block(rng, 64 if seed % 3 else 640, seed))
        for seed in range(240, 252):
            f.write(block(rng, 128256, seed))
    with open(OUT.parent / "beams.txt", "w") as f:
        f.write(version)
        for seed in range(200):
            f.write(beam_case(rng, seed))
