"""Writes what Pillow makes of the pictures of a folder: `resize.py FOLDER SIZE OUTPUT`, in the order of their names.

The output is the RGB bytes of all pictures, one after the other, each resized to SIZE x SIZE.
"""

import sys
from pathlib import Path

from PIL import Image

folder, size, output = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
with output.open("wb") as file:
    for path in sorted(folder.iterdir()):
        image = Image.open(path).convert("RGB")
        file.write(image.resize((size, size), Image.BILINEAR).tobytes())
