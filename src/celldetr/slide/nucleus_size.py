"""Check of a slide's resolution by the size of its nuclei.

They come out small where the stated micrometres per pixel are too few, large where they are too many. The sizes that a
model reports at the right resolution and at others are measured in benchmarks/nucleus_size.py; the bounds lie between.
Errors by a factor of 2, as from a mistaken magnification, are noticed; those by less than 1.5 hardly.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CONFIDENT = 0.5  # score; what is found besides at a wrong resolution is doubtful and small
LEAST, MOST = 4.2, 8.8  # um; whole sets have medians of 5 to 6.5, tissue with hardly but lymphocytes 4.5
TYPICAL = float(np.sqrt(LEAST * MOST))
ENOUGH = 100  # cells; a few may be of one kind
STEP, END = 0.05, 50.0  # um, of the histogram
COLUMNS = ["w_px", "h_px", "score"]


class NucleusSizes:
    """Histogram of the sizes sqrt(w * h) of confident cells; ``mpp`` is the stated one, its square a pixel's area."""

    def __init__(self, mpp: float) -> None:
        self._mpp = mpp
        self._histogram: NDArray[np.int64] = np.zeros(round(END / STEP), dtype=np.int64)

    def add(self, rows: pa.Table | pa.RecordBatch) -> Self:
        """Count rows of the cell table, of which ``COLUMNS`` are needed."""
        width, height, score = (rows[name].to_numpy(zero_copy_only=False) for name in COLUMNS)
        size = np.sqrt(width.astype(np.float64) * height)[score >= CONFIDENT] * self._mpp
        bins = np.clip(size / STEP, 0, len(self._histogram) - 1).astype(np.int64)
        self._histogram += np.bincount(bins, minlength=len(self._histogram))
        return self

    @property
    def count(self) -> int:
        """Number of confident cells."""
        return int(self._histogram.sum())

    @property
    def median(self) -> float:
        """Median size, um; NaN if there is no cell."""
        if not self.count:
            return float("nan")
        return float((np.searchsorted(self._histogram.cumsum(), self.count / 2) + 0.5) * STEP)

    def warnings(self) -> list[str]:
        """One sentence if the sizes are not those of nuclei; none if they are, or there are too few cells to tell."""
        if self.count < ENOUGH:
            return []
        doubt = size_doubt(self.median, self._mpp)
        return [doubt] if doubt else []


def size_doubt(median: float, mpp: float) -> str:
    """A sentence if this median size of nuclei, um, is not that of nuclei; "" if it is.

    Args:
        median: at the stated resolution.
        mpp: the stated micrometres per pixel.
    """
    if LEAST <= median <= MOST:
        return ""
    likely = mpp * 2.0 ** np.rint(np.log2(TYPICAL / median))  # resolutions are mistaken by an objective's factor
    return (
        f"nuclei come out {'small' if median < LEAST else 'large'}: {median:.1f} um in the median, where {LEAST:g} to"
        f" {MOST:g} are to be expected; is the resolution really {mpp:.3g} um per pixel, or rather near {likely:.2g}?"
        " Check, and give the right one with `mpp`; if it is right, look at the boxes before the numbers are used"
    )
