"""Cells drawn onto the picture of a slide: outlines, or boxes, where one can be seen, dots where it cannot.

Dots are accumulated in arrays and blended once, so that the picture does not depend on the order of the table: a pixel
shows the mean colour of the cells on it, the more opaque the more there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from celldetr.cells.palette import RGB
from celldetr.cells.reader import CellTable, numbers
from celldetr.cells.rings import is_box, ring_columns, rings
from celldetr.cells.schema import BOX
from celldetr.slide.roi import roi_of_run

Place = tuple[float, float]  # x, y
SMALLEST_BOX = 6.0  # px of the picture; a smaller outline hides its nucleus
THICK_FROM = (9, 40)  # px of a box's shorter side from which its outline is two, then three pixels wide
ROI_LINE, ROI_RIM = (20, 20, 24), (255, 255, 255)
DOT_RADIUS = (1.0, 3.0)  # px, least and most
SEEN_RADIUS = 2.2  # px; the radius of dots that have room
DOT_COVER = 0.35  # share of the picture that dots may cover in all, if each is to be seen
DOT_ALPHA = 0.8  # opacity of one dot
FADE = 0.25  # how far tissue under dots is lightened, so that a dot of two pixels is still a colour
HATCH_STEP = 12  # px between the lines over a place without pixels
HATCH: RGB = (200, 30, 30)


def hatch(image: Image.Image, place: tuple[float, ...]) -> None:
    """Hatch a place (x, y, width, height in px) of an RGB picture of which nothing is known."""
    x, y, w, h = place
    left, top = max(round(x), 0), max(round(y), 0)
    right, bottom = min(round(x + w), image.width), min(round(y + h), image.height)
    width, height = max(right - left, 1), max(bottom - top, 1)
    mask = Image.new("1", (width, height))
    draw = ImageDraw.Draw(mask)
    for start in range(-height, width, HATCH_STEP):
        draw.line((start, height, start + height, 0), fill=1)
    draw.rectangle((0, 0, width - 1, height - 1), outline=1)
    image.paste(HATCH, (left, top), mask)


def mean_diameter(table: CellTable) -> float:
    """Mean of sqrt(w * h) over all cells, level-0 px; NaN if there is none."""
    total = 0.0
    for batch in table.batches(("w_px", "h_px")):
        total += float(np.sqrt(numbers(batch, "w_px") * numbers(batch, "h_px")).sum())
    return total / table.count if table.count else float("nan")


def draw_borders(
    image: Image.Image, scale: float | Place, table: CellTable, colours: list[RGB], origin: Place = (0.0, 0.0)
) -> None:
    """Outline every cell in an RGB picture of the slide.

    Args:
        image: the picture.
        scale: its pixels per level-0 pixel, or those along x and y.
        table: the cells.
        colours: one a type.
        origin: level-0 pixel of its corner.
    """
    draw, scales = ImageDraw.Draw(image), np.broadcast_to(np.asarray(scale, np.float64), 2)
    for batch in table.batches(tuple(dict.fromkeys((*BOX, "type", *ring_columns(table))))):
        corners = _corners(batch, scales, origin)
        shorter = (corners[:, 2:] - corners[:, :2]).min(axis=1) + 1
        lines = 1 + np.searchsorted(THICK_FROM, shorter, side="right")
        codes = table.type_codes(batch).tolist()
        for ring, box, line, code in zip(rings(batch), corners.tolist(), lines.tolist(), codes, strict=True):
            if is_box(ring):
                draw.rectangle(box, outline=colours[code], width=line)
            else:  # PIL counts from the centre of the first pixel
                draw.line(
                    ((ring - origin) * scales - 0.5).ravel().tolist(), fill=colours[code], width=line, joint="curve"
                )


def draw_roi(image: Image.Image, scale: float, run: Mapping[str, Any]) -> None:
    """Outline the region of interest of a run (``run.json``), holes too: a dark line with a light rim."""
    roi = roi_of_run(run)
    if roi is None:
        return
    draw, width = ImageDraw.Draw(image), max(2, image.width // 700)
    for colour, line in ((ROI_RIM, 2 * width + 1), (ROI_LINE, width)):
        for polygon in roi.geoms:
            for ring in (polygon.exterior, *polygon.interiors):
                points = [(x * scale, y * scale) for x, y in ring.coords]
                draw.line(points, fill=colour, width=line, joint="curve")


def _corners(batch: pa.RecordBatch, scales: NDArray[np.float64], origin: Place) -> NDArray[np.int64]:
    """(N, 4) first and last pixel of each box in the picture; PIL includes both."""
    x, y, w, h = (numbers(batch, name) for name in BOX)
    x, y = (x - origin[0]) * scales[0], (y - origin[1]) * scales[1]
    w, h = w * scales[0], h * scales[1]
    low = np.stack([x - w / 2, y - h / 2], axis=1)
    high = np.stack([x + w / 2, y + h / 2], axis=1)
    first = np.floor(low + 0.5).astype(np.int64)
    last = np.maximum(np.floor(high + 0.5).astype(np.int64) - 1, first)
    return np.concatenate([first, last], axis=1)


def dot_radius(diameter: float, count: int, area: int) -> float:
    """Radius of one of ``count`` dots in px: that of a nucleus of this diameter, if all have room in the area."""
    room = float(np.sqrt(DOT_COVER * area / (np.pi * max(count, 1))))
    return float(np.clip(min(max(diameter / 2, SEEN_RADIUS), room), *DOT_RADIUS))


class DotLayer:
    """Accumulates dots of a radius over a picture of ``height`` x ``width`` px."""

    def __init__(self, height: int, width: int, radius: float) -> None:
        self.height, self.width, self.radius = height, width, radius
        self.hits = np.zeros(height * width, dtype=np.float32)  # dots on each pixel
        self.colour = np.zeros((3, height * width), dtype=np.float32)  # sum of their colours

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64], rgb: NDArray[np.float32]) -> None:
        """Put dots at ``x``, ``y`` (N,) px with colours ``rgb`` (N, 3), 0 to 255."""
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        reach = int(self.radius)
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if dx * dx + dy * dy > self.radius**2:
                    continue
                inside = (column + dx >= 0) & (column + dx < self.width) & (row + dy >= 0) & (row + dy < self.height)
                at = ((row + dy) * self.width + column + dx)[inside]
                np.add.at(self.hits, at, np.float32(1))
                for channel in range(3):
                    np.add.at(self.colour[channel], at, rgb[inside, channel])

    def blend(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lay the dots over a (height, width, 3) picture, a strip at a time."""
        out = np.empty_like(picture)
        strip = max(1, 2**20 // self.width)
        for top in range(0, self.height, strip):
            rows = slice(top, min(top + strip, self.height))
            at = slice(rows.start * self.width, rows.stop * self.width)
            hits = self.hits[at].reshape(-1, self.width, 1)
            mean = self.colour[:, at].T.reshape(-1, self.width, 3) / np.maximum(hits, 1)
            alpha = 1 - (1 - DOT_ALPHA) ** hits
            ground = picture[rows] + (255 - picture[rows].astype(np.float32)) * FADE
            out[rows] = np.round(ground * (1 - alpha) + mean * alpha)
        return out


def draw_dots(
    picture: NDArray[np.uint8], scale: float, table: CellTable, colours: list[RGB], radius: float
) -> NDArray[np.uint8]:
    """A copy of an (H, W, 3) picture with a dot for every cell; see ``draw_borders``."""
    layer = DotLayer(picture.shape[0], picture.shape[1], radius)
    palette = np.array(colours, dtype=np.float32).reshape(-1, 3)
    for batch in table.batches(("x_px", "y_px", "type")):
        layer.add(numbers(batch, "x_px") * scale, numbers(batch, "y_px") * scale, palette[table.type_codes(batch)])
    return layer.blend(picture)


def draw_cells(
    picture: NDArray[np.uint8], scale: float, table: CellTable, colours: list[RGB]
) -> tuple[Image.Image, bool]:
    """A picture (H, W, 3) of the slide with its cells, and whether outlined (or as dots); see ``draw_borders``."""
    diameter = mean_diameter(table) * scale
    if not table.count:
        return Image.fromarray(picture), True
    if diameter >= SMALLEST_BOX:
        image = Image.fromarray(picture)
        draw_borders(image, scale, table, colours)
        return image, True
    radius = dot_radius(diameter, table.count, picture.shape[0] * picture.shape[1])
    return Image.fromarray(draw_dots(picture, scale, table, colours, radius)), False
