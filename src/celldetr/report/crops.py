"""Crops of single cells, all of one physical size: for a page, and as figures of neighbours and of clusters."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.cells.rings import Ring
from celldetr.report.panels import draw_tissue, frame, scale_bar
from celldetr.slide.damage import read_around

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from celldetr.slide.base_reader import SlideReader

FIELD_UM = 32.0  # side of what a crop shows: a nucleus and its neighbourhood
PAGE_PIXELS = 112  # side of the picture inside the page
QUALITY = 88  # of JPEG

# Of a figure.
PIXELS = 160  # side of its picture
ACROSS = 7  # crops in a line: a query and 20 neighbours make three
INCHES = 1.15
LINE_INCHES = 0.13  # a line of a title
SCALE_UM = 10.0
UNREAD = "#eeeeee"


def cell_pixels(reader: SlideReader, x: float, y: float, mpp: tuple[float, float], side: int) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 of ``FIELD_UM`` around a point in level-0 px, white outside; ``mpp`` along x and y."""
    across, down = FIELD_UM / mpp[0], FIELD_UM / mpp[1]
    return read_around(reader, x - across / 2, y - down / 2, across, down, side, side)[0]


def jpeg_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """An RGB picture as a ``data:`` address that can stand in a page."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Crop:
    """The tissue around one cell (a ``data:`` address, ``side`` px), and its border in px of that picture (``x,y`` and
    so on)."""

    title: str
    picture: str
    border: str
    side: int = PAGE_PIXELS


def crop_cell(reader: SlideReader, cell: NDArray[np.float64], ring: Ring, mpp: tuple[float, float], name: str) -> Crop:
    """Read the tissue around one cell: ``PICK_COLUMNS`` of it, its border, and the ``name`` of its type."""
    x, y, _, _, score, type_score, _ = (float(value) for value in cell)
    pixels = cell_pixels(reader, x, y, mpp, PAGE_PIXELS)
    points = (ring[:-1] - (x, y)) * mpp * (PAGE_PIXELS / FIELD_UM) + PAGE_PIXELS / 2
    return Crop(
        title=f"{name} {type_score:.2f}, score {score:.2f}, at {x:.0f}, {y:.0f} px",
        picture=jpeg_uri(Image.fromarray(pixels)),
        border=" ".join(f"{across:.1f},{down:.1f}" for across, down in points.tolist()),
    )


@dataclass(frozen=True)
class CellCrop:
    """One cell, and the pixels around it."""

    title: str  # lines over the crop
    pixels: NDArray[np.uint8] | None  # (S, S, 3) uint8 around its centre; None where the slide could not be read
    border_um: NDArray[np.float64]  # (V, 2) points of its outline or box from its centre
    type: str  # of the cell
    is_query: bool = False  # whether the others are its neighbours


def crops_figure(groups: Mapping[str, Sequence[CellCrop]], types: Sequence[str], across: int = ACROSS) -> Figure:
    """Draw groups of crops (by name) under each other, ``across`` in a line; ``types`` are all of the model's."""
    # Imported here: the import takes longer than most commands, and few of them draw.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = {name: hex_colour(colour) for name, colour in type_colours(types).items()}
    text = LINE_INCHES * max((crop.title.count("\n") + 1 for crops in groups.values() for crop in crops), default=1)
    cell, gap, head, foot = INCHES + text + 0.06, 0.06, 0.28, 0.34
    lines = [-(-len(crops) // across) for crops in groups.values()]
    width = across * (INCHES + gap) + gap
    height = sum(head + line * cell for line in lines) + foot
    figure = Figure(figsize=(width, height))
    top, first = height, True
    for (name, crops), line in zip(groups.items(), lines, strict=True):
        figure.text(gap / width, (top - 0.2) / height, name, fontsize=9, weight="bold")
        for i, crop in enumerate(crops):
            left = gap + (i % across) * (INCHES + gap)
            bottom = top - head - (i // across + 1) * cell + 0.04
            axes = figure.add_axes((left / width, bottom / height, INCHES / width, INCHES / height))
            _draw(axes, crop, colours.get(crop.type, "#000000"))
            if first and crop.pixels is not None:
                scale_bar(axes, FIELD_UM, SCALE_UM)
                first = False
        top -= head + line * cell
    used = {crop.type for crops in groups.values() for crop in crops}
    handles = [
        Patch(facecolor=colours[name], edgecolor="black", linewidth=0.5, label=name) for name in types if name in used
    ]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 0), ncols=max(len(handles), 1), fontsize=8, frameon=False
    )
    return figure


def _draw(axes: Axes, crop: CellCrop, colour: str) -> None:
    if crop.pixels is None:
        axes.set_facecolor(UNREAD)
        axes.text(0, 0, "slide\nnot read", fontsize=6, ha="center", va="center")
    else:
        draw_tissue(axes, crop.pixels, FIELD_UM, crop.border_um, {"white": 2.2, colour: 1.2})
    frame(axes, FIELD_UM)
    axes.set_title(crop.title, fontsize=6.5, pad=2, linespacing=1.05)
    for spine in axes.spines.values():
        spine.set_linewidth(2.5 if crop.is_query else 0.4)
