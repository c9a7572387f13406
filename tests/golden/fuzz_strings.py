"""Random strings of many scripts, for comparing tokenizers. The same seed gives the same strings."""
import random

# first and last code point of a stretch, most of it assigned
SCRIPTS = [
    (0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x58A),
    (0x590, 0x5FF), (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7BF), (0x900, 0x97F), (0x980, 0x9FF),
    (0xA00, 0xA7F), (0xB80, 0xBFF), (0xC00, 0xC7F), (0xE00, 0xE7F), (0xE80, 0xEFF), (0xF00, 0xFFF),
    (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x13A0, 0x13FF),
    (0x1780, 0x17FF), (0x1800, 0x18AF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F),
    (0x2070, 0x20CF), (0x2100, 0x218F), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF),
    (0x2C00, 0x2DFF), (0x3000, 0x303F), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF), (0xA640, 0xA6FF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFDFF),
    (0xFE00, 0xFE0F), (0xFE70, 0xFEFF), (0xFF00, 0xFFEF), (0x10000, 0x100FF), (0x10300, 0x103DF),
    (0x11000, 0x1107F), (0x12000, 0x123FF), (0x1D400, 0x1D7FF), (0x1F100, 0x1F1FF),
    (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE007F), (0x30, 0x39), (0x660, 0x669),
]
PUNCTUATION = ".,;:!?()[]{}<>|/\\\"'`~@#$%^&*-_=+\u00a3\u20ac\u2026\u2013\u2019"
SPACES = "     \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u180e\u2003\u200b\u2028\u2029\u202f\u3000\ufeff"
WORDS = ("the a of and receipt total amount cash change tax date store item price qty subtotal "
         "Invoice TOTAL don't we're I'LL it's they'Ve y'all 'tis O'Reilly rock'n'roll 'S 'T 'RE "
         "'\u017f 'L 'M 'D 12.50 1,234,567.89 2024-07-26 $9.99 50% x2 a1b2c3 http://a.b/c?d=e#f "
         "C++ foo_bar __init__ \u00fcber na\u00efve \u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
         "\u4f60\u597d\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4 "
         "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea "
         "\u0939\u093f\u0928\u094d\u0926\u0940 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 "
         "e\u0301 \u1e9b\u0323").split()
SPECIALS = ["<|begin_of_text|>", "<|eot_id|>", "<|image|>", "<|reserved_special_token_1|>",
            "<|start_header_id|>", "<|", "|>", "<|eot_id|", "<|eot_id |>", "<<|image|>>"]


def scalar(rng):
    """Any scalar: never a surrogate."""
    c = rng.randrange(0x110000 - 0x800)
    return chr(c if c < 0xD800 else c + 0x800)


def part(rng, special):
    kind = rng.random()
    if kind < 0.22:
        return rng.choice(WORDS)
    if kind < 0.40:
        return "".join(rng.choice(SPACES) for _ in range(rng.choice((1, 1, 1, 2, 3, 7))))
    if kind < 0.50:
        return "".join(rng.choice(PUNCTUATION) for _ in range(rng.randint(1, 4)))
    if kind < 0.56:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9)))
    if kind < 0.60:
        return rng.choice(("ab", "0", " ", "\n", "=", "-", "\u4e00", "na")) * rng.randint(2, 120)
    if kind < 0.63:
        return "".join(scalar(rng) for _ in range(rng.randint(1, 3)))
    if kind < 0.64:
        return rng.choice("\0\x01\x7f\ufffd\uffff\U0010ffff")
    if kind < 0.68 and special:
        return rng.choice(SPECIALS)
    low, high = rng.choice(SCRIPTS)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9)))


def strings(count, seed, special=True, longest=24):
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(part(rng, special) for _ in range(rng.randint(0, longest)))
