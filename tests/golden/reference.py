"""What the three references compute, on top of transformers 5: an oracle for the goldens.

transformers 5.x as it is stands for `hf5`. The two older meanings are restored by changing two
methods of its mllama classes (docs/MODEL.md lists the differences):
  - `meta`, `hf4`: a kept vision state is what goes INTO the layer that intermediate_layers_indices
    names, not what comes out of it;
  - `meta`: a text row that sees no image takes nothing from a cross layer: neither the attention's
    output nor the MLP's. transformers drops only the MLP's.
"""
import contextlib

from transformers.models.mllama import modeling_mllama as hf


def _encode_keeping_inputs(encoder, hidden_states, attention_mask=None):
    kept, x = [], hidden_states
    for layer in encoder.layers:
        kept.append(x)
        x = layer(x, attention_mask=attention_mask)
    return hf.BaseModelOutput(last_hidden_state=x, hidden_states=tuple(kept))


def _mask_attention_output(attention, args, kwargs, output):
    return output[0] * attention.row_mask, output[1]


class _RowMask:
    """Hands each cross layer's row mask to a hook behind its attention module."""

    def __init__(self, model):
        self.hooks = []
        for layer in model.modules():
            if isinstance(layer, hf.MllamaCrossAttentionDecoderLayer):
                self.hooks.append(layer.register_forward_pre_hook(self.note, with_kwargs=True))
                self.hooks.append(layer.cross_attn.register_forward_hook(
                    _mask_attention_output, with_kwargs=True))

    @staticmethod
    def note(layer, args, kwargs):
        mask = kwargs.get("full_text_row_masked_out_mask")
        layer.cross_attn.row_mask = 1.0 if mask is None else mask[:, 0]

    def remove(self):
        for hook in self.hooks:
            hook.remove()


@contextlib.contextmanager
def reference(model, mode):
    """Within the block, model computes what `mode` (meta, hf4, hf5) means."""
    assert mode in ("meta", "hf4", "hf5")
    original = hf.MllamaVisionEncoder.forward
    masks = _RowMask(model) if mode == "meta" else None
    if mode != "hf5":
        hf.MllamaVisionEncoder.forward = _encode_keeping_inputs
    try:
        yield model
    finally:
        hf.MllamaVisionEncoder.forward = original
        if masks:
            masks.remove()
