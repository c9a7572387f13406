#!/usr/bin/env python3
"""Writes unicode_class.c: the classes of the Llama 3 split pattern (letter, number, space, other).

The oracle is the `tokenizers` package itself: every scalar is shown to its regex engine, so that the
tables hold what it does, whatever its Unicode version. Usage: make_unicode.py > unicode_class.c
(tokenizers==0.23.3), then clang-format."""
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, pre_tokenizers

SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
BLOCK = 128  # scalars a block of the second stage, 2 bits each


def members(pattern):
    """The scalars that pattern matches, found by what Split removes from all of them in a row."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    text = "".join(map(chr, SCALARS))
    kept = {c for piece, _ in split.pre_tokenize_str(text) for c in piece}
    return {c for c in SCALARS if chr(c) not in kept}


def unicode_version(letters):
    """The newest Unicode version whose letters are all in the set, by a letter that it brought."""
    firsts = {"17.0": 0x1E6C0, "16.0": 0x10D4A, "15.0": 0x11F04, "14.0": 0x10570, "13.0": 0x10E80}
    return next(v for v, c in firsts.items() if c in letters)


def main():
    letters, numbers, spaces = members(r"\p{L}"), members(r"\p{N}"), members(r"\s")
    assert not (letters & numbers or letters & spaces or numbers & spaces)
    classes = bytearray(0x110000)
    for value, group in ((1, letters), (2, numbers), (3, spaces)):
        for c in group:
            classes[c] = value
    blocks, index = [], []
    for start in range(0, 0x110000, BLOCK):
        c = classes[start:start + BLOCK]
        packed = bytes(c[i] | c[i + 1] << 2 | c[i + 2] << 4 | c[i + 3] << 6
                       for i in range(0, BLOCK, 4))
        if packed not in blocks:
            blocks.append(packed)
        index.append(blocks.index(packed))
    while index[-1] == index[-2]:
        index.pop()
    assert len(blocks) <= 256

    def rows(values, per):
        return ",\n".join(", ".join(map(str, values[i:i + per]))
                          for i in range(0, len(values), per))

    print(f"""/* unicode_class.c - made by make_unicode.py from tokenizers {tokenizers.__version__} \
(Unicode {unicode_version(letters)}):
 * {len(letters)} letters, {len(numbers)} numbers, {len(spaces)} spaces. Do not edit. */
#include "unicode_class.h"

/* index of the block of {BLOCK} scalars that holds a scalar; past the end: the last one's */
static const uint8_t block_of[{len(index)}] = {{
{rows(index, 24)}}};

/* 2 bits a scalar, lowest first */
static const uint8_t blocks[{len(blocks)}][{BLOCK // 4}] = {{
{rows(["{" + ", ".join(map(str, b)) + "}" for b in blocks], 1)}}};

enum uni_class uni_class_of(uint32_t scalar)
{{
    uint32_t block = scalar / {BLOCK};
    if (block >= sizeof block_of)
        block = sizeof block_of - 1;
    uint8_t packed = blocks[block_of[block]][scalar % {BLOCK} / 4];
    return (enum uni_class)(packed >> scalar % 4 * 2 & 3);
}}""")
    sys.stderr.write(f"python's own tables are Unicode {unicodedata.unidata_version}\n")


main()
