"""From pages to tensors: mllama's tiles, the prompt and answer tokens, and where each answer token stands on the page."""
import multiprocessing as mp

import numpy as np
import torch
from PIL import Image

import receipts as R
import tokenizer as T
from model import CANVASES

TILE, PATCH, MAX_TILES = 112, 16, 4
SIDE = TILE // PATCH
ROWS = SIDE * SIDE + 1
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
LONGEST = 132  # answer tokens, <|eot_id|> included


def canvas(w, h):
    """(rows, columns) of the tile canvas mllama chooses, and the size the image is resized to."""
    scale = [min(r * TILE / h, c * TILE / w) for r, c in CANVASES]
    best = min((s for s in scale if s >= 1), default=max(scale))
    rows, cols = min((a for a, s in zip(CANVASES, scale) if s == best), key=lambda a: a[0] * a[1])
    tw, th = min(max(w, TILE), cols * TILE), min(max(h, TILE), rows * TILE)
    sw, sh = tw / w, th / h
    new = (tw, min(int(h * sw) or 1, th)) if sw < sh else (min(int(w * sh) or 1, tw), th)
    return (rows, cols), new


def tiles(image):
    """Gray image -> uint8 tiles [MAX_TILES, TILE, TILE], tiles used, aspect id."""
    (rows, cols), new = canvas(*image.size)
    page = Image.new("L", (cols * TILE, rows * TILE))
    page.paste(image if image.size == new else image.resize(new, Image.BILINEAR))
    a = np.asarray(page).reshape(rows, TILE, cols, TILE).transpose(0, 2, 1, 3).reshape(-1, TILE, TILE)
    out = np.zeros((MAX_TILES, TILE, TILE), np.uint8)
    out[:len(a)] = a
    return out, len(a), CANVASES.index((rows, cols)) + 1


def normalise(gray, used):
    """uint8 tiles [B, T, S, S] -> float32 [B, T, 3, S, S]; missing tiles are exactly zero."""
    x = (gray.float()[:, :, None] * (1 / 255) - MEAN[:, None, None]) / STD[:, None, None]
    return x * (torch.arange(MAX_TILES)[None] < used[:, None])[:, :, None, None, None]


def vision_row(row, column):
    """Row of the vision states that holds a patch of a 2x2 canvas."""
    return ((row // SIDE) * 2 + column // SIDE) * ROWS + 1 + (row % SIDE) * SIDE + column % SIDE


def answer_keys(fields):
    """The answer and, for each of its characters, None or the (field, places) whose cells show it; no place: the whole field."""
    text, keys = "", []

    def put(string, key=None):
        nonlocal text
        text += string
        keys.extend([key] * len(string))

    def value(name, field, v, places=None, close=True):
        put(f'"{name}')
        first = (field, (0,)) if field not in (R.DATE, R.PAYMENT) else (field, None)
        if v is None:
            put('":', first)
            put("null")
            return
        put('":"', first)
        for i, c in enumerate(v):
            put(c, (field, places[i] if places else (i,)) if not places or places[i] is not None else None)
        if close and field != R.DATE and field != R.PAYMENT:
            keys_end.append((len(text), (field, (len(v),))))

    keys_end = []
    put("{")
    value("store_name", R.STORE, fields["store_name"])
    put('",' if fields["store_name"] is not None else ",")
    dates = [(0,), (1,), (2,), (3,), None, (5, R.MONTH_NAME), (6, R.MONTH_NAME), None, (8,), (9,)]
    value("date", R.DATE, fields["date"], dates)
    put('",' if fields["date"] is not None else ",")
    value("total_amount", R.TOTAL, fields["total_amount"])
    put('",' if fields["total_amount"] is not None else ",")
    pay = fields["payment_method"]
    value("payment_method", R.PAYMENT, pay, pay and [None if i else tuple(range(16)) for i in range(len(pay))])
    put('",' if pay is not None else ",")
    put('"items')
    items = fields["items"]
    name = lambda i: (R.ITEM + 3 * i + R.NAME, (0,))
    put('":[{' if items else '":[]}', name(0))
    for i, item in enumerate(items):
        base = R.ITEM + 3 * i
        value("item_name", base + R.NAME, item["item_name"])
        put('",')
        put('"quantity')
        put('":"', (base + R.QUANTITY, (0,)))
        put(item["quantity"], (base + R.QUANTITY, (0,)))
        put('",')
        value("price", base + R.PRICE, item["price"], close=False)
        put('"},{' if i + 1 < len(items) else '"}]}', name(i + 1))
    for at, key in keys_end:
        keys[at] = key
    return text, keys


class Encoder:
    def __init__(self):
        self.tokenizer = T.load()
        self.ids = T.special_ids()
        self.prompt = self.tokenizer.encode(T.prompt(), add_special_tokens=False).ids
        self.image_at = self.prompt.index(self.ids["image"])
        self.classes = [t * ROWS for t in range(MAX_TILES)]

    def sample(self, seed, index, jitter):
        image, fields, listed, cells = R.sample(seed, index, jitter)
        pixels, used, aspect = tiles(image)
        text, keys = answer_keys(fields)
        assert text == R.answer(fields), (text, R.answer(fields))
        e = self.tokenizer.encode(text, add_special_tokens=False)
        tokens = e.ids + [self.ids["eot"]]
        sides = ({}, {})
        labels = np.zeros((MAX_TILES * ROWS, 2, 3), np.int64)  # character, field, place of the left and right cell
        if listed is None:
            labels[:, :, 0] = -100
        for row, column, c, field, place in cells:
            at, side = vision_row(row, column // 2), column % 2
            labels[at, side] = ord(c) - 32, field, place
            if field:
                sides[side].setdefault((field, place), []).append(at)
                sides[side].setdefault((field, None), []).append(at)
        gaze = np.zeros((len(tokens), 2, MAX_TILES * ROWS), np.uint8)
        for i, (start, _) in enumerate(e.offsets):
            if keys[start] is None:
                continue
            field, places = keys[start]
            for side in (0, 1):
                rows = [a for p in places or (None,) for a in sides[side].get((field, p), ())]
                gaze[i, side, rows or self.classes] = 1
        return pixels, used, aspect, tokens, labels, gaze

    def batch(self, samples):
        n = max(len(s[3]) for s in samples)
        tokens = np.full((len(samples), n), -100, np.int64)
        gaze = np.zeros((len(samples), n, 2, MAX_TILES * ROWS), np.uint8)
        for i, s in enumerate(samples):
            tokens[i, :len(s[3])] = s[3]
            gaze[i, :len(s[3])] = s[5]
        return dict(pixels=np.stack([s[0] for s in samples]), used=np.array([s[1] for s in samples]),
                    aspect=np.array([s[2] for s in samples]), tokens=tokens, gaze=gaze,
                    labels=np.stack([s[4] for s in samples]))


def produce(queue, first, seed, jitter, size, parts):
    """Worker: batches of similar answer length from the stream of a seed."""
    encoder, index = Encoder(), first
    order = np.random.default_rng(first)
    while True:
        pool = sorted((encoder.sample(seed, index + i, jitter.value) for i in range(size * parts)), key=lambda s: len(s[3]))
        index += size * parts
        for i in order.permutation(parts):
            queue.put(encoder.batch(pool[i * size:(i + 1) * size]))


class Stream:
    """Batches from a background process; `jitter` may be changed on the way."""

    def __init__(self, first, seed, jitter, size, parts=6):
        context = mp.get_context("fork")
        self.jitter = context.Value("i", jitter)
        self.queue = context.Queue(12)
        self.worker = context.Process(target=produce, args=(self.queue, first, seed, self.jitter, size, parts), daemon=True)
        self.worker.start()

    def next(self):
        return {k: torch.from_numpy(v) for k, v in self.queue.get().items()}
