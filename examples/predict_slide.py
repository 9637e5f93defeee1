"""A slide in, a folder out, with GeoJSON for QuPath: drop cells.geojson.gz on the slide there.

python examples/predict_slide.py OUT --slide slide.svs
"""

from __future__ import annotations

import argparse

import celldetr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", help="folder for the results")
parser.add_argument("--slide", default=celldetr.sample_slide(), help="default: the sample slide")
parser.add_argument("--mpp", type=float, help="micrometres per pixel, if the file does not say")
parser.add_argument("--region", type=float, nargs=4, help="x y width height in level-0 pixels; default: all")
args = parser.parse_args()

options = celldetr.PredictOptions(region=args.region)
summary = celldetr.predict_slide(
    args.slide,
    args.out,
    mpp=args.mpp,
    options=options,
    formats=["geojson"],
    resume=True,  # continue where an interrupted run stopped
    progress=lambda done: print(f"{done.tiles} of {done.tiles_total} tiles, {done.cells} cells"),
)
print(f"{summary.cells} cells on {summary.tissue_mm2:.2f} mm2 of tissue: {summary.counts}")
print(f"in {summary.directory}: {', '.join(sorted(path.name for path in summary.directory.iterdir()))}")
