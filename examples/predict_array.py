"""An array in, a DataFrame out: the cells of a part of the sample slide, or of an image, as a CSV.

python examples/predict_array.py --image region.png --mpp 0.25 --out cells.csv
"""

from __future__ import annotations

import argparse

import numpy as np
import openslide
from PIL import Image

import celldetr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--image", help="PNG, JPEG, ...; default: the middle of the sample slide")
parser.add_argument("--mpp", type=float, default=0.499, help="micrometres per pixel of the image")
parser.add_argument("--size", type=int, default=600, help="pixels of the sample slide")
parser.add_argument("--out", help="CSV to write; default: none")
args = parser.parse_args()

if args.image:
    image = Image.open(args.image)
else:
    with openslide.OpenSlide(str(celldetr.sample_slide())) as slide:
        image = slide.read_region((800, 800), 0, (args.size, args.size))
pixels = np.asarray(image.convert("RGB"))  # (H, W, 3) uint8

cells = celldetr.load_model().predict(pixels, mpp=args.mpp)
print(cells[["x_um", "y_um", "type", "type_score", "score"]].head(10))
print(cells["type"].value_counts().to_string())
if args.out:
    cells.drop(columns=["embedding", "geometry"]).to_csv(args.out, index=False)
