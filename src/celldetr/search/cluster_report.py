"""What ``celldetr cluster`` prints and draws: ``embedding.png``, ``types.png``, ``types.csv``, ``map-SLIDE.png`` and,
where slides can be read, ``examples.png`` and tissue under the maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER, cluster_name
from celldetr.cells.palette import type_colours
from celldetr.cells.reader import by_cluster, numbers
from celldetr.cells.rings import ring_columns, rings
from celldetr.cells.schema import BOX
from celldetr.io.figures import save_figure
from celldetr.io.files import replacing
from celldetr.report.clusters import embedding_figure, types_figure
from celldetr.report.crops import CellCrop, crops_figure
from celldetr.report.overview import draw_overview, picture_size
from celldetr.search.clustering import SAMPLE, Clustered
from celldetr.search.collection import SlideCells
from celldetr.search.slides import OpenSlides, open_slides
from celldetr.slide.damage import read_around

MAPS = 20  # slides that are drawn
EXAMPLES = 10  # crops a cluster
EXAMPLE_CLUSTERS = 30
BACKGROUND = 245  # of a map without its slide


def cluster_lines(done: Clustered) -> list[str]:
    """Clusters, and how they were made, as lines of text."""
    slides = len(done.collection.slides)
    head = f"{done.cells:,} cells of {slides} slide{'s' * (slides != 1)} in {len(done.counts)} clusters; "
    if done.sampled == done.cells:
        head += "all were clustered"
    else:
        head += (
            f"{done.sampled:,} ({100 * done.sampled / done.cells:.1f} %) were clustered, the others joined the cluster "
            f"of their nearest sampled cells, {100 * done.agreement:.0f} % of which agree"
        )
    lines = [head]
    for number, (total, counts) in enumerate(zip(done.counts, done.by_type, strict=True)):
        mix = ", ".join(f"{count:,} {name}" for name, count in zip(done.collection.types, counts, strict=True) if count)
        lines.append(f"  {number:>3}  {total:>10,}  {mix}")
    return lines


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
    names, types = [cluster_name(i) for i in range(len(done.counts))], done.collection.types
    counts = pd.DataFrame(done.by_type, columns=list(types)).rename_axis("cluster")
    counts.insert(0, "cells", done.counts, allow_duplicates=True)
    with replacing(done.out / "types.csv") as temporary:
        counts.to_csv(temporary)
    save_figure(types_figure(done.by_type, types, names), done.out / "types.png")
    sample = pq.read_table(done.out / SAMPLE).to_pandas()
    notes = _draw_embedding(done, sample, names)
    drawn = done.collection.slides[:MAPS]
    with open_slides(done.collection, slides, [slide.name for slide in drawn]) as opened:
        for slide in drawn:
            if slide.table.count:
                _draw_map(slide, opened, done.out / f"map-{slide.name}.png")
        if opened.readers:
            examples = _examples(done, opened, sample, seed)
            save_figure(crops_figure(examples, types, across=EXAMPLES), done.out / "examples.png")
    notes += opened.missing
    if opened.missing:
        notes.append("maps of these are without tissue" + ("" if opened.readers else ", and there is no examples.png"))
    if len(done.collection.slides) > MAPS:
        notes.append(f"maps show the first {MAPS} of {len(done.collection.slides)} slides")
    return notes


def _draw_embedding(done: Clustered, sample: pd.DataFrame, names: Sequence[str]) -> list[str]:
    shown = sample[np.isfinite(sample["umap_x"])]
    if not len(shown):
        return ["no embedding.png: too few cells to lay out"]
    slides = [slide.name for slide in done.collection.slides]
    panels = []
    for title, codes, labels in (
        ("by cluster", shown[CLUSTER], names),
        ("by type", pd.Categorical(shown["type"], done.collection.types).codes, done.collection.types),
        ("by slide", pd.Categorical(shown["slide"], slides).codes, slides),
    ):
        if title != "by slide" or len(slides) > 1:
            panels.append((title, np.asarray(codes, np.intp), labels, list(type_colours(labels).values())))
    note = f"UMAP of {len(shown):,} of {done.cells:,} cells; near cells look alike to the network, "
    note += "far distances mean little"
    points = shown[["umap_x", "umap_y"]].to_numpy(np.float32)
    save_figure(embedding_figure(points, panels, note), done.out / "embedding.png")
    return []


def _draw_map(slide: SlideCells, opened: OpenSlides, path: Path) -> None:
    """The overview of the slide, coloured by cluster."""
    reader = opened.readers.get(slide.name)
    width, height = (reader.width, reader.height) if reader else _extent(slide)
    across, down, scale = picture_size(width, height)
    if reader is None:
        ground = np.full((down, across, 3), BACKGROUND, np.uint8)
    else:
        ground, _ = read_around(reader, 0, 0, width, height, across, down)
    with replacing(path) as temporary:
        draw_overview(ground, scale, by_cluster(slide.table)).save(temporary, format="PNG")


def _extent(slide: SlideCells) -> tuple[int, int]:
    """Width and height that hold all cells, level-0 px."""
    boxes = slide.table.read(BOX)
    x, y, w, h = (numbers(boxes, name) for name in BOX)
    return int(np.ceil(max(1.0, (x + w / 2).max()))), int(np.ceil(max(1.0, (y + h / 2).max())))


def _examples(done: Clustered, opened: OpenSlides, sample: pd.DataFrame, seed: int) -> dict[str, list[CellCrop]]:
    """Cells of each cluster drawn at random among those of the sample on slides that can be read."""
    readable = sample[sample["slide"].isin(list(opened.readers))]
    rng = np.random.default_rng(seed)
    groups: dict[str, list[CellCrop]] = {}
    for number in range(min(len(done.counts), EXAMPLE_CLUSTERS)):
        cells = readable[readable[CLUSTER] == number]
        chosen = np.sort(rng.choice(len(cells), min(EXAMPLES, len(cells)), replace=False))
        if len(chosen):
            mix = _mix(done.by_type[number], done.collection.types)
            groups[f"{cluster_name(number)}: {done.counts[number]:,} cells, {mix}"] = [
                _example(done, opened, name, row) for name, row in cells.iloc[chosen][["slide", "row"]].to_numpy()
            ]
    return groups


def _mix(counts: NDArray[np.int64], types: Sequence[str]) -> str:
    """``91 % stromal, 9 % epithelial``."""
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]][:3]
    return ", ".join(f"{100 * counts[i] / counts.sum():.0f} % {types[i]}" for i in order)


def _example(done: Clustered, opened: OpenSlides, name: str, row: int) -> CellCrop:
    slide = done.collection.slides[done.collection.position(name)]
    rows, drawn = np.array([row]), ring_columns(slide.table)
    cell = slide.table.take(rows, ["cell_id", *BOX, "type"]).to_pylist()[0]
    title = f"{slide.name}:\n{cell['cell_id']}" if len(opened.readers) > 1 else f"cell {cell['cell_id']}"
    return opened.crop(slide, cell, rings(slide.table.take(rows, drawn))[0], title)
