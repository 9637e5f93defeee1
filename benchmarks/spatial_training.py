"""A model trained on labels recovered from expression, against one trained on the true ones.

    CELLDETR_DATA=... python benchmarks/spatial_training.py --reference REF.h5ad --work DIR | tee benchmarks/results/...

A section is simulated from CoNSeP's training tiles with a start that is ten micrometres off, and labelled by all steps,
with nuclei that the default model finds. The true set has the same nuclei, each with the true type of the annotated
nucleus that it is. Both are trained by the recipe ``xenium`` alike, and scored on the five tiles of CoNSeP's training
part that are in neither.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from celldetr.data.card import load_card
from celldetr.data.sources import load_samples
from celldetr.research.simulation.simulate import SimulatedTruth, SimulateOptions, simulate
from celldetr.slide.reader import open_slide
from celldetr.spatial.affine import scaling
from celldetr.spatial.annotate.reference import read_reference
from celldetr.spatial.pair import pair
from celldetr.spatial.patch_layout import WriteOptions
from celldetr.spatial.pipeline import SpatialOptions, open_set
from celldetr.spatial.section import Section
from celldetr.spatial.write import write_set
from spatial_truth import TYPES, halves

COLUMN = "bulk_labels"
OPTIONS = WriteOptions(min_of_type=1, regions=8, min_share=0.2)


def recovered(work: Path, reference: Path) -> SimulatedTruth:
    """Simulate, and label by all steps."""
    samples = load_samples(load_card("consep-train"), "fit")
    profiles = read_reference(reference, COLUMN, allow_normalised=True)
    options = SimulateOptions(types=TYPES, alignment_error_um=10.0, alignment_error_degrees=0.5)
    source, known = halves(profiles, COLUMN)
    truth = simulate(samples, source, COLUMN, work / "section", options)
    known.uns.clear()
    known.write_h5ad(work / "reference.h5ad")
    parents = {fine: coarse for coarse, names in TYPES.items() for fine in names}
    parents |= {str(name): "" for name in profiles.obs[COLUMN].unique() if name not in parents}
    tree = work / "types.yaml"
    tree.write_text(yaml.safe_dump({"title": "CoNSeP", "levels": [{"name": "consep", "parents": parents}]}))
    with open_set(work / "recovered", SpatialOptions(write=OPTIONS)) as pipeline:
        pipeline.read(work / "section" / "bundle")
        pipeline.qc()
        pipeline.annotate(work / "reference.h5ad", COLUMN, hierarchy=tree)
        pipeline.find_nuclei(work / "section" / "he_image.ome.tif")
        pipeline.align(work / "section" / "he_imagealignment.csv")
        pipeline.write()
    return truth


def true_set(work: Path, truth: SimulatedTruth) -> None:
    """The same nuclei with their true types."""
    with open_set(work / "recovered", resume=True) as pipeline:
        nuclei, section = pipeline.nuclei, pipeline.passed
    mpp = float(truth.facts["mpp"])
    boxes = truth.nuclei[["xmin", "ymin", "xmax", "ymax"]].to_numpy(np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 * mpp
    ids = np.array([f"true{k}" for k in range(len(boxes))], dtype=object)
    to_image = scaling(1 / mpp)
    pairs = pair(ids, centres, None, nuclei, to_image, mpp)
    kinds = truth.nuclei["type"].to_numpy(dtype=object)
    types = pd.DataFrame({"cell_id": ids, "type": kinds, "probability": 1.0, "margin": 1.0, "second": ""})
    for name in TYPES:
        types[f"p: {name}"] = (kinds == name).astype(np.float32)
    cells = section.cells[:1].copy()
    cells = cells[np.zeros(len(ids), dtype=int)].copy()
    cells.obs_names = ids
    cells.obs["x_um"], cells.obs["y_um"] = centres.T
    with open_slide(work / "section" / "he_image.ome.tif") as reader:
        write_set(Section("true", cells), reader, nuclei, to_image, pairs, types, work / "true", OPTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    truth = recovered(given.work, given.reference)
    true_set(given.work, truth)
    for name in ("true", "recovered"):
        run = given.work / f"run-{name}"
        every = max(1, given.steps // 3)
        steps = [f"training.steps={given.steps}", f"training.validate_every={every}", "training.warmup=30"]
        command = ["celldetr", "train", "xenium", "--data", str(given.work / name), *steps, "-o", str(run), "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
        print(f"== trained on {name} labels, {given.steps} steps", flush=True)
        subprocess.run(
            ["celldetr", "evaluate", "consep-train", "--split", "val", "-m", str(run), "-o", str(run / "val.json")],
            check=True,
        )


if __name__ == "__main__":
    main()
