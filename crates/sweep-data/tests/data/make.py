"""Makes the files beside it: inputs in several encodings, and what Pillow and torchvision's formulas make of them.

Needs Pillow and NumPy. The expected pictures are lossless PNG files.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

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


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def ycck(image):
    """A CMYK file whose Adobe marker says that its first three components are YCbCr (transform 2)."""
    bytes = bytearray(jpeg(image.convert("CMYK")))
    marker = bytes.index(b"Adobe")
    bytes[marker + 11] = 2
    return bytes


def png16(rgb):
    """Pillow writes no colour PNG with 16 bits, so this does: the low byte is the inverse of the high one."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    wide = (rgb.astype(">u2") << 8 | 255 - rgb).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encoded(rgb):
    """Files that need more than a call of `save` without options."""
    smooth = rgb.resize((8, 6)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    see_through, lossless, lossy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    rgb.quantize(16).save(see_through, "PNG", transparency=3)
    rgb.save(lossless, "WEBP", lossless=True)
    smooth.save(lossy, "WEBP", quality=90)
    return {
        "subsampled.jpg": jpeg(smooth, subsampling=2),
        "progressive.jpg": jpeg(smooth, subsampling=2, progressive=True),
        "ycck.jpg": ycck(smooth),
        "turned.jpg": jpeg(smooth, subsampling=0, exif=turned),
        "palette_alpha.png": see_through.getvalue(),
        "rgb16.png": png16(np.asarray(rgb)),
        "lossless.webp": lossless.getvalue(),
        "lossy.webp": lossy.getvalue(),
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
    for name, data in encoded(picture()).items():
        (HERE / name).write_bytes(data)
        stem = name.replace(".", "_")
        as_rgb(name).resize((24, 24), Image.BILINEAR).save(HERE / f"expected_{stem}_24.png")
    upright = ImageOps.exif_transpose(Image.open(HERE / "turned.jpg"))
    upright.resize((24, 24), Image.BILINEAR).save(HERE / "expected_turned_upright_24.png")
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
