"""How well labels from expression come out where the truth is known.

    CELLDETR_DATA=... python benchmarks/spatial_truth.py --reference REF.h5ad | tee benchmarks/results/spatial_truth.txt

Sections are simulated from labelled H&E tiles (CoNSeP's training tiles), and noise is turned up one kind at a time
until it breaks. Nuclei, types and pixels are real; expression of a type is that of one type of the reference, of
which one half is simulated from and the other is what types are transferred from. The image's true nuclei go into the
alignment, so that what is measured is alignment, pairing and typing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from celldetr.data.card import load_card
from celldetr.data.sources import load_samples
from celldetr.errors import InputError
from celldetr.research.simulation.simulate import SimulatedTruth, SimulateOptions, simulate
from celldetr.spatial.align import refine
from celldetr.spatial.annotate.hierarchy import coarsen, load_hierarchy
from celldetr.spatial.annotate.reference import read_reference
from celldetr.spatial.annotate.transport import transport
from celldetr.spatial.colocalization import require_same_section
from celldetr.spatial.pair import pair
from celldetr.spatial.qc import filter_cells, qc_cells
from celldetr.spatial.readers import read_section
from celldetr.spatial.section import Nuclei

TYPES = {
    "inflammatory": ("CD4+/CD25 T Reg",),
    "epithelial": ("CD14+ Monocyte",),
    "spindle": ("CD19+ B",),
    "other": ("CD56+ NK",),
}
SURE = 0.8
WIDTHS = (9, 9, 7, 9, 9, 9, 9)
BASE: dict[str, Any] = {"alignment_error_um": 10.0, "alignment_error_degrees": 0.5}
SWEEPS: dict[str, Sequence[dict[str, Any]]] = {
    "start off by, um": [{"alignment_error_um": float(v)} for v in (0, 20, 40, 80, 150)],
    "start turned by, degrees": [{"alignment_error_degrees": float(v)} for v in (0, 2, 4, 8)],
    "jitter, um": [{"jitter_um": v} for v in (0.0, 1.0, 2.0, 3.0)],
    "missing on either side": [{"nuclei_without_cell": v, "cells_without_nucleus": v} for v in (0.0, 0.3, 0.5)],
    "median transcripts": [{"expression": {"median_counts": float(v)}} for v in (10, 20, 40, 80, 200)],
    "ambient share": [{"expression": {"ambient": v}} for v in (0.0, 0.2, 0.4)],
    "spill-over": [{"expression": {"spill": v}} for v in (0.0, 0.2, 0.4)],
    "genes of the panel": [{"expression": {"genes": v}} for v in (50, 100, 200)],
}


def halves(reference: Any, column: str) -> tuple[Any, Any]:
    """Every other cell of each type, and the others: one half to simulate from, one to transfer types from."""
    order = reference.obs.groupby(column, observed=True).cumcount().to_numpy() % 2
    return reference[order == 0].copy(), reference[order == 1].copy()


def run(samples: Any, halved: tuple[Any, Any], column: str, given: dict[str, Any], seed: int) -> str:
    """One section: a line of numbers."""
    source, reference = halved
    options = SimulateOptions.model_validate({"types": TYPES} | BASE | given)
    with tempfile.TemporaryDirectory() as folder:
        truth = simulate(samples, source, column, Path(folder), options, seed)
        section = read_section(next(path for path in Path(folder).iterdir() if path.is_dir()))
    section = filter_cells(section, qc_cells(section))
    boxes = truth.nuclei[["xmin", "ymin", "xmax", "ymax"]].to_numpy(np.float32)
    nuclei = Nuclei(boxes, np.ones(len(boxes), np.float32))
    mpp = float(truth.facts["mpp"])
    try:
        fitted = refine(section.points, nuclei.points, truth.written_to_image, mpp, seed=seed)
        require_same_section(fitted.colocalization)
    except InputError as error:
        return f"refused: {str(error)[:80]}"
    ids = section.cell_ids
    pairs = pair(ids, section.points, section.nuclei, nuclei, fitted.after, mpp)
    annotation = transport(section.cells, reference, column)
    tree = load_hierarchy("pbmc68k")
    fine = annotation.table(ids), {name: name for name in annotation.types}
    coarse = coarsen(annotation, tree, "lineage").table(ids), tree.levels[0].parents
    error = affine_error(section.points, fitted.after, truth, mpp)
    precision, recall = pairing(pairs, truth)
    numbers = [number for types, parents in (fine, coarse) for number in typing(types, truth, parents)]
    return f"{error:9.2f} {precision:9.3f} {recall:7.3f} " + " ".join(f"{number:9.3f}" for number in numbers)


def affine_error(points: np.ndarray, after: np.ndarray, truth: SimulatedTruth, mpp: float) -> float:
    """Largest distance over the section between where cells are put and where they belong, um."""
    there, true = (points @ matrix[:2, :2].T + matrix[:2, 2] for matrix in (after, truth.to_image))
    return float(np.linalg.norm(there - true, axis=1).max() * mpp)


def pairing(pairs: pd.DataFrame, truth: SimulatedTruth) -> tuple[float, float]:
    """Precision and recall of pairs of a nucleus and its cell."""
    true = truth.nuclei["cell_id"].to_numpy(dtype=object)
    right = sum(true[nucleus] == cell for nucleus, cell in zip(pairs["nucleus"], pairs["cell_id"], strict=True))
    return right / max(len(pairs), 1), right / max(sum(cell is not None for cell in true), 1)


def typing(types: pd.DataFrame, truth: SimulatedTruth, parents: dict[str, str]) -> tuple[float, float]:
    """Share of the cells that are sure, and of these the share of right ones."""
    true = truth.cells.set_index("cell_id")["reference_type"].reindex(types["cell_id"]).map(parents)
    sure = (types["probability"] >= SURE).to_numpy()
    return float(sure.mean()), float((types["type"].to_numpy(dtype=object) == true.to_numpy(dtype=object))[sure].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--column", default="bulk_labels")
    parser.add_argument("--tiles", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    reference = read_reference(given.reference, given.column, allow_normalised=True)
    samples = load_samples(load_card("consep-train"), "fit")[: given.tiles]
    halved = halves(reference, given.column)
    print(f"{given.tiles} tiles, {sum(map(len, samples)):,} nuclei; {halved[1].n_obs} cells of reference")
    heads = (
        ("affine", "pairs:", "", "types: p", "of these", "lineages:", "of these"),
        ("um", "precision", "recall", ">= .8", "right", "p >= .8", "right"),
    )
    for head in heads:
        print(" " * 37 + "".join(f" {text:>{width}}" for text, width in zip(head, WIDTHS, strict=True)))
    start = time.monotonic()
    for name, settings in {"as it comes": [{}], **SWEEPS}.items():
        if given.only and name not in given.only:
            continue
        for values in settings:
            shown = next(iter(values.values()), "")
            shown = next(iter(shown.values())) if isinstance(shown, dict) else shown
            for seed in range(given.seeds):
                print(f"{name:28} {shown!s:>8} {run(samples, halved, given.column, values, seed)}", flush=True)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
