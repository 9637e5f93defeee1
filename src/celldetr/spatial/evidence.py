"""Whether cells and nuclei are of the same section: more of them meet than when one side is shifted at random."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from celldetr.errors import InputError
from celldetr.spatial.affine import apply
from celldetr.spatial.coordinates import Floats, Mpp, in_image_um, pixel_scale

NEAR = 3.0  # um: nearer than neighbouring nuclei are to each other
COVERED = 25.0  # um: a cell counts only where there are nuclei around, so that shifts over the rim of tissue do not
SHIFTS = 24
SHORTEST, LONGEST = 20.0, 60.0  # um: beyond the order that packed nuclei have, within the same tissue
FEWEST_CELLS = 20
LEAST_EXCESS, LEAST_Z = 0.05, 4.0


@dataclass(frozen=True)
class Evidence:
    """Cells with a nucleus within ``NEAR`` um, of those that have nuclei around.

    Attributes:
        cells: how many have.
        share: of these with a nucleus that near.
        chance: the same share after random shifts, on average.
        spread: its standard deviation from shift to shift.
        same: whether the share is so far above chance that both must be of the same section.
    """

    cells: int
    share: float
    chance: float
    spread: float
    same: bool

    @property
    def excess(self) -> float:
        """Share above chance."""
        return self.share - self.chance

    def as_json(self) -> dict[str, Any]:
        """All attributes."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.share:.0%} of {self.cells:,} cells have a nucleus within {NEAR:g} um, {self.chance:.0%} after "
            "random shifts"
        )


def nearest_distances(
    cells_um: Floats, nuclei_px: Floats, to_image: Floats, mpp: Mpp, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """From each cell to the nearest nucleus, as they lie and after random shifts.

    Args:
        cells_um: (N, 2) in the frame of the instrument.
        nuclei_px: (M, 2) level-0 pixels.
        to_image: (3, 3) from the one to the other.
        mpp: of level 0.
        seed: of the shifts.

    Returns:
        (K,) um, of the cells that have nuclei around (``COVERED``); the same of all shifts together; and how large a
        share of them each shift brings within ``NEAR``.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(nuclei_px * pixel_scale(mpp))
    points = apply(in_image_um(to_image, mpp), cells_um)
    random = np.random.default_rng(seed)
    angle, length = random.uniform(0, 2 * np.pi, SHIFTS), random.uniform(SHORTEST, LONGEST, SHIFTS)
    if len(points) > 50_000:
        points = points[np.sort(random.choice(len(points), 50_000, replace=False))]

    def covered(at: Floats) -> Floats:
        distance = tree.query(at, distance_upper_bound=COVERED)[0]
        return distance[np.isfinite(distance)]

    as_they_lie = covered(points)
    shifted = [covered(points + shift) for shift in np.stack([np.cos(angle), np.sin(angle)], 1) * length[:, None]]
    shares = np.array([_share(distance) for distance in shifted])
    return as_they_lie, np.concatenate(shifted), shares


def _share(distance: Floats) -> float:
    return float((distance <= NEAR).mean()) if len(distance) else 0.0


def evidence(cells_um: Floats, nuclei_px: Floats, to_image: Floats, mpp: Mpp, seed: int = 0) -> Evidence:
    """How many cells meet a nucleus, and how many would by chance. Arguments as in ``nearest_distances``.

    An affine that was fitted must be judged by cells that it was not fitted to (``Alignment.evidence`` does so).
    """
    distance, _, shares = nearest_distances(cells_um, nuclei_px, to_image, mpp, seed)
    share, chance = _share(distance), float(shares.mean())
    # Few cells: the shifts do not tell how much the share itself may vary.
    binomial = np.sqrt(max(chance * (1 - chance), 0.01) / max(len(distance), 1))
    spread = float(np.hypot(shares.std(), binomial))
    same = len(distance) >= FEWEST_CELLS and share - chance > max(LEAST_EXCESS, LEAST_Z * spread)
    return Evidence(len(distance), share, chance, spread, bool(same))


def require_same_section(found: Evidence) -> None:
    """Refuse what does not look like the same section.

    Raises:
        InputError: cells meet nuclei no more often than by chance.
    """
    if found.same:
        return
    if found.cells < FEWEST_CELLS:
        raise InputError(
            f"the H&E does not look like the same section: only {found.cells} cells lie where it has nuclei; check "
            "that image and alignment belong to this bundle, and the direction of the alignment"
        )
    raise InputError(
        f"the H&E does not look like the same section: {found}; check that image and alignment belong to this bundle, "
        "the alignment's direction and the image's mpp"
    )
