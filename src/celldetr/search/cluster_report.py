"""Pictures of a clustering, in its folder: ``embedding.png``, ``types.png`` with ``types.csv``, ``map-<slide>.png``
and, where slides can be read, ``examples.png`` and tissue under the maps."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER, cluster_name
from celldetr.cells.palette import type_colours
from celldetr.cells.reader import by_cluster, numbers
from celldetr.cells.schema import BOX
from celldetr.io.figures import save_figure
from celldetr.io.files import replacing
from celldetr.report.clusters import embedding_figure, types_figure
from celldetr.report.crops import cell_pixels
from celldetr.report.crops_figure import PIXELS, CellCrop, crops_figure
from celldetr.report.overview import draw_overview, picture_size
from celldetr.search.clustering import SAMPLE, Clustered
from celldetr.search.collection import SlideCells
from celldetr.search.slides import OpenSlides, open_slides
from celldetr.slide.damage import read_around

MAPS = 20  # slides that are drawn
EXAMPLES = 10  # crops a cluster
EXAMPLE_CLUSTERS = 30


def illustrate_clusters(done: Clustered, slides: Sequence[Path] = (), seed: int = 0) -> list[str]:
    """Draw a clustering.

    Args:
        done: what ``cluster_cells`` returned.
        slides: slide files, or folders that hold them.
        seed: of the choice of examples.

    Returns:
        What is not drawn and why, a line each.

    Raises:
        InputError: a file cannot be written, or a source of slides does not exist.
    """
    names = [cluster_name(i) for i in range(len(done.counts))]
    _table(done)
    save_figure(types_figure(done.by_type, done.types, names), done.out / "types.png")
    notes = _embedding(done, names)
    drawn = [slide.name for slide in done.collection.slides][:MAPS]
    with open_slides(done.collection, slides, drawn) as opened:
        for name in drawn:
            slide = done.collection.slides[done.collection.position(name)]
            if slide.table.count:
                _map(slide, opened, done.out / f"map-{slide.name}.png")
        if opened.readers:
            _examples(done, opened, seed)
        notes += opened.missing
        if opened.missing:
            notes.append(
                "maps of these are without tissue" + ("" if opened.readers else ", and there is no examples.png")
            )
    if len(done.collection.slides) > MAPS:
        notes.append(f"maps show the first {MAPS} of {len(done.collection.slides)} slides")
    return notes


def _table(done: Clustered) -> None:
    with (
        replacing(done.out / "types.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["cluster", "cells", *done.types])
        writer.writerows(
            [i, int(total), *line]
            for i, (total, line) in enumerate(zip(done.counts, done.by_type.tolist(), strict=True))
        )


def _embedding(done: Clustered, names: Sequence[str]) -> list[str]:
    sample = pq.read_table(done.out / SAMPLE)
    points = np.stack([sample["umap_x"].to_numpy(), sample["umap_y"].to_numpy()], 1)
    shown = np.isfinite(points).all(1)
    if not shown.any():
        return ["no embedding.png: too few cells to lay out"]
    types = np.array([done.types.index(name) for name in sample["type"].to_pylist()], dtype=np.intp)
    clusters = sample[CLUSTER].to_numpy().astype(np.intp)
    colours = list(type_colours(names).values())
    panels = [("by cluster", clusters[shown], names, colours)]
    panels.append(("by type", types[shown], done.types, list(type_colours(done.types).values())))
    slides = [slide.name for slide in done.collection.slides]
    if len(slides) > 1:
        codes = np.array([slides.index(name) for name in sample["slide"].to_pylist()], dtype=np.intp)
        panels.append(("by slide", codes[shown], slides, list(type_colours(slides).values())))
    note = f"UMAP of {int(shown.sum()):,} of {done.cells:,} cells; near cells look alike to the network, "
    note += "far distances mean little"
    save_figure(embedding_figure(points[shown], panels, note), done.out / "embedding.png")
    return []


def _map(slide: SlideCells, opened: OpenSlides, path: Path) -> None:
    """The overview of the slide, with clusters for types."""
    table = by_cluster(slide.table)
    reader = opened.readers.get(slide.name)
    width, height = (reader.width, reader.height) if reader else _extent(slide)
    across, down, scale = picture_size(width, height)
    if reader is None:
        ground = np.full((down, across, 3), 245, np.uint8)
    else:
        ground, _ = read_around(reader, 0, 0, width, height, across, down)
    with replacing(path) as temporary:
        draw_overview(ground, scale, table).save(temporary, format="PNG")


def _extent(slide: SlideCells) -> tuple[int, int]:
    """Width and height that hold all cells, level-0 px."""
    width = height = 1.0
    for batch in slide.table.batches(BOX):
        x, y, w, h = (numbers(batch, name) for name in BOX)
        width, height = max(width, float((x + w / 2).max())), max(height, float((y + h / 2).max()))
    return int(np.ceil(width)), int(np.ceil(height))


def _examples(done: Clustered, opened: OpenSlides, seed: int) -> None:
    """Cells of each cluster drawn at random among those of the sample on slides that can be read."""
    sample = pq.read_table(done.out / SAMPLE, columns=["slide", "row", CLUSTER])
    readable = np.isin(np.array(sample["slide"].to_pylist(), dtype=object), list(opened.readers))
    clusters, rows = sample[CLUSTER].to_numpy(), sample["row"].to_numpy()
    names = sample["slide"].to_pylist()
    rng = np.random.default_rng(seed)
    groups: dict[str, list[CellCrop]] = {}
    for number in range(min(len(done.counts), EXAMPLE_CLUSTERS)):
        mine = np.flatnonzero((clusters == number) & readable)
        chosen = np.sort(rng.choice(mine, min(EXAMPLES, len(mine)), replace=False))
        if len(chosen):
            groups[
                f"{cluster_name(number)}: {done.counts[number]:,} cells, {_mix(done.by_type[number], done.types)}"
            ] = [_crop(done, opened, names[at], int(rows[at])) for at in chosen]
    save_figure(crops_figure(groups, done.types, across=EXAMPLES), done.out / "examples.png")


def _mix(counts: NDArray[np.int64], types: Sequence[str]) -> str:
    """``91 % stromal, 9 % epithelial``."""
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]][:3]
    return ", ".join(f"{100 * counts[i] / counts.sum():.0f} % {types[i]}" for i in order)


def _crop(done: Clustered, opened: OpenSlides, name: str, row: int) -> CellCrop:
    slide = done.collection.slides[done.collection.position(name)]
    values: dict[str, Any] = slide.table.take(np.array([row]), ["cell_id", *BOX, "type", "type_score"]).to_pylist()[0]
    mpp, reader = slide.table.mpp_xy or (1.0, 1.0), opened.readers[name]
    return CellCrop(
        title=f"cell {values['cell_id']}",
        pixels=cell_pixels(reader, values["x_px"], values["y_px"], (reader.mpp_x, reader.mpp_y), PIXELS),
        size_um=(values["w_px"] * mpp[0], values["h_px"] * mpp[1]),
        type=str(values["type"]),
    )
