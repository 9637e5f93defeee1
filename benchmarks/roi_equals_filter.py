"""Does a ROI give the cells of the whole slide, filtered? Sample slide, weights in the package, two annotations.

python benchmarks/roi_equals_filter.py | tee benchmarks/results/roi_equals_filter.txt

The grid is the same, but a network that takes several tiles at once sees other tiles together, which may change
its last digits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import shapely

import celldetr
from celldetr.cells.reader import read_embeddings
from celldetr.slide.options import PredictOptions

RING = shapely.transform(shapely.Point(0, 0).buffer(1), lambda p: p * [500, 380] + [900, 900])
ROI = shapely.union_all(
    [
        RING.difference(shapely.Point(900, 900).buffer(150)),
        shapely.Polygon([(1300, 1700), (2000, 1650), (1900, 2500), (1500, 2300), (1350, 2600)]),
    ]
)


def main() -> None:
    model = celldetr.load_model(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            celldetr.predict_slide(celldetr.sample_slide(), Path(folder) / name, model=model, options=options)
            for name, options in (("whole", PredictOptions()), ("roi", PredictOptions(roi=ROI)))
        ]
        whole, roi = (celldetr.read_cells(run.directory) for run in runs)
        embeddings = [read_embeddings(run.directory).astype(np.float32) for run in runs]
    inside = shapely.intersects_xy(ROI, whole["x_px"], whole["y_px"])
    print(f"whole slide: {len(whole):,} cells, {inside.sum():,} of them inside; ROI: {len(roi):,} cells")
    if inside.sum() != len(roi):
        return
    kept = whole[inside]
    moved = np.abs(kept[["x_px", "y_px"]].to_numpy() - roi[["x_px", "y_px"]].to_numpy()).max()
    a, b = embeddings[0][inside], embeddings[1]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    same = (kept["type"].to_numpy() == roi["type"].to_numpy()).mean()
    print(f"largest difference of a centre: {moved:.3f} px; same type: {same:.2%}; least cosine: {cosine.min():.5f}")
    print(f"tissue inside: {runs[1].tissue_mm2:.3f} of {runs[0].tissue_mm2:.3f} mm2")


if __name__ == "__main__":
    main()
