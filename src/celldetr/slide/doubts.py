"""What is doubtful about a finished slide, one sentence each: foreign tissue, low scores, blur, density, resolution.

Bounds lie beyond what training and validation tiles show (benchmarks/familiarity.py). A wrong resolution explains the
others, so where one is likely nothing else is said of the cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.schema import FAMILIARITY
from celldetr.slide.focus import sharpness
from celldetr.slide.nucleus_size import COLUMNS, ENOUGH, NucleusSizes
from celldetr.slide.pipeline import Job
from celldetr.slide.provenance import FEW_ON_MM2
from celldetr.slide.scale_trial import likelier, overlap, read_window, try_scales, windows

PLACES = 6  # looked at again, around cells
UNFAMILIAR, FOREIGN = 0.05, 0.25  # share of cells less familiar than the first that is too many
LOW = 0.4  # median score
BLURRED = 0.035  # sharpness; a blur of sigma 1 um makes any tile less sharp than this
MOST_PER_MM2 = 30_000  # cells of a slide's tissue; of lymphoid tissue or cerebellum 20,000
SPARSE_PER_MM2 = 200  # fewer are looked into; fat has a hundred
SCORE_BINS = 200


class CellFacts:
    """What the rows of a slide's table say about it; ``mpp`` is the stated one, ``total`` the number of rows."""

    def __init__(self, mpp: float, total: int) -> None:
        self.sizes = NucleusSizes(mpp)
        self.total = total
        self._scores = np.zeros(SCORE_BINS, np.int64)
        self._unfamiliar: int | None = None
        steps = np.linspace(0, total - 1, 2 * PLACES + 1)[1::2] if total else np.empty(0)
        self._chosen: NDArray[np.int64] = np.unique(steps.round().astype(np.int64))
        self._places: list[tuple[float, float]] = []
        self._rows = 0

    @classmethod
    def of(cls, rows: pa.Table, mpp: float) -> Self:
        """Of a table in memory."""
        return cls(mpp, rows.num_rows)._add(rows.to_batches())

    @classmethod
    def of_file(cls, path: Path, mpp: float) -> Self:
        """Of a table on disk, a row group at a time."""
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(columns=[*COLUMNS, "x_px", "y_px", FAMILIARITY])
            return cls(mpp, file.metadata.num_rows)._add(batches)

    def _add(self, batches: Iterable[pa.RecordBatch]) -> Self:
        for rows in batches:
            self.sizes.add(rows)
            score = rows["score"].to_numpy(zero_copy_only=False)
            bins = (score * SCORE_BINS).astype(int).clip(0, SCORE_BINS - 1)
            self._scores += np.bincount(bins, minlength=SCORE_BINS)
            if rows[FAMILIARITY].null_count < rows.num_rows:
                values = rows[FAMILIARITY].to_numpy(zero_copy_only=False)
                self._unfamiliar = (self._unfamiliar or 0) + int((values < UNFAMILIAR).sum())
            here = self._chosen - self._rows
            for row in here[(here >= 0) & (here < rows.num_rows)].tolist():
                self._places.append((rows["x_px"][row].as_py(), rows["y_px"][row].as_py()))
            self._rows += rows.num_rows
        return self

    @property
    def median_score(self) -> float:
        """Median score of the cells; NaN without any."""
        if not self.total:
            return float("nan")
        return float((np.searchsorted(self._scores.cumsum(), self.total / 2) + 0.5) / SCORE_BINS)

    @property
    def unfamiliar(self) -> float | None:
        """Share of cells that are as strange as the strangest of training; None of a model that does not know."""
        return None if self._unfamiliar is None else self._unfamiliar / self.total

    @property
    def places(self) -> NDArray[np.float64]:
        """(at most ``PLACES``, 2) centres of cells in level-0 pixels, spread over the table."""
        return np.array(self._places, np.float64).reshape(-1, 2)


def doubts(job: Job, facts: CellFacts) -> list[str]:
    """Sentences about the cells of a slide, which is read again at a few places.

    Raises:
        InputError: the slide cannot be read any more.
    """
    places = windows(job.reader, facts.places)
    many = facts.total >= ENOUGH
    low = many and facts.median_score < LOW
    foreign = _foreign(facts)
    density = facts.total / job.plan.tissue_mm2 if job.plan.tissue_mm2 else 0.0
    dense = many and density > MOST_PER_MM2
    sparse = job.plan.tissue_mm2 > FEW_ON_MM2 and density < SPARSE_PER_MM2
    texts = facts.sizes.warnings()
    suspicious = bool(texts or foreign) or low or dense or sparse
    if suspicious and places and (resolution := _resolution(job, places)):
        return [resolution, *_blur(job, places)]
    texts += foreign
    if low:
        texts.append(
            f"low scores: {facts.median_score:.2f} in the median, where {LOW + 0.05:.2f} and more are usual; many "
            "cells may be missed, a lower `threshold` finds more of them"
        )
    if dense:
        texts.append(
            f"implausibly many cells: {density:,.0f} a mm2 of tissue, where {MOST_PER_MM2:,} are the most there can be;"
            " is the resolution right? Look at the boxes, and give the right one with `mpp`"
        )
    return texts + _blur(job, places)


def doubts_of_given(job: Job, facts: CellFacts) -> list[str]:
    """Sentences about cells that were given, not found, hence nothing of scores and density; raises as ``doubts``."""
    places = windows(job.reader, facts.places)
    foreign = _foreign(facts)
    suspicious = bool(foreign or facts.sizes.warnings()) and len(places) > 0
    if suspicious and (resolution := _resolution(job, places)):
        foreign = [resolution]
    return foreign + _blur(job, places)


def _foreign(facts: CellFacts) -> list[str]:
    """The sentence about foreign tissue, if the cells are of one."""
    if facts.total < ENOUGH or facts.unfamiliar is None or facts.unfamiliar < FOREIGN:
        return []
    return [
        f"foreign tissue: {facts.unfamiliar:.0%} of the cells are as strange to the model as the strangest "
        f"{UNFAMILIAR:.0%} of its training; look at boxes and types before the numbers are used (the column "
        f"{FAMILIARITY} says which cells)"
    ]


def _resolution(job: Job, places: list[tuple[float, float, float, float]]) -> str | None:
    """The sentence about a likelier resolution, if there is one."""
    if job.model.image_px is not None:  # it measures in fractions of an image, whatever the scale
        return None
    trials = try_scales(job.reader, job.model, places)
    best = likelier(trials, small=overlap(places))
    if best is None:
        return None
    stated = next(trial for trial in trials if trial.mpp == job.reader.mpp)
    size = f" of {stated.size_um:.1f} um in the median" if stated.cells else ""
    return (
        f"the resolution is probably wrong: at {len(places)} places {stated.mpp:.3g} um per pixel gives "
        f"{stated.cells:,} cells{size}, and {best.mpp:.2g} would give {best.cells:,} of {best.size_um:.1f} um. "
        "Look at the slide, and give the right one with `mpp`"
    )


def _blur(job: Job, places: list[tuple[float, float, float, float]]) -> list[str]:
    """The sentence about places out of focus, if most of them are."""
    middles = [(x + width / 4, y + height / 4, width / 2, height / 2) for x, y, width, height in places]
    seen = [read_window(job.reader, place, job.reader.mpp) for place in middles]
    sharp = [sharpness(pixels, job.reader.mpp) for pixels in seen if pixels is not None]
    blurred = sum(value < BLURRED for value in sharp)
    if len(sharp) < PLACES or 2 * blurred <= len(sharp):
        return []
    return [
        f"blur: {blurred} of {len(sharp)} places looked at are out of focus, or of a resolution that the scanner did "
        "not have; expect fewer and less certain cells"
    ]
