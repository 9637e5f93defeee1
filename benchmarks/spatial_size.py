"""Time and memory of the steps of ``celldetr spatial`` on half a million cells, without the finding of nuclei.

    python benchmarks/spatial_size.py --bone-marrow FOLDER --work DIR | tee benchmarks/results/spatial_size.txt

A bundle in the genuine format is made of copies of a real section (benchmarks/bone_marrow.py), with ellipses for
outlines; its reference is the section itself with its clusters as types; the image is empty, and its nuclei are the
cells' own places with half a micrometre of jitter, a tenth left out. So numbers are of speed and memory, and of nothing
else. Each step runs in a process of its own, as its command does, whose peak memory is told.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np

from bone_marrow import bone_marrow
from celldetr.research.simulation.bundle import BundleCells, write_bundle
from celldetr.spatial.affine import scaling

MPP = 0.5
NUCLEUS_UM, CELL_UM = 6.0, 9.0
MARGIN_UM = 50.0


def ellipses(points: np.ndarray, side: float) -> np.ndarray:
    """(N, 13, 2) closed outlines."""
    angle = np.linspace(0, 2 * np.pi, 13)
    return points[:, None] + side / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def prepare(folder: Path, work: Path, count: int) -> None:
    """Bundle, reference, image, nuclei."""
    import tifffile

    section = bone_marrow(folder, outlines=False)
    typed = section.cells[section.cells.obs["cluster"] != "<NA>"].copy()
    typed.obs = typed.obs[["cluster"]].astype(str)
    typed.write_h5ad(work / "reference.h5ad")
    rows, copy = np.arange(count) % section.cells.n_obs, np.arange(count) // section.cells.n_obs
    columns = int(np.ceil(np.sqrt(copy.max() + 1)))
    step = np.ptp(section.points, axis=0) + MARGIN_UM
    points = section.points[rows] + np.column_stack([copy % columns, copy // columns]) * step
    points += MARGIN_UM - points.min(axis=0)
    prefixes = np.arange(count, dtype=np.uint32)
    genes = list(section.cells.var_names)
    nuclei, outlines = ellipses(points, NUCLEUS_UM), ellipses(points, CELL_UM)
    cells = BundleCells(prefixes, nuclei, outlines, section.cells.X.tocsr()[rows], genes, genes)
    rng = np.random.default_rng(0)
    write_bundle(work / "bundle", "large", cells, rng)
    width, height = (int(v) for v in (points.max(axis=0) + MARGIN_UM) / MPP)
    tile = rng.integers(200, 240, (512, 512, 3), dtype=np.uint8)

    def tiles() -> object:
        for _ in range(-(-height // 512) * -(-width // 512)):
            yield tile

    tifffile.imwrite(
        work / "image.tif",
        tiles(),
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(512, 512),
        photometric="rgb",
        compression="jpeg",
        resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
    )
    seen = rng.permutation(count)[: int(0.9 * count)]
    centres = (points[seen] + rng.normal(0, 0.5, (len(seen), 2))) / MPP
    half = NUCLEUS_UM / 2 / MPP
    boxes = np.stack([centres - half, centres + half], axis=1)[:, :, ::-1]  # rows and columns, as CellViT's are
    cells = [{"bbox": box} for box in boxes.tolist()]
    (work / "nuclei.json").write_text(json.dumps({"cells": cells}))
    (work / "alignment.csv").write_text("\n".join(",".join(map(str, row)) for row in scaling(1 / MPP)) + "\n")


def step(work: Path, name: str) -> None:
    """One step of the set."""
    from celldetr.spatial.pipeline import open_set
    from celldetr.spatial.report import write_report

    with open_set(work / "set", resume=True) as pipeline:
        pipeline.redo = True
        if name == "read":
            pipeline.read(work / "bundle")
        elif name == "qc":
            pipeline.qc()
        elif name == "type":
            pipeline.annotate(work / "reference.h5ad", "cluster")
        elif name == "nuclei":  # in place of finding them
            pipeline.find_nuclei(work / "image.tif", polygons=work / "nuclei.json", mpp=MPP)
        elif name == "align":
            pipeline.align(work / "alignment.csv", direction="um_to_image")
        elif name == "write":
            pipeline.write()
        else:
            write_report(pipeline)


def measured(work: Callable[..., None], *given: object) -> tuple[float, float]:
    """Seconds and peak memory (GB) of a call in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(queue, work, given))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__}{given[1:]} failed")
    return queue.get()


def _child(queue: object, work: Callable[..., None], given: tuple[object, ...]) -> None:
    start = time.monotonic()
    work(*given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    queue.put((time.monotonic() - start, peak))  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bone-marrow", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=500_000)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "nuclei.json").exists():
        measured(prepare, given.bone_marrow, given.work, given.cells)
    genes = anndata.read_h5ad(given.work / "reference.h5ad", backed="r").n_vars
    print(f"{given.cells:,} cells x {genes} genes; {'':14}seconds   peak GB")
    total = 0.0
    for name in ("read", "qc", "type", "nuclei", "align", "write", "report"):
        seconds, peak = measured(step, given.work, name)
        total += seconds if name not in ("nuclei", "report") else 0
        print(
            f"{name:8} {'(not counted)' if name in ('nuclei', 'report') else '':30} {seconds:8.1f} {peak:8.2f}",
            flush=True,
        )
    print(f"steps 1-3, 5, 6: {total:.0f} s")


if __name__ == "__main__":
    main()
