"""Where a section is deformed: the local displacement that is left after an affine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from celldetr.spatial.affine import Floats

PAIRS_A_SQUARE = 40  # on average
FEWEST = 8  # pairs in a square that is shown


@dataclass(frozen=True)
class ResidualMap:
    """Medians over the squares of a grid that have enough pairs."""

    side_um: float  # of a square
    centres: Floats  # (S, 2) um of the image
    displacement: Floats  # (S, 2) median of nucleus minus cell along x and y, um

    @property
    def lengths(self) -> Floats:
        """(S,) of the displacements, um."""
        return np.linalg.norm(self.displacement, axis=1)


def residual_map(points_um: Floats, displacement_um: Floats) -> ResidualMap:
    """The local median of (P, 2) displacements, nucleus minus cell, of pairs at (P, 2) points; um of the image."""
    import pandas as pd

    if not len(points_um):
        return ResidualMap(1.0, np.zeros((0, 2)), np.zeros((0, 2)))
    low, extent = points_um.min(0), np.maximum(np.ptp(points_um, axis=0), 1.0)
    side = float(np.sqrt(extent.prod() * PAIRS_A_SQUARE / len(points_um)))
    column, row = ((points_um - low) // side).astype(np.int64).T
    groups = pd.DataFrame(displacement_um, columns=["dx", "dy"]).groupby([column, row])
    medians = groups.median()[groups.size() >= min(FEWEST, len(points_um))]
    centres = low + (np.array(medians.index.to_list()).reshape(-1, 2) + 0.5) * side
    return ResidualMap(side, centres, medians.to_numpy(dtype=np.float64))


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
