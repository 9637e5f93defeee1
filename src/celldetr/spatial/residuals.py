"""Where a section is deformed: the local displacement that is left after an affine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from celldetr.spatial.coordinates import Floats

PAIRS_A_SQUARE = 40  # on average
FEWEST = 8  # pairs in a square that is shown


@dataclass(frozen=True)
class ResidualMap:
    """Medians over the squares of a grid.

    Attributes:
        side_um: of a square.
        centres: (S, 2) of the squares that have enough pairs, um of the image.
        displacement: (S, 2) median of nucleus minus cell along x and y, um.
        counts: (S,) pairs.
    """

    side_um: float
    centres: Floats
    displacement: Floats
    counts: Floats

    @property
    def lengths(self) -> Floats:
        """(S,) of the displacements, um."""
        return np.linalg.norm(self.displacement, axis=1)


def residual_map(points_um: Floats, displacement_um: Floats, side_um: float | None = None) -> ResidualMap:
    """The local median displacement of pairs.

    Args:
        points_um: (P, 2) where the pairs are, um of the image.
        displacement_um: (P, 2) nucleus minus cell.
        side_um: of the squares; None: so that one holds some forty pairs.
    """
    import pandas as pd

    if not len(points_um):
        return ResidualMap(side_um or 1.0, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    if side_um is None:
        area = float(np.maximum(np.ptp(points_um, axis=0), 1.0).prod())
        side_um = float(np.sqrt(area * PAIRS_A_SQUARE / len(points_um)))
    low = points_um.min(0)
    square = ((points_um - low) // side_um).astype(np.int64)
    table = pd.DataFrame({"column": square[:, 0], "row": square[:, 1]})
    table["dx"], table["dy"] = displacement_um.T
    medians = table.groupby(["column", "row"]).agg(dx=("dx", "median"), dy=("dy", "median"), count=("dx", "size"))
    medians = medians[medians["count"] >= min(FEWEST, len(points_um))].reset_index()
    centres = low + (medians[["column", "row"]].to_numpy(dtype=np.float64) + 0.5) * side_um
    return ResidualMap(
        side_um,
        centres,
        medians[["dx", "dy"]].to_numpy(dtype=np.float64),
        medians["count"].to_numpy(dtype=np.float64),
    )


def misfit_warnings(residuals: ResidualMap, most_um: float, share: float) -> list[str]:
    """Warnings where the displacement is beyond ``most_um`` in more than a ``share`` of the section."""
    beyond = residuals.lengths > most_um
    if not len(beyond) or beyond.mean() <= share:
        return []
    worst = int(residuals.lengths.argmax())
    x, y = residuals.centres[worst]
    return [
        f"in {beyond.mean():.0%} of the section nuclei are off by more than {most_um:g} um after alignment, up to"
        f" {residuals.lengths[worst]:.1f} um around x {x:,.0f}, y {y:,.0f} um: one affine does not fit a deformed"
        " section; look at the map of residuals, and mistrust pairs there"
    ]
