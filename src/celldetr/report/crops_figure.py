"""A figure of crops of cells, each with its box in its type's colour: queries and neighbours, examples of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.report.crops import FIELD_UM
from celldetr.report.panels import draw_tissue, frame, scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = 160  # side of its picture
ACROSS = 7  # crops in a line: a query and 20 neighbours make three
INCHES = 1.15
LINE_INCHES = 0.13  # a line of a title
SCALE_UM = 10.0
UNREAD = "#eeeeee"


@dataclass(frozen=True)
class CellCrop:
    """One cell, and the pixels around it.

    Attributes:
        title: lines over the crop.
        pixels: (S, S, 3) uint8 around its centre; None where the slide could not be read.
        size_um: width and height of its box.
        type: of the cell.
        is_query: whether the others are its neighbours.
    """

    title: str
    pixels: NDArray[np.uint8] | None
    size_um: tuple[float, float]
    type: str
    is_query: bool = False


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
        draw_tissue(axes, crop.pixels, FIELD_UM, crop.size_um, {"white": 2.2, colour: 1.2})
    frame(axes, FIELD_UM)
    axes.set_title(crop.title, fontsize=6.5, pad=2, linespacing=1.05)
    for spine in axes.spines.values():
        spine.set_linewidth(2.5 if crop.is_query else 0.4)
