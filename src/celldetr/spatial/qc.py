"""Quality control of cells (step 2): enough transcripts and genes, a plausible area.

Every cell keeps its row, with every reason why it fails. Limits are of two kinds: fixed ones, which mean the same in
every section, and, if asked for, distances from the median in median absolute deviations (MAD), which follow the
section (Heumos et al., Nature Reviews Genetics 2023, use 5 of them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from celldetr.config import Config
from celldetr.errors import InputError
from celldetr.spatial.section import CELL_AREA, NUCLEUS_AREA, Section

if TYPE_CHECKING:
    import pandas as pd

_MAD_TO_SIGMA = 1.4826  # of normally distributed values
Measure = Literal["counts", "genes", "cell_area_um2", "nucleus_area_um2"]
Measures = dict[Measure, NDArray[np.float64]]


LEAST_PASSED = 0.7  # share of the cells; below, there is a warning


class QualityOptions(Config):
    """Limits of the cells that pass; both ends of a range are within it, and None is no limit.

    The defaults are for panels of some hundred genes (Xenium v1: 250 to 480), where most cells have 50 to 500
    transcripts.
    """

    # 10 is the usual limit (squidpy's Xenium tutorial, say): with fewer, types are guesses.
    min_counts: int = Field(10, ge=0, description="Transcripts; lower in sparse tissue (bone, fat).")
    min_genes: int = Field(5, ge=0, description="Genes: a few transcripts of one are often from a neighbour.")
    max_counts: int | None = Field(None, ge=1, description="Transcripts; more is a doublet on some panels.")
    # A resting lymphocyte is some 25 to 50 in a section, and sections cut cells anywhere: below 10 it is a sliver or a
    # fragment. Xenium's own expansion of nuclei ends at 15 um (5 um since version 2), which makes cells of up to 1,400
    # in sparse tissue; what is above 2,000 has been merged.
    min_cell_area: float | None = Field(10.0, ge=0, description="Square um, where the area is known.")
    max_cell_area: float | None = Field(2000.0, gt=0, description="Square um; more has been merged.")
    # Slivers of nuclei are common (1 in 100 is below 5.5 on a genuine section) and do no harm; nuclei of 20 um and more
    # across are megakaryocytes and giant tumour cells.
    min_nucleus_area: float | None = Field(None, ge=0, description="Square um, where the area is known.")
    max_nucleus_area: float | None = Field(400.0, gt=0, description="Square um; more is several in one outline.")
    need_nucleus: bool = Field(False, description="Whether cells without a nucleus fail.")
    # Off by default: a section of two tissues has two medians, and the rarer one would be lost.
    mads: float | None = Field(
        None, gt=0, description="Outliers: MADs from the median of the logarithms of counts, genes and areas."
    )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("counts", "cell_area", "nucleus_area"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name}={low:g} is above max_{name}={high:g}")
        return self


@dataclass(frozen=True)
class Limit:
    """A limit of one measure; what is below ``low``, or above ``high``, fails for a ``reason`` in words."""

    measure: Measure
    low: float
    high: float
    reason: str

    def fails(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) which values are known and beyond."""
        return (values < self.low) | (values > self.high)  # comparisons with NaN, an unknown area, are False


def measures(section: Section) -> Measures:
    """(N,) counts, genes, and areas in square micrometres where the section has them, NaN for a cell that has none."""
    matrix = section.cells.X
    values: Measures = {
        "counts": np.rint(np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()),
        "genes": matrix.getnnz(axis=1).astype(np.float64),
    }
    areas: tuple[tuple[Measure, str], ...] = (("cell_area_um2", CELL_AREA), ("nucleus_area_um2", NUCLEUS_AREA))
    for measure, column in areas:
        if column in section.cells.obs.columns:
            area = section.cells.obs[column].to_numpy(dtype=np.float64, na_value=np.nan)
            if np.isfinite(area).any():
                values[measure] = area
    return values


def limits(values: Measures, options: QualityOptions) -> list[Limit]:
    """The limits that apply to a section with these measures: those of the options, and outliers by its own medians."""
    fixed: list[tuple[Measure, str, str, float | None, float | None]] = [
        ("counts", "transcripts", "", options.min_counts, options.max_counts),
        ("genes", "genes", "", options.min_genes, None),
        ("cell_area_um2", "cell area", " um2", options.min_cell_area, options.max_cell_area),
        ("nucleus_area_um2", "nucleus area", " um2", options.min_nucleus_area, options.max_nucleus_area),
    ]
    out = []
    for measure, what, unit, low, high in fixed:
        if measure not in values:
            continue
        if low is not None:
            reason = f"{what} below {low:g}{unit}" if unit else f"fewer than {low:g} {what}"
            out.append(Limit(measure, low, np.inf, reason))
        if high is not None:
            reason = f"{what} above {high:g}{unit}" if unit else f"more than {high:g} {what}"
            out.append(Limit(measure, -np.inf, high, reason))
        if options.mads is not None:
            # Counts and areas are skewed and positive: on the scale of their logarithms both sides are alike.
            logs = np.log1p(values[measure][np.isfinite(values[measure])])
            middle = float(np.median(logs))
            reach = options.mads * _MAD_TO_SIGMA * float(np.median(np.abs(logs - middle)))
            if reach > 0:  # more than half of the cells are alike: nothing to measure distances by
                below, above = float(np.expm1(middle - reach)), float(np.expm1(middle + reach))
                outlier = f"{what} an outlier by {options.mads:g} MADs"
                out.append(Limit(measure, below, np.inf, f"{outlier} (below {below:.3g}{unit})"))
                out.append(Limit(measure, -np.inf, above, f"{outlier} (above {above:.3g}{unit})"))
    return out


def qc_cells(section: Section, options: QualityOptions | None = None) -> pd.DataFrame:
    """Compare all N cells of a section with the limits -> N rows in its order, columns ``QUALITY``."""
    import pandas as pd

    options = options or QualityOptions()
    values = measures(section)
    failed = [(limit.reason, limit.fails(values[limit.measure])) for limit in limits(values, options)]
    if options.need_nucleus and "nucleus_area_um2" in values:
        failed.append(("no nucleus", ~(values["nucleus_area_um2"] > 0)))
    reasons = np.full(section.cells.n_obs, "", dtype=object)
    for reason, mask in failed:
        reasons[mask] = [f"{others}; {reason}" if others else reason for others in reasons[mask]]
    return pd.DataFrame(
        {
            "cell_id": section.cell_ids,
            "counts": values["counts"].astype(np.int64),
            "genes": values["genes"].astype(np.int64),
            "passed": reasons == "",
            "reason": reasons,
        }
    )


def qc_summary(quality: pd.DataFrame) -> dict[str, Any]:
    """Numbers of cells, JSON-able: ``cells``, ``passed``, and of each of the ``reasons``, the most common first.

    A cell that fails for several reasons counts for each.
    """
    reasons = quality.loc[~quality["passed"], "reason"].str.split("; ").explode().value_counts()
    return {
        "cells": len(quality),
        "passed": int(quality["passed"].sum()),
        "reasons": {str(reason): int(count) for reason, count in reasons.items()},
    }


def qc_warnings(summary: dict[str, Any]) -> list[str]:
    """A sentence if few cells pass."""
    passed = summary["passed"] / summary["cells"]
    return [f"only {passed:.0%} of the cells passed the quality control"] if passed < LEAST_PASSED else []


def filter_cells(section: Section, quality: pd.DataFrame) -> Section:
    """The section's cells that passed, in order.

    Raises:
        InputError: no cell passed.
    """
    mask = quality["passed"].to_numpy(dtype=bool)
    if not mask.any():
        reasons = "; ".join(f"{count:,} with {reason}" for reason, count in qc_summary(quality)["reasons"].items())
        raise InputError(
            f"section {section.name!r}: none of its {len(mask):,} cells passed ({reasons}); lower the limits"
        )
    return section.subset(mask)
