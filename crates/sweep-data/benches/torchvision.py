"""The paper's training transform in torchvision, one thread, for the benchmark beside it: `torchvision.py FILE...`

For every line of input it works through the files once and prints the processor seconds that took. The files are read
beforehand. Nothing is printed before the first line of input.
"""

import io
import sys
import time
from pathlib import Path

# This file has the name of the package it imports, and its folder comes first.
sys.path.pop(0)

import torch
from PIL import Image
from torchvision import transforms

SIZE = 224

torch.set_num_threads(1)
transform = transforms.Compose([
    transforms.Resize((SIZE, SIZE)),
    transforms.RandomHorizontalFlip(0.5),
    transforms.ColorJitter(0.25, 0.25, 0.25),
    transforms.RandomRotation(2),
])
plain = transforms.Resize((SIZE, SIZE))
pictures = [Path(name).read_bytes() for name in sys.argv[1:]]
for line in sys.stdin:
    change = transform if line.strip() == "augmented" else plain
    start = time.process_time()
    for picture in pictures:
        change(Image.open(io.BytesIO(picture)).convert("RGB"))
    print(time.process_time() - start, flush=True)
