"""Colocalisation of cells and nuclei against random shifts: are section and image of the same tissue?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from celldetr.errors import InputError
from celldetr.spatial.affine import Floats, Mpp, apply, in_image_um, pixel_scale

NEAR = 3.0  # um: nearer than neighbouring nuclei are to each other
COVERED = 25.0  # um: a cell counts only where there are nuclei around, so that shifts over the rim of tissue do not
SHIFTS = 24
SHORTEST, LONGEST = 20.0, 60.0  # um: beyond the order that packed nuclei have, within the same tissue
FEWEST_CELLS = 20
LEAST_EXCESS, LEAST_Z = 0.05, 4.0
MOST_CELLS = 50_000  # looked at


@dataclass(frozen=True)
class Colocalization:
    """Cells with a nucleus within ``NEAR`` um, of those that have nuclei around."""

    cells: int  # that have nuclei around
    share: float  # of these with a nucleus that near
    chance: float  # the same share after random shifts, on average
    spread: float  # its standard deviation from shift to shift
    same: bool  # whether the share is so far above chance that both must be of the same section


def nearest_distances(
    cells_um: Floats, nuclei_px: Floats, to_image: Floats, mpp: Mpp, seed: int = 0
) -> tuple[Floats, list[Floats]]:
    """Distances from each cell to the nearest nucleus, as they lie and after random shifts.

    Args:
        cells_um: (N, 2) micrometres of the section.
        nuclei_px: (M, 2) level-0 pixels.
        to_image: (3, 3) from the one to the other.
        mpp: of level 0.
        seed: of the shifts.

    Returns:
        (K,) um, of the cells that have nuclei around (``COVERED``), and the same after each shift.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(nuclei_px * pixel_scale(mpp))
    points = apply(in_image_um(to_image, mpp), cells_um)
    random = np.random.default_rng(seed)
    angle, length = random.uniform(0, 2 * np.pi, SHIFTS), random.uniform(SHORTEST, LONGEST, SHIFTS)
    if len(points) > MOST_CELLS:
        points = points[np.sort(random.choice(len(points), MOST_CELLS, replace=False))]

    def covered(at: Floats) -> Floats:
        distance = tree.query(at, distance_upper_bound=COVERED)[0]
        return distance[np.isfinite(distance)]

    shifts = np.stack([np.cos(angle), np.sin(angle)], 1) * length[:, None]
    return covered(points), [covered(points + shift) for shift in shifts]


def colocalization(cells_um: Floats, nuclei_px: Floats, to_image: Floats, mpp: Mpp, seed: int = 0) -> Colocalization:
    """How many cells have a nucleus, and how many would by chance. Arguments as in ``nearest_distances``.

    An affine that was fitted must be tested on cells that it was not fitted to.
    """

    def share_near(distance: Floats) -> float:
        return float((distance <= NEAR).mean()) if len(distance) else 0.0

    distance, shifted = nearest_distances(cells_um, nuclei_px, to_image, mpp, seed)
    shares = np.array([share_near(each) for each in shifted])
    share, chance = share_near(distance), float(shares.mean())
    # Of few cells the share itself may vary by more than the shifts show.
    binomial = np.sqrt(max(chance * (1 - chance), 0.01) / max(len(distance), 1))
    spread = float(np.hypot(shares.std(), binomial))
    same = len(distance) >= FEWEST_CELLS and share - chance > max(LEAST_EXCESS, LEAST_Z * spread)
    return Colocalization(len(distance), share, chance, spread, bool(same))


def require_same_section(measured: Colocalization) -> None:
    """Refuse an image that does not look like one of the same section, with an ``InputError``."""
    if measured.same:
        return
    if measured.cells < FEWEST_CELLS:
        why = f"only {measured.cells} cells lie where it has nuclei"
    else:
        why = (
            f"{measured.share:.0%} of {measured.cells:,} cells have a nucleus within {NEAR:g} um,"
            f" {measured.chance:.0%} after random shifts"
        )
    raise InputError(
        f"the H&E does not look like the same section: {why}; check that image and alignment belong to this bundle, the"
        " alignment's direction and the image's mpp"
    )
