"""Makes the files beside it: inputs in several encodings, and what Pillow and torchvision's formulas make of them.

Needs Pillow and NumPy. The expected pictures are lossless PNG files.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

HERE = Path(__file__).parent
WIDTH, HEIGHT = 53, 38
SIZES = [16, 32, 64]


def picture():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(5).integers(-40, 40, (HEIGHT, WIDTH, 3))
    waves = [128 + 100 * np.sin(x / 5 + channel) * np.cos(y / (4 + channel)) for channel in range(3)]
    return Image.fromarray(np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8))


def inputs(rgb):
    alpha = Image.fromarray(np.tile(np.arange(WIDTH, dtype=np.uint8) * 4, (HEIGHT, 1)))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    wide = Image.fromarray((np.asarray(rgb.convert("L")).astype(np.uint16) << 8) + 77)
    smooth = rgb.resize((8, 6)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    return {
        "rgb.png": rgb,
        "grey.png": rgb.convert("L"),
        "palette.png": rgb.quantize(32),
        "rgba.png": rgba,
        "grey_alpha.png": rgba.convert("LA"),
        "one_bit.png": rgb.convert("1"),
        "grey16.png": wide,
        "rgb.jpg": smooth,
        "grey.jpg": smooth.convert("L"),
        "cmyk.jpg": smooth.convert("CMYK"),
    }


def as_rgb(name):
    image = Image.open(HERE / name)
    if name == "grey16.png":
        # Pillow cuts 16-bit samples off at 255 when it converts; the high byte is what is wanted.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return image.convert("RGB")


def main():
    for name, image in inputs(picture()).items():
        image.save(HERE / name, **({"quality": 95, "subsampling": 0} if name.endswith("jpg") else {}))
        stem = name.replace(".", "_")
        as_rgb(name).resize((24, 24), Image.BILINEAR).save(HERE / f"expected_{stem}_24.png")
    rgb = as_rgb("rgb.png")
    for size in SIZES:
        rgb.resize((size, size), Image.BILINEAR).save(HERE / f"expected_resize_{size}.png")
    square = rgb.resize((32, 32), Image.BILINEAR)
    for factor in [0.75, 1.0, 1.25, 1.9]:
        for name in ["Brightness", "Contrast", "Color"]:
            changed = getattr(ImageEnhance, name)(square).enhance(factor)
            changed.save(HERE / f"expected_{name.lower()}_{factor}.png")
    for angle in [-2.0, 1.3, 33.0]:
        square.rotate(angle, Image.NEAREST, fillcolor=0).save(HERE / f"expected_rotate_{angle}.png")


main()
