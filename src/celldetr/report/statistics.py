"""Numbers of the summary, gathered in one pass over the table, in memory of fixed size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.cells.reader import CellTable, numbers
from celldetr.cells.schema import BOX

DIAMETER_STEP, DIAMETER_END = 0.1, 60.0  # um; what is larger falls into the last bin
SCORE_STEP = 0.01
RATIO_STEP, RATIO_END = 0.05, 6.0  # longer by shorter side of the box
SHARE_STEP = 0.02  # of eccentricity and solidity
MEASURED = ("eccentricity", "solidity")  # columns of shape that a table with outlines has
PICK_COLUMNS = (*BOX, "score", "type_score", "cell_id")


class Picks:
    """The ``size`` cells of each of K types that have the highest key.

    Attributes:
        keys: of the cells kept, a descending array for each type.
        cells: (n, 7) for each type: ``PICK_COLUMNS``.
    """

    def __init__(self, size: int, types: int) -> None:
        self.size = size
        self.keys = [np.empty(0) for _ in range(types)]
        self.cells = [np.empty((0, len(PICK_COLUMNS))) for _ in range(types)]

    def offer(self, cells: NDArray[np.float64], codes: NDArray[np.intp], keys: NDArray[np.float64]) -> None:
        """Consider a batch: (N, 7) cells, their (N,) types and keys."""
        for code in np.unique(codes):
            of_type = codes == code
            all_keys = np.concatenate([self.keys[code], keys[of_type]])
            all_cells = np.concatenate([self.cells[code], cells[of_type]])
            best = np.argsort(-all_keys, kind="stable")[: self.size]
            self.keys[code], self.cells[code] = all_keys[best], all_cells[best]


class Statistics:
    """Counts, distributions and examples of the K types of a table.

    Attributes:
        counts: (K,) cells.
        diameters: (K, bins) histogram of the equivalent diameter sqrt(w * h), in steps of ``DIAMETER_STEP`` um.
        scores: (K, bins) histogram of the score, in steps of ``SCORE_STEP``.
        ratios: (K, bins) histogram of the longer by the shorter side of the box, in steps of ``RATIO_STEP``.
        shapes: the same of each of ``MEASURED``, in steps of ``SHARE_STEP``; all zero without outlines.
        surest, unsurest: cells with the highest and the lowest score times type score.
        random: cells drawn at random.
    """

    def __init__(self, types: int, examples: int) -> None:
        self.counts = np.zeros(types, dtype=np.int64)
        self.diameters = np.zeros((types, round(DIAMETER_END / DIAMETER_STEP)), dtype=np.int64)
        self.scores = np.zeros((types, round(1 / SCORE_STEP)), dtype=np.int64)
        self.ratios = np.zeros((types, round(RATIO_END / RATIO_STEP)), dtype=np.int64)
        self.shapes = {name: np.zeros((types, round(1 / SHARE_STEP)), dtype=np.int64) for name in MEASURED}
        self.surest, self.unsurest, self.random = (Picks(examples, types) for _ in range(3))

    def add(self, table: CellTable, batch: pa.RecordBatch, mpp: float, rng: np.random.Generator) -> None:
        """Count a batch of cells."""
        codes = table.type_codes(batch)
        cells = np.stack([numbers(batch, name) for name in PICK_COLUMNS], axis=1)
        diameter = np.sqrt(cells[:, 2] * cells[:, 3]) * mpp
        self.counts += np.bincount(codes, minlength=len(self.counts))
        _tally(self.diameters, codes, diameter, DIAMETER_STEP)
        _tally(self.scores, codes, cells[:, 4], SCORE_STEP)
        _tally(self.ratios, codes, cells[:, 2:4].max(1) / cells[:, 2:4].min(1), RATIO_STEP)
        for name in MEASURED:
            if name in batch.schema.names:
                _tally(self.shapes[name], codes, numbers(batch, name), SHARE_STEP)
        sure = cells[:, 4] * cells[:, 5]
        self.surest.offer(cells, codes, sure)
        self.unsurest.offer(cells, codes, -sure)
        self.random.offer(cells, codes, rng.random(len(cells)))

    def median_diameters(self) -> list[float]:
        """Median equivalent diameter of each type, um; NaN for a type without a cell."""
        return [histogram_median(row, DIAMETER_STEP) for row in self.diameters]

    def median_scores(self) -> list[float]:
        """Median score of each type; NaN for a type without a cell."""
        return [histogram_median(row, SCORE_STEP) for row in self.scores]


def _tally(histogram: NDArray[np.int64], codes: NDArray[np.intp], values: NDArray[np.float64], step: float) -> None:
    """Add values to the rows of a (K, bins) histogram; what is not finite is not counted."""
    finite = np.isfinite(values)
    bins = histogram.shape[1]
    # A float32 of 0.29 is a hair below 0.29: without the nudge, round values would fall into the bin below.
    at = np.clip(np.floor(values[finite] / step + 1e-6), 0, bins - 1).astype(np.int64)
    flat = np.bincount(codes[finite] * bins + at, minlength=histogram.size)
    histogram += flat.reshape(histogram.shape)


def histogram_median(histogram: NDArray[np.int64], step: float) -> float:
    """The median of binned values, interpolated within its bin; NaN of an empty histogram."""
    total = int(histogram.sum())
    if not total:
        return float("nan")
    cumulative = np.cumsum(histogram)
    at = int(np.searchsorted(cumulative, total / 2))
    before = int(cumulative[at] - histogram[at])
    return float((at + (total / 2 - before) / histogram[at]) * step)


def gather(table: CellTable, mpp: float, examples: int, seed: int = 0) -> Statistics:
    """Read the table once, and pick so many ``examples`` a type; ``mpp`` squared is the area of a level-0 pixel."""
    statistics = Statistics(len(table.types), examples)
    rng = np.random.default_rng(seed)
    for batch in table.batches((*PICK_COLUMNS, "type", *(name for name in MEASURED if name in table.columns))):
        statistics.add(table, batch, mpp, rng)
    return statistics
