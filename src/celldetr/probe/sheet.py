"""A contact sheet: some cells, and beside each its nearest neighbours in other patients' images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from celldetr.evaluation.plots import HIT, MISS
from celldetr.probe.crops import cut
from celldetr.probe.retrieval import nearest_elsewhere
from celldetr.probe.truth import Truth

PER_TYPE = 2
ACROSS = 8  # neighbours
FIELD_UM = 32.0  # side of what a picture shows, as in the summaries of slides
PIXELS = 72
FRAME, GAP, LABEL = 3, 4, 110
QUERY = "#333333"


def contact_sheet(
    features: NDArray[np.float32], test: Truth, type_names: tuple[str, ...], seed: int = 0
) -> Image.Image:
    """Draw a row a query, the query first; a frame is blue where a neighbour has the query's type, red where not.

    Args:
        features: (N, d) of the test cells.
        test: the cells.
        type_names: names of the types.
        seed: of the choice of queries, ``PER_TYPE`` of each type.
    """
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(test.types == kind) for kind in range(len(type_names))]
    queries = np.concatenate([rng.permutation(cells)[:PER_TYPE] for cells in kinds]).astype(np.int64)
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    near = nearest_elsewhere(scaled, test.units, queries, ACROSS)
    step = PIXELS + 2 * FRAME + GAP
    sheet = Image.new("RGB", (LABEL + (1 + near.shape[1]) * step + 2 * GAP, GAP + len(queries) * step), "white")
    draw = ImageDraw.Draw(sheet)
    starts = np.searchsorted(test.images, np.arange(len(test.samples)))
    for row, (query, neighbours) in enumerate(zip(queries, near, strict=True)):
        top = GAP + row * step
        draw.text((GAP, top + PIXELS // 2), type_names[test.types[query]], fill="black")
        for column, cell in enumerate([query, *neighbours[neighbours >= 0]]):
            same = test.types[cell] == test.types[query]
            colour = QUERY if column == 0 else HIT if same else MISS
            left = LABEL + column * step + (2 * GAP if column else 0)
            draw.rectangle((left, top, left + PIXELS + 2 * FRAME - 1, top + PIXELS + 2 * FRAME - 1), fill=colour)
            sheet.paste(_picture(test, int(cell), int(starts[test.images[cell]])), (left + FRAME, top + FRAME))
    return sheet


def _picture(test: Truth, cell: int, first: int) -> Image.Image:
    """The tissue around a cell and its box; ``first`` is the first cell of its image."""
    sample = test.samples[test.images[cell]]
    size = max(2, round(FIELD_UM / sample.mpp))
    box = sample.boxes[cell - first : cell - first + 1]
    picture = Image.fromarray(cut(sample.image, box, size)[0]).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    centre = (box[0, :2] + box[0, 2:]) / 2
    corner = np.floor(centre) - size // 2
    outline = (box[0] - np.tile(corner, 2)) * PIXELS / size
    ImageDraw.Draw(picture).rectangle(tuple(float(v) for v in np.clip(outline, 0, PIXELS - 1)), outline="white")
    return picture
