"""Quality of cells: against a plain loop, limits as options, and a genuine section."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from shapely.geometry import box

from celldetr.config import parse
from celldetr.errors import InputError
from celldetr.spatial.qc import QualityOptions, filter_cells, limits, measures, qc_cells, qc_summary
from celldetr.spatial.section import QUALITY, Section


def a_section(counts: np.ndarray, **columns: np.ndarray) -> Section:
    places = np.random.default_rng(0).uniform(0, 500, (len(counts), 2))
    obs = pd.DataFrame({"x_um": places[:, 0], "y_um": places[:, 1], **columns})
    obs.index = [f"c{i}" for i in range(len(counts))]
    return Section("s", anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 20),
    st.integers(0, 6),
    st.none() | st.integers(20, 60),
    st.none() | st.floats(1, 50),
    st.none() | st.floats(50, 300),
)
def test_as_a_plain_loop_says(
    seed: int, low: int, genes: int, high: int | None, small: float | None, large: float | None
) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.uniform(0.1, 6, (40, 1)), (40, 7))
    area = np.where(rng.random(40) < 0.2, np.nan, rng.uniform(0, 400, 40))
    options = QualityOptions(min_counts=low, min_genes=genes, max_counts=high, min_cell_area=small, max_cell_area=large)
    table = qc_cells(a_section(counts, cell_area_um2=area), options)
    assert list(table.columns) == list(QUALITY)
    for row, size, cell in zip(counts, area, table.itertuples(), strict=True):
        why = []
        if row.sum() < low:
            why.append(f"fewer than {low} transcripts")
        if high is not None and row.sum() > high:
            why.append(f"more than {high} transcripts")
        if (row > 0).sum() < genes:
            why.append(f"fewer than {genes} genes")
        if small is not None and size < small:
            why.append(f"cell area below {small:g} um2")
        if large is not None and size > large:
            why.append(f"cell area above {large:g} um2")
        assert (cell.counts, cell.genes) == (row.sum(), (row > 0).sum())
        assert cell.passed == (not why)
        assert cell.reason == "; ".join(why)
    numbers = qc_summary(table)
    assert numbers["cells"] == 40
    assert numbers["passed"] == table["passed"].sum()
    assert numbers["reasons"] == {words: int(table["reason"].str.contains(words, regex=False).sum())
                                  for words in numbers["reasons"]}  # fmt: skip


def test_unknown_areas_hold_nobody_back() -> None:
    counts = np.full((4, 6), 5)
    table = qc_cells(a_section(counts, nucleus_area_um2=np.array([np.nan, 30, 900, np.nan])))
    assert table["passed"].tolist() == [True, True, False, True]
    assert table["reason"][2] == "nucleus area above 400 um2"
    assert qc_cells(a_section(counts))["passed"].all()
    assert qc_cells(a_section(counts, cell_area_um2=np.full(4, np.nan)))["passed"].all()
    needed = QualityOptions(need_nucleus=True)
    table = qc_cells(a_section(counts, nucleus_area_um2=np.array([np.nan, 30, 30, 0])), needed)
    assert table["reason"].tolist() == ["no nucleus", "", "", "no nucleus"]


def test_outliers_follow_the_section() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(20, (300, 10))
    counts[0] *= 40
    counts[1] = counts[1] // 18 + 1
    free = QualityOptions(min_counts=0, min_genes=0)
    assert qc_cells(a_section(counts), free)["passed"].all()
    options = free.model_copy(update={"mads": 5.0})
    table = qc_cells(a_section(counts), options)
    # The same by scipy's own deviation.
    from scipy.stats import median_abs_deviation

    logs = np.log1p(counts.sum(axis=1))
    far = np.abs(logs - np.median(logs)) > 5 * median_abs_deviation(logs, scale=1 / 1.4826)
    assert far[:2].all()
    assert (table["reason"].str.contains("transcripts an outlier by 5 MADs") == far).all()
    # Where most cells are alike there is no scale.
    assert qc_cells(a_section(np.full((5, 6), 3)), QualityOptions(mads=5))["passed"].all()


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="min_counts=10 is above max_counts=5"):
        parse(QualityOptions, {"max_counts": 5}, "quality")


def test_passed_cells_keep_their_polygons() -> None:
    counts = np.array([[9, 9, 9, 9, 9], [0, 0, 0, 0, 1], [4, 4, 4, 4, 4]])
    plain = a_section(counts)
    nuclei = np.array([box(0, 0, 1, 1), None, box(5, 5, 7, 7)], dtype=object)
    section = Section("s", plain.cells, nuclei=nuclei, source={"a": 1})
    kept = filter_cells(section, qc_cells(section))
    assert kept.cells.obs_names.tolist() == ["c0", "c2"]
    assert kept.nuclei is not None
    assert kept.nuclei[1] is nuclei[2]
    assert kept.source == {"a": 1}
    none = qc_cells(section, QualityOptions(min_counts=1000))
    with pytest.raises(InputError, match=r"none of its 3 cells passed \(3 with fewer than 1000 transcripts"):
        filter_cells(section, none)


def test_genuine_section(shared_data: Path) -> None:
    from celldetr.spatial.readers import read_section

    section = read_section(shared_data / "xenium_mousebrain_subset")
    table = qc_cells(section)
    source = pd.read_csv(shared_data / "xenium_mousebrain_subset" / "cells.csv.gz")
    # The instrument's own numbers, of the same transcripts.
    assert (table["counts"].to_numpy() == source["transcript_counts"].to_numpy()).all()
    assert 0.98 < table["passed"].mean() < 1
    assert set(measures(section)) == {"counts", "genes", "cell_area_um2", "nucleus_area_um2"}
    failed = (source["transcript_counts"] < 10) | (source["cell_area"] < 10) | (table["genes"] < 5)
    assert (table["passed"] == ~failed).all()
    assert len(limits(measures(section), QualityOptions())) == 5
