"""The tokenizer of receipts-tiny: Llama 3's split pattern and special tokens over a byte-level BPE of a few hundred pieces.

The words of the prompt and of the JSON are single pieces, so an answer is short; capitals and digits have no merges, so a
name is spelt letter by letter and has to be read.
    python3 tokenizer.py DIR     writes the tokenizer, template and processor files of a checkpoint directory
"""
import json
import os
import sys

QUESTION = ("Extract the receipt as JSON with store_name, date (YYYY-MM-DD), total_amount, payment_method and items "
            "(item_name, quantity, price).")
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
WHOLE = ["Extract", "ĠJSON", "YYYY", "-MM", "-DD", "),", "Ġ(", ").", "ĊĊ", '{"', '":"', '","', '":', ',"', '":[{"',
         '"},{"', '"}]}', '":[]}', "CASH", "VISA", "EFTPOS", "MASTERCARD", "AMEX", "DEBIT"]
WORDS = """user assistant system Ġthe Ġreceipt Ġas Ġwith Ġstore _name Ġdate Ġtotal _amount Ġpayment _method Ġand Ġitems
Ġitem Ġquantity Ġprice store date total payment items item quantity price null Ġof Ġto Ġin Ġis Ġyou Ġthat Ġit Ġfor Ġon
Ġare Ġthis Ġwhat Ġimage Ġhow Ġmuch Ġwas Ġpaid Ġwhich Ġwhen Ġread Ġpage Ġtext Ġanswer Ġquestion Ġfrom Ġme Ġmy Ġwe Ġbe
Ġor Ġby Ġat Ġan Ġa Ġnot Ġdo Ġdescribe Ġtwo Ġsentences ing ed er tion Ġshop Ġname Ġamount Ġmethod Ġdocument Ġfields
true false""".split()
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
           "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
           "<|eot_id|>", "<|python_tag|>"]
IMAGE = "<|image|>"
SIZE = 640
TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{%- if message['content'] is string %}
{{- message['content'] }}
{%- else %}
{%- for content in message['content'] %}
{%- if content['type'] == 'image' %}{{- '<|image|>' }}{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def alphabet():
    """The printable stand-ins of the 256 bytes, in GPT-2's order."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]


def build():
    """tokenizer.json as a dictionary."""
    pieces, merges = alphabet(), []
    for word in WORDS:
        for i in range(2, len(word) + 1):
            left, right = word[:i - 1], word[i - 1]
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                pieces.append(word[:i])
    for left, right in (('"', ","), ('",', '"'), ('"', ":"), ('":', '"')):
        merges.append(f"{left} {right}")
        pieces.append(left + right)
    pieces += WHOLE
    pieces = list(dict.fromkeys(pieces))
    first = SIZE - 64
    assert len(pieces) <= first, len(pieces)
    pieces += [f"ĠĠ{'Ġ' * i}" for i in range(first - len(pieces))]
    special = SPECIAL + [f"<|reserved_special_token_{i + 2}|>" for i in range(SIZE - first - len(SPECIAL))] + [IMAGE]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": first + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, s in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                      {"SpecialToken": {"id": SPECIAL[0], "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {SPECIAL[0]: {"id": SPECIAL[0], "ids": [first], "tokens": [SPECIAL[0]]}}}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {p: i for i, p in enumerate(pieces)}, "merges": merges},
    }


def special_ids():
    first = SIZE - 64
    return {"bos": first, "eos": [first + 1, first + 8, first + 9], "pad": first + 4, "eot": first + 9, "image": SIZE}


def prompt():
    """The prompt as the chat template writes it."""
    return ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>" + QUESTION +
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


def load():
    from tokenizers import Tokenizer
    return Tokenizer.from_str(json.dumps(build()))


def write(directory, tile, max_tiles):
    """Every file of the checkpoint but config.json and the weights."""
    ids = special_ids()
    data = build()
    added = {str(t["id"]): {k: t[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
             for t in data["added_tokens"]}
    files = {
        "tokenizer.json": data,
        "tokenizer_config.json": {
            "added_tokens_decoder": added, "bos_token": SPECIAL[0], "eos_token": "<|eot_id|>",
            "pad_token": "<|finetune_right_pad_id|>", "clean_up_tokenization_spaces": True,
            "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 2048,
            "tokenizer_class": "PreTrainedTokenizerFast", "processor_class": "MllamaProcessor"},
        "special_tokens_map.json": {"bos_token": SPECIAL[0], "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"},
        "generation_config.json": {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["pad"],
                                   "do_sample": False, "max_new_tokens": 256},
        "preprocessor_config.json": {
            "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "MllamaImageProcessor", "max_image_tiles": max_tiles, "resample": 2,
            "rescale_factor": 0.00392156862745098, "size": {"height": tile, "width": tile},
            "processor_class": "MllamaProcessor"},
    }
    os.makedirs(directory, exist_ok=True)
    for name, content in files.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1 if name == "tokenizer.json" else 2, ensure_ascii=False)
            f.write("\n")
    with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as f:
        f.write(TEMPLATE)


if __name__ == "__main__":
    write(sys.argv[1], 112, 4)
