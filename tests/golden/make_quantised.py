"""Makes tests/golden/quantised.safetensors: what bitsandbytes' generic code makes of small weights.

    python tests/golden/make_quantised.py           (needs torch and bitsandbytes 0.50)

For each NAME: NAME.x, the weights; NAME.codes, NAME.absmax (after quantize_4bit, NF4 or FP4 in blocks
of 64), NAME.w, what dequantize_4bit gives in float32, and NAME.w_bfloat16, NAME.w_float16, rounded;
double-quantised: NAME.nested, NAME.offset besides. int8.x, int8.codes, int8.scb, int8.w. The 256
dynamic values: dynamic.
Among the weights: ties between two values, a block of zeros, a short last block, an odd number.
"""
import pathlib

import bitsandbytes as bnb
import torch
from bitsandbytes.backends.default import ops
from bitsandbytes.functional import create_dynamic_map, get_4bit_type, quantize_4bit
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent


def plain(function):
    return getattr(function, "__wrapped__", function)


def four_bits(out, name, x, kind):
    q, s = quantize_4bit(x, blocksize=64, quant_type=kind)
    out |= {f"{name}.x": x, f"{name}.codes": q.reshape(-1), f"{name}.absmax": s.absmax}
    w = plain(ops._dequantize_4bit_compute)(q.reshape(-1), s.absmax, s.code, 64, x.shape, torch.float32)
    out |= {f"{name}.w": w, f"{name}.w_bfloat16": w.bfloat16().float(), f"{name}.w_float16": w.half().float()}


def doubled(out, name, absmax):
    """The generic quantize_blockwise, with the exact mean."""
    code = create_dynamic_map()
    offset = absmax.double().mean().float()
    d, codes, nested = absmax - offset, [], []
    bounds = (code[:-1] + code[1:]) / 2
    for block in d.split(256):
        most = block.abs().max()
        short = len(block) < 256
        least = most.clamp(min=1e-38)
        scaled = block / least if short else block * (1.0 / least)
        nested.append(least if short else most)
        codes.append(torch.bucketize(scaled.clamp(-1, 1), bounds).to(torch.uint8))
    codes, nested = torch.cat(codes), torch.stack(nested)
    want = torch.ops.bitsandbytes.quantize_blockwise(d, code, 256)
    assert (want[0] != codes).sum() <= 2 and torch.equal(want[1], nested), "the C++ form has other ties"
    w = plain(ops._dequantize_blockwise_compute)(codes, nested, code, 256, torch.float32) + offset
    out |= {f"{name}.absmax": absmax, f"{name}.codes": codes, f"{name}.nested": nested,
            f"{name}.offset": offset.reshape(1), f"{name}.w": w}


def main():
    g = torch.Generator().manual_seed(3)
    out = {"dynamic": create_dynamic_map()}
    values = get_4bit_type("nf4", device="cpu")
    ties = torch.cat([(values[:-1] + values[1:]) / 2, values, values * (1 + 2e-7), torch.tensor([1.0, -1.0])])
    x = torch.randn(9, 64, generator=g)
    x[1, :len(ties)] = ties
    x[2] = 0
    x[3] *= 1e-39
    four_bits(out, "whole", x, "nf4")
    four_bits(out, "odd", torch.randn(7, 33, generator=g), "nf4")
    four_bits(out, "zeros_last", torch.cat([torch.randn(1, 64, generator=g), torch.zeros(1, 64)]).reshape(-1)[:77]
              .reshape(7, 11), "nf4")
    four_bits(out, "bfloat16", torch.randn(5, 96, generator=g).bfloat16(), "nf4")
    four_bits(out, "float16", torch.randn(5, 96, generator=g).half(), "nf4")
    four_bits(out, "fp4", torch.randn(6, 64, generator=g), "fp4")
    doubled(out, "doubled", torch.rand(600, generator=g) + 0.5)
    x = torch.randn(30, 70, generator=g).bfloat16()
    x[6:, 0] = x[6:].abs().max(1).values / 2  # 63.5 but for what rounds
    x[1] = 0
    x[2, :10] = torch.arange(10) / 2 / 127
    x[2, 10:] = 0
    x[2, 11] = 1
    codes, scb, _ = bnb.functional.int8_vectorwise_quant(x.half())
    codes[1] = 0  # 0 * inf
    w = torch.ops.bitsandbytes.int8_vectorwise_dequant(codes, scb)
    out |= {"int8.x": x, "int8.codes": codes, "int8.scb": scb, "int8.w": w}
    versions = {"bitsandbytes": bnb.__version__, "torch": torch.__version__}
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "quantised.safetensors", metadata=versions)


if __name__ == "__main__":
    main()
