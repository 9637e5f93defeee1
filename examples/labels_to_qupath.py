"""Labelled images out, for QuPath: each as a PNG and a GeoJSON file of its nuclei, as QuPath would export them.

python examples/labels_to_qupath.py consep train OUT --limit 3
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import shapely
from PIL import Image

from celldetr.data.autocard import find_card
from celldetr.data.sources import load_samples

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("card", help="name or path of a dataset card, or a folder of labels")
parser.add_argument("split")
parser.add_argument("out", type=Path, help="folder for the files, made if needed")
parser.add_argument("--mpp", type=float, help="micrometres per pixel, if neither images nor card say it")
parser.add_argument("--limit", type=int, help="most images")
args = parser.parse_args()

args.out.mkdir(parents=True, exist_ok=True)
for sample in load_samples(find_card(args.card, args.mpp), args.split, limit=args.limit):
    features = []
    for box, kind in zip(sample.boxes.tolist(), sample.types.tolist(), strict=True):
        name = sample.type_names[kind] if kind >= 0 else "Ignore*"
        properties = {"objectType": "detection", "classification": {"name": name}}
        geometry = shapely.geometry.mapping(shapely.box(*box))
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    text = json.dumps({"type": "FeatureCollection", "features": features})
    file = sample.name.replace("/", "_")  # names may have folders
    (args.out / f"{file}.geojson").write_text(text)
    Image.fromarray(sample.image).save(args.out / f"{file}.png")
    print(f"{sample.name}: {len(sample)} nuclei, {sample.mpp:g} um per pixel")
