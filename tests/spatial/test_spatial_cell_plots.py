"""Figures of the quality and the types of cells, and expression by type against plain loops."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.sparse import csr_matrix

from celldetr.spatial.annotate.expression import correlations, mean_expression
from celldetr.spatial.cell_plots import expression_figure, markers, qc_figure
from celldetr.spatial.qc import QualityOptions, qc_cells
from celldetr.spatial.section import Section

NAMES = ("a", "b", "none of it")


def test_mean_expression_is_the_mean_over_cells() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (30, 8)).astype(np.float32)
    counts[3] = 0  # a cell without a transcript
    kinds = np.array(["a", "b", ""] * 10, dtype=object)
    found = mean_expression(csr_matrix(counts), kinds, NAMES)
    for k, name in enumerate(NAMES[:2]):
        rows = [
            np.log1p(1000 * row / max(row.sum(), 1)) for row, kind in zip(counts, kinds, strict=True) if kind == name
        ]
        np.testing.assert_allclose(found[k], np.mean(rows, axis=0), rtol=1e-6)
    assert np.isnan(found[2]).all()


def test_markers_lead_over_the_second_type() -> None:
    profiles = np.array([[5.0, 1, 3, 0], [1, 4, 3, 0], [0, 0, 2.5, 6]])
    assert markers(profiles, 1).ravel().tolist() == [0, 1, 3]  # not gene 2, which all have


def test_correlations_are_of_what_types_do_not_share() -> None:
    rng = np.random.default_rng(1)
    common, own = rng.uniform(0, 5, 200), rng.normal(0, 1, (4, 200))
    reference = common + own
    same = correlations(common * 2 + own + rng.normal(0, 0.1, own.shape), reference)
    assert (np.diag(same) > 0.98).all()
    assert (same[~np.eye(4, dtype=bool)] < 0).all()  # that of raw expression would be high everywhere
    assert np.corrcoef(reference[0], reference[1])[0, 1] > 0.5


@pytest.mark.parametrize("missing", [[], [1], [0, 1, 2]])
def test_the_figure_is_drawn_whatever_types_are_missing(missing: list[int]) -> None:
    rng = np.random.default_rng(2)
    section = rng.uniform(0, 3, (3, 12))
    section[missing] = np.nan
    figure = expression_figure(section, rng.uniform(0, 3, (3, 12)), [f"G{i}" for i in range(12)], NAMES)
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert rows == [name for k, name in enumerate(NAMES) if k not in missing or len(missing) == 3]


def a_section(counts: np.ndarray, **columns: np.ndarray) -> Section:
    places = np.random.default_rng(0).uniform(0, 500, (len(counts), 2))
    obs = pd.DataFrame({"x_um": places[:, 0], "y_um": places[:, 1], **columns})
    obs.index = [f"c{i}" for i in range(len(counts))]
    return Section("s", anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs))


def test_figure_shows_limits_and_failures() -> None:
    rng = np.random.default_rng(2)
    counts = rng.poisson(rng.uniform(0.2, 8, (400, 1)), (400, 12))
    section = a_section(counts, cell_area_um2=rng.uniform(5, 300, 400))
    options = QualityOptions(max_counts=90)
    table = qc_cells(section, options)
    figure = qc_figure(section, table, options)
    histograms, places = figure.axes[:4], figure.axes[4]
    lines = [[float(line.get_xdata()[0]) for line in axes.lines] for axes in histograms]
    assert lines[:2] == [[10, 90], [5]]
    assert lines[2] == [10, 2000]
    assert histograms[3].texts[0].get_text() == "not known"
    shown = {group.get_label(): len(group.get_offsets()) for group in places.collections}
    assert sum(shown.values()) == 400
    assert shown[f"passed ({table['passed'].sum():,})"] == table["passed"].sum()
    bars = sum(patch.get_height() for patch in histograms[0].patches)
    assert bars == 400
    assert places.yaxis_inverted()
    figure.canvas.draw()


def test_figure_where_nothing_is_known() -> None:
    section = a_section(np.zeros((3, 2)))
    figure = qc_figure(section, qc_cells(section), QualityOptions())
    assert "0 of 3 cells pass" in figure.get_suptitle()
    figure.canvas.draw()
