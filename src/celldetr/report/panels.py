"""Panels of tissue around one cell, in micrometres from its centre, y downwards; for figures of many cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = 6  # points, of the scale bar's label


def draw_tissue(
    axes: Axes, pixels: NDArray[np.uint8], field_um: float, border_um: NDArray[np.floating], inks: dict[str, float]
) -> None:
    """Draw pixels (S, S, 3) of a square of side ``field_um`` around a cell, and its border, (V, 2) points.

    ``inks``: colour -> width of the border's lines, which lie on each other to be seen on dark and on light.
    """
    from matplotlib.patches import Polygon

    half = field_um / 2
    axes.imshow(pixels, extent=(-half, half, half, -half), interpolation="bicubic")
    for ink, line in inks.items():
        axes.add_patch(Polygon(border_um, fill=False, edgecolor=ink, linewidth=line, joinstyle="miter"))


def frame(axes: Axes, field_um: float) -> None:
    """Limit a panel to its field, without ticks."""
    half = field_um / 2
    axes.set(xlim=(-half, half), ylim=(half, -half), xticks=[], yticks=[])


def scale_bar(axes: Axes, field_um: float, length_um: float) -> None:
    """Draw a bar of a length into the lower left corner of a panel."""
    left, y = -0.45 * field_um, 0.44 * field_um
    for colour, line in (("white", 3.6), ("black", 2.0)):
        axes.plot([left, left + length_um], [y, y], color=colour, linewidth=line, solid_capstyle="butt")
    middle = left + length_um / 2
    label = axes.text(middle, y - 0.03 * field_um, f"{length_um:g} µm", fontsize=LETTERS, ha="center")
    label.set_bbox({"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 0.6})
