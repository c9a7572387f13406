"""Makes the end-to-end goldens of quantised checkpoints: tests/golden/cases/quant_*.

    python tests/golden/make_quant.py [NAME...]     (make.py's needs, and bitsandbytes 0.50)

A case is one of make.py whose nn.Linear weights bitsandbytes quantises and stores (QuantState,
Linear8bitLt), run by transformers in float32 with the weights dequantised by bitsandbytes' generic
code: as float32 products in mode meta, rounded to the dtype they came from in hf4 and hf5. 8-bit
activations are not modelled: int8 weights are multiplied by float32 activations.
"""
import sys

import bitsandbytes as bnb
import torch
from bitsandbytes.backends.default import ops
from bitsandbytes.functional import quantize_4bit

from make import MODES, make, stored_name

WIDE = dict(hidden=64, mlp=128, v_hidden=64, v_mlp=128, kept=[1], patch=10)
# quant: type, double-quantised, storage; skip: modules left as they are (llm_int8_skip_modules)
CASES = {
    "quant_nf4": dict(WIDE, images=[(30, 55)], dtype="bfloat16", quant=("nf4", False, "uint8"), skip=[]),
    "quant_nf4_double": dict(images=[(33, 20)], dtype="float16", names="old", keys="old", hidden=42, heads=3,
                             kv_heads=3, mlp=37, shards=2, quant=("nf4", True, "uint8"),
                             skip=["vision_model", "multi_modal_projector", "lm_head", "layers.2.mlp"]),
    "quant_fp4": dict(WIDE, images=[], dtype="bfloat16", prompt="<|begin_of_text|>The answer is no",
                      quant=("fp4", True, "bfloat16"), skip=["lm_head"]),
    "quant_int8": dict(images=[(30, 30)], dtype="bfloat16", names="old", keys="old",
                       quant=("int8", False, None), skip=["lm_head"]),
}


def dequantise(q, state):
    absmax = state.absmax
    if state.nested:
        s = state.state2
        absmax = ops._dequantize_blockwise_compute.__wrapped__(
            absmax, s.absmax, s.code, s.blocksize, torch.float32) + state.offset
    return ops._dequantize_4bit_compute.__wrapped__(
        q.view(torch.uint8).reshape(-1), absmax, state.code, state.blocksize, state.shape, torch.float32)


def quantise_4bit(name, weight, case, stored, exact, rounded):
    kind, double, storage = case["quant"]
    q, state = quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=double,
                             quant_storage=getattr(torch, storage))
    stored[stored_name(name, case)] = q
    for part, value in state.as_dict(packed=True).items():
        stored[f"{stored_name(name, case)}.{part}"] = value
    exact[name] = dequantise(q, state)
    rounded[name] = exact[name].to(weight.dtype).float()


def quantise_8bit(name, weight, case, stored, exact, rounded):
    param = bnb.nn.Int8Params(weight, requires_grad=False).to("cpu")
    module = stored_name(name, case).removesuffix("weight")
    stored[module + "weight"], stored[module + "SCB"] = param.data, param.SCB
    stored[module + "weight_format"] = torch.tensor(0, dtype=torch.uint8)
    exact[name] = torch.ops.bitsandbytes.int8_vectorwise_dequant(param.data, param.SCB)
    rounded[name] = exact[name]


def quantise(model, case, dtype):
    stored, exact, rounded = {}, {}, {}
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    eight = case["quant"][0] == "int8"
    for name, weight in model.state_dict().items():
        weight = weight.to(dtype).contiguous()
        if name not in linear or any(s in name for s in case["skip"]):
            stored[stored_name(name, case)] = weight
        elif eight:
            quantise_8bit(name, weight, case, stored, exact, rounded)
        else:
            quantise_4bit(name, weight, case, stored, exact, rounded)
    config = {"quant_method": "bitsandbytes", "load_in_8bit": eight, "load_in_4bit": not eight,
              "llm_int8_skip_modules": case["skip"] or None}
    if not eight:
        config |= {"bnb_4bit_quant_type": case["quant"][0], "bnb_4bit_compute_dtype": case["dtype"],
                   "bnb_4bit_use_double_quant": case["quant"][1], "bnb_4bit_quant_storage": case["quant"][2]}
    weights = {mode: exact if mode == "meta" else rounded for mode in MODES}
    return {k: v.clone() for k, v in stored.items()}, {"quantization_config": config}, weights


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name, CASES[name], quantise, {"bitsandbytes": bnb.__version__})


if __name__ == "__main__":
    main()
