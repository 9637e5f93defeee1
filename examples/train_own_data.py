"""Own labels in, own model out: a folder of labels -> the recipe finetune -> training run.

DATA/images/*.png and DATA/labels/*.csv (x, y, class in pixels), QuPath's GeoJSON, or COCO: docs/how-to/finetune.md.
python examples/train_own_data.py DATA RUN --mpp 0.25
"""

from __future__ import annotations

import argparse
from pathlib import Path

import celldetr
from celldetr.recipes import load_recipe
from celldetr.recipes.own_data import own_sources

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data", type=Path, help="folder or file of labels")
parser.add_argument("run", type=Path, help="folder for the run")
parser.add_argument("--mpp", type=float, help="micrometres per pixel of the images, if they do not say it")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--crop", type=int, default=128, help="px, side of a training image")
args = parser.parse_args()

settings = [f"training.steps={args.steps}", f"augment.crop={args.crop}"]
recipe = load_recipe("finetune", settings, own_sources(args.data, args.mpp))
print("load it with celldetr.load_model:", celldetr.train(recipe, args.run))
