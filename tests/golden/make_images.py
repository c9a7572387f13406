#!/usr/bin/env python3
"""Goldens of the image stages, from Pillow and transformers.

    python tests/golden/make_images.py

writes below tests/golden/
    images/*.png, *.jpg     one small file for each kind that a decoder must know
    images/images.txt       file, width, height, hash of the upright RGB pixels
    images/preprocess.txt   size, tile, tiles -> canvas, new size, hash of the resized pixels and of
                            pixel_values, for noise of that size (see noise())
    images/canvas.txt       one hash over the canvas and size of a grid of sizes, per tile and tiles
The reference for pixels is Pillow's decoder, ImageOps.exif_transpose and transformers'
convert_to_rgb; for tiles MllamaImageProcessorPil. Pillow must be 12: 13 resizes some sizes vertically
first, up to 1/255 apart. The versions used stand in the first line of each table.
"""
import io
import pathlib
import struct
import zlib

import numpy as np
import PIL
import transformers
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import SizeDict
from transformers.models.mllama import image_processing_pil_mllama as mllama

OUT = pathlib.Path(__file__).parent / "images"
VERSIONS = f"# Pillow {PIL.__version__}, transformers {transformers.__version__}\n"
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def hash64(data):
    """h = h * P + byte + 1 over all bytes, modulo 2^64."""
    data = np.frombuffer(bytes(data), np.uint8).astype(np.uint64) + np.uint64(1)
    h, block = 0, 1 << 16
    p = 0x100000001B3
    powers = np.ones(block, np.uint64)
    with np.errstate(over="ignore"):
        powers[1:] = p
        powers = np.cumprod(powers, dtype=np.uint64)[::-1]
        for i in range(0, len(data), block):
            part = data[i : i + block]
            total = int((part * powers[block - len(part) :]).sum(dtype=np.uint64))
            h = (h * pow(p, len(part), 1 << 64) + total) % (1 << 64)
    return f"{h:016x}"


def noise(w, h):
    """(h, w, 3): byte i is bits 24.. of i * 2654435761 + i * i, modulo 2^32."""
    i = np.arange(w * h * 3, dtype=np.uint64)
    return ((i * 2654435761 + i * i) >> 24 & 255).astype(np.uint8).reshape(h, w, 3)


# ---- PNG, written by hand: Pillow writes few of its kinds


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_row(samples, depth):
    """One row of samples as bytes; every second kind of row uses the filter Sub."""
    if depth == 16:
        return samples.astype(">u2").tobytes()
    bits = np.unpackbits(samples.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.reshape(-1)).tobytes()


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def scanlines(pixels, depth, interlaced):
    out = b""
    for x0, y0, dx, dy in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = pixels[y0::dy, x0::dx]
        if part.size:
            out += b"".join(b"\0" + pack_row(row.reshape(-1), depth) for row in part)
    return out


def png(pixels, color, depth, interlaced=False, before=(), after=(), plte=None, trns=None):
    h, w, _ = pixels.shape
    out = b"\x89PNG\r\n\x1a\n"
    out += chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, int(interlaced)))
    out += b"".join(chunk(k, d) for k, d in before if k not in (b"fcTL",))
    if plte is not None:
        out += chunk(b"PLTE", plte.tobytes())
    if trns is not None:
        out += chunk(b"tRNS", trns)
    out += b"".join(chunk(k, d) for k, d in before if k in (b"fcTL",))
    data = zlib.compress(scanlines(pixels, depth, interlaced), 9)
    out += chunk(b"IDAT", data[: len(data) // 2]) + chunk(b"IDAT", data[len(data) // 2 :])
    return out + b"".join(chunk(k, d) for k, d in after) + chunk(b"IEND", b"")


def exif(orientation, endian="<", kind=3, count=1):
    value = struct.pack(endian + {3: "HH", 4: "I", 1: "Bxxx"}[kind], *([orientation] + [0] * (kind == 3)))
    entry = struct.pack(endian + "HHI", 0x0112, kind, count) + value
    head = (b"II" if endian == "<" else b"MM") + struct.pack(endian + "HI", 42, 8)
    return head + struct.pack(endian + "H", 1) + entry + bytes(4)


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png_files(rng):
    def pixels(color, depth, w=13, h=11, top=None):
        top = top or 1 << depth
        p = rng.integers(0, top, (h, w, CHANNELS[color]))
        if depth == 16 and color == 0:  # small values, so that not all of them clip
            p[::2] >>= 8
        if color in (4, 6):  # both ends of alpha, and what lies between
            p[::3, :, -1] = top - 1
            p[1::3, ::2, -1] = 0
        return p

    plte = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    for color, depths in {0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]}.items():
        for depth in depths:
            palette = plte[: 1 << depth] if color == 3 else None
            for interlaced in (False, True):
                name = f"c{color}_d{depth:02}" + "_i" * interlaced
                yield name + ".png", png(pixels(color, depth), color, depth, interlaced, plte=palette)
            if color in (0, 2):
                for n, at in enumerate([(0, 0), (1, 3)]):
                    p = pixels(color, depth)
                    key = p[at] if n == 0 or depth < 8 else p[at] & 0xFF
                    p[5:8, 4:9] = key
                    yield f"c{color}_d{depth:02}_key{n}.png", png(
                        p, color, depth, trns=key.astype(">u2").tobytes())
            if color == 3:
                alpha = rng.integers(0, 256, min(1 << depth, 100)).astype(np.uint8)
                hole = np.full(2, 255, np.uint8)
                hole[1] = 0
                for n, trns in enumerate([alpha, hole]):
                    yield f"c3_d{depth:02}_key{n}.png", png(
                        pixels(3, depth), 3, depth, plte=palette, trns=trns.tobytes())
    yield "c0_d01_key_low.png", png(pixels(0, 1), 0, 1, trns=b"\0\0")
    yield "c0_d01_key_high.png", png(pixels(0, 1), 0, 1, trns=b"\0\1")
    yield "c0_d16_key_byte.png", png(np.tile(np.arange(0, 1024, 8)[None, :, None], (3, 1, 1)), 0, 16,
                                     trns=struct.pack(">H", 0x0150))
    yield "c0_d16_key_clip.png", png(np.tile(np.arange(0, 1024, 8)[None, :, None], (3, 1, 1)), 0, 16,
                                     trns=struct.pack(">H", 0x02FF))
    deep = np.zeros((4, 64, 3), int)
    deep[:] = np.arange(64)[None, :, None] * 0x0404 + 1
    yield "c2_d16_key_byte.png", png(deep, 2, 16, trns=struct.pack(">HHH", 0x1120, 0x1120, 0x1120))
    yield "c3_short.png", png(pixels(3, 8), 3, 8, plte=plte[:40])
    yield "c3_short_alpha.png", png(pixels(3, 4), 3, 4, plte=plte[:5], trns=bytes([0, 9, 128, 255, 250]))
    yield "c2_plte.png", png(pixels(2, 8), 2, 8, plte=plte[:7])
    for w, h in (1, 1), (2, 1), (1, 5), (3, 2), (5, 5), (9, 1):
        yield f"tiny_{w}x{h}_i.png", png(pixels(2, 8, w, h), 2, 8, True)
        yield f"tiny_{w}x{h}.png", png(pixels(0, 1, w, h), 0, 1)
    noise_chunks = [(b"gAMA", struct.pack(">I", 220000)), (b"bKGD", bytes(6)), (b"tEXt", b"Title\0hello"),
                    (b"iCCP", b"x\0\0" + zlib.compress(b"not a profile")), (b"pHYs", bytes(9)),
                    (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5000))), (b"vpAg", bytes(9))]
    yield "chunks.png", png(pixels(2, 8), 2, 8, before=noise_chunks)
    for o in range(1, 9):
        yield f"exif_{o}.png", png(pixels(2, 8, 5, 4), 2, 8, before=[(b"eXIf", exif(o))])
    yield "exif_late.png", png(pixels(2, 8, 5, 4), 2, 8, after=[(b"eXIf", exif(6, ">"))])
    frame = struct.pack(">IIIIIHHBB", 0, 13, 11, 0, 0, 1, 10, 1, 0)
    second = struct.pack(">IIIIIHHBB", 1, 13, 11, 0, 0, 1, 10, 1, 0)
    fdat = struct.pack(">I", 2) + zlib.compress(scanlines(pixels(2, 8), 8, False))
    control = (b"acTL", struct.pack(">II", 2, 0))
    yield "apng.png", png(pixels(2, 8), 2, 8, before=[control, (b"fcTL", frame)],
                          after=[(b"fcTL", second), (b"fdAT", fdat)])
    hidden = struct.pack(">I", 1) + zlib.compress(scanlines(pixels(2, 8), 8, False))
    yield "apng_default.png", png(pixels(2, 8), 2, 8, before=[(b"acTL", struct.pack(">II", 1, 0))],
                                  after=[(b"fcTL", frame), (b"fdAT", hidden)])
    smooth = Image.fromarray(picture(61, 47))
    for n, im in enumerate([smooth, smooth.convert("L"), smooth.quantize(16)]):
        buf = io.BytesIO()  # zlib's own choice of filters
        im.save(buf, "PNG")
        yield f"filters_{n}.png", buf.getvalue()


# ---- JPEG


def picture(w, h):
    """A smooth picture with some noise, edges and saturated colours."""
    y, x = np.mgrid[0:h, 0:w]
    rgb = np.stack([x * 255 // w, y * 255 // h, (x * 7 + y * 11) % 256], -1) + noise(w, h) // 16
    rgb[h // 3 : h // 2, w // 4 : w // 2] = [255, 0, 0]
    rgb[: h // 5, w // 2 :] = [0, 0, 255]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def jpeg(image, **options):
    buf = io.BytesIO()
    image.save(buf, "JPEG", **options)
    return buf.getvalue()


def with_adobe(data, transform):
    """Adobe marker with the given colour transform, put first or patched where it is."""
    at = data.find(b"Adobe")
    if at >= 0:
        return data[: at + 11] + bytes([transform]) + data[at + 12 :]
    marker = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    return data[:2] + marker + data[2:]


def without_app(data, marker):
    """Drops the first segment of that marker."""
    at = data.find(bytes([0xFF, marker]))
    size = struct.unpack(">H", data[at + 2 : at + 4])[0]
    return data[:at] + data[at + 2 + size :]


def jpeg_files(rng):
    image = Image.fromarray(picture(37, 29))
    for name, sub in ("444", 0), ("422", 1), ("420", 2):
        yield f"base_{name}.jpg", jpeg(image, quality=80, subsampling=sub)
        yield f"prog_{name}.jpg", jpeg(image, quality=60, subsampling=sub, progressive=True)
    yield "q100.jpg", jpeg(image, quality=100, subsampling=0)
    yield "q5.jpg", jpeg(image, quality=5)
    yield "optimized.jpg", jpeg(image, optimize=True)
    yield "restart.jpg", jpeg(image, restart_marker_blocks=2)
    yield "gray.jpg", jpeg(image.convert("L"))
    yield "gray_prog.jpg", jpeg(image.convert("L"), progressive=True)
    yield "rgb_coded.jpg", jpeg(image, keep_rgb=True)
    yield "adobe_rgb.jpg", with_adobe(without_app(jpeg(image, subsampling=0), 0xE0), 0)
    cmyk = np.concatenate([noise(37, 29) // 2 + picture(37, 29) // 2, noise(37, 29)[..., :1] // 2], -1)
    cmyk = Image.fromarray(cmyk, "CMYK")
    yield "cmyk.jpg", jpeg(cmyk)
    yield "cmyk_prog.jpg", jpeg(cmyk, progressive=True, quality=95)
    yield "ycck.jpg", with_adobe(jpeg(cmyk), 2)
    yield "cmyk_plain.jpg", without_app(jpeg(cmyk), 0xEE)
    for w, h in (1, 1), (1, 17), (17, 1), (8, 8), (16, 16), (9, 7):
        yield f"tiny_{w}x{h}.jpg", jpeg(Image.fromarray(picture(w, h) if w > 8 < h else noise(w, h)))
    small = Image.fromarray(picture(19, 12))
    for o in range(1, 9):
        endian = "<" if o % 2 else ">"
        yield f"exif_{o}.jpg", jpeg(small, exif=b"Exif\0\0" + exif(o, endian))
    bad = {"zero": exif(0), "nine": exif(9), "short": exif(6)[:17], "magic": b"XX" + exif(6)[2:],
           "offset": b"II*\0\xff\xff\xff\xff", "empty": b"", "count": exif(6, count=2)}
    for name, block in bad.items():
        yield f"exif_bad_{name}.jpg", jpeg(small, exif=b"Exif\0\0" + block)
    yield "exif_long.jpg", jpeg(small, exif=b"Exif\0\0" + exif(6, "<", 4))
    yield "exif_byte.jpg", jpeg(small, exif=b"Exif\0\0" + exif(3, ">", 1))
    yield "trailing.jpg", jpeg(small) + b"trailing bytes after the end"


def reference(data):
    image = Image.open(io.BytesIO(data))
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # malformed EXIF: upright
        image.load()
    return convert_to_rgb(image, return_numpy=True)


def write_images():
    rng = np.random.default_rng(20240925)
    with open(OUT / "images.txt", "w") as table:
        table.write(VERSIONS)
        for name, data in [*png_files(rng), *jpeg_files(rng)]:
            (OUT / name).write_bytes(data)
            rgb = reference(data)
            h, w, _ = rgb.shape
            table.write(f"{name} {w} {h} {hash64(rgb.tobytes())}\n")


# ---- tiles


def preprocess_sizes():
    rng = np.random.default_rng(7)
    fixed = [(1, 1), (2, 1), (1, 2), (1, 4000), (4000, 1), (2241, 1), (1, 2241), (85, 100), (100, 85), (3, 700),
             (700, 3), (56, 56), (57, 56), (56, 57), (112, 112), (113, 112), (224, 56), (56, 224), (225, 56)]
    for w, h in fixed:
        yield w, h, 56, 4
    for _ in range(230):
        w, h = (int(x) for x in np.exp(rng.uniform(0, np.log(500), 2)))
        yield w, h, int(rng.choice([14, 28, 30, 56, 64])), int(rng.choice([1, 2, 3, 4, 4, 4, 6, 9]))
    for _ in range(50):
        w, h = (int(x) for x in rng.integers(1, 64, 2))
        yield w, h, 32, 4
    for w, h in (1770, 1180), (700, 2000), (2000, 300), (560, 561), (100, 100), (1200, 1600):
        yield w, h, 560, 4
    for w, h in (448, 449), (640, 480):
        yield w, h, 448, 4


def write_preprocess():
    with open(OUT / "preprocess.txt", "w") as table:
        table.write(VERSIONS + "# w h tile tiles | rows cols id new_w new_h resized pixel_values\n")
        for w, h, tile, tiles in preprocess_sizes():
            rgb = noise(w, h)
            processor = mllama.MllamaImageProcessorPil(
                size={"height": tile, "width": tile}, max_image_tiles=tiles, image_mean=MEAN, image_std=STD)
            out = processor(Image.fromarray(rgb), return_tensors="np")
            resized, (rows, cols) = processor.resize(
                np.moveaxis(rgb, -1, 0), SizeDict(height=tile, width=tile), tiles, Image.BILINEAR)
            _, new_h, new_w = resized.shape
            direct = Image.fromarray(rgb).resize((new_w, new_h), Image.BILINEAR)
            assert np.array_equal(np.asarray(direct), np.moveaxis(resized, 0, -1))
            table.write(f"{w} {h} {tile} {tiles} {rows} {cols} {out['aspect_ratio_ids'][0, 0]} {new_w} {new_h} "
                        f"{hash64(direct.tobytes())} {hash64(out['pixel_values'][0, 0].tobytes())}\n")


def canvas_sizes():
    """Every size up to 40, and a coarse grid that grows by about a tenth up to a million."""
    steps = list(range(1, 41))
    while steps[-1] < 1000000:
        steps.append(steps[-1] * 11 // 10 + 1)
    return [(w, h) for w in steps for h in steps]


def write_canvas():
    with open(OUT / "canvas.txt", "w") as table:
        table.write(VERSIONS + "# tile tiles, hash over int32 (rows, cols, id, new_w, new_h) of each size\n")
        for tile, tiles in (560, 4), (448, 4), (560, 1), (14, 3), (100, 16), (33, 7):
            ids = mllama.get_all_supported_aspect_ratios(tiles)
            data = []
            for w, h in canvas_sizes():
                ch, cw = mllama.get_optimal_tiled_canvas(h, w, tiles, tile)
                new_h, new_w = mllama.get_image_size_fit_to_canvas(h, w, ch, cw, tile)
                rows, cols = int(ch) // tile, int(cw) // tile
                data += [rows, cols, ids.index((rows, cols)) + 1, int(new_w), int(new_h)]
            table.write(f"{tile} {tiles} {hash64(np.array(data, '<i4').tobytes())}\n")


if __name__ == "__main__":
    assert PIL.__version__.startswith("12."), "Pillow 12 is the reference of the resize"
    OUT.mkdir(exist_ok=True)
    write_images()
    write_preprocess()
    write_canvas()
