"""Own labels in, own model out: images and CSV files of points -> dataset card -> training run.

DATA/images/*.png, DATA/labels/*.csv (columns x, y, class, in pixels).   python examples/train_own_data.py DATA RUN
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import yaml

from celldetr import Recipe, train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data", type=Path, help="folder with images/ and labels/; the card is written there")
parser.add_argument("run", type=Path, help="folder for the run")
parser.add_argument("--mpp", type=float, default=0.5, help="micrometres per pixel of the images")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--crop", type=int, default=256, help="px, side of a training image")
args = parser.parse_args()

files = sorted((args.data / "labels").glob("*.csv"))
names = [path.stem for path in files]
types = sorted({str(name) for path in files for name in pd.read_csv(path)["class"]})
held_out = max(1, len(names) // 5)  # better: other patients
card = {"name": "own", "title": "Own data", "format": "points_csv", "licence": "own", "citation": "own"}
card |= {"root": str(args.data.resolve()), "options": {"images": "images", "labels": "labels"}, "mpp": args.mpp}
card |= {"types": {name: [name] for name in types}, "splits": {"train": names[held_out:], "val": names[:held_out]}}
path = args.data / "own.yaml"
path.write_text(yaml.safe_dump(card, sort_keys=False))

recipe = {"name": "own", "model": {"types": types, "mpp": args.mpp, "pretrained": "pypi"}}
recipe |= {"train": [{"card": str(path), "split": "train"}], "validation": [{"card": str(path), "split": "val"}]}
recipe |= {"training": {"steps": args.steps, "workers": 0}, "augment": {"crop": args.crop}}
print("load it with celldetr.load_model:", train(Recipe.model_validate(recipe), args.run))
