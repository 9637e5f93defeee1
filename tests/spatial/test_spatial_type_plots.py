"""Expression by type, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from celldetr.spatial.annotate.expression import correlations, mean_expression
from celldetr.spatial.cell_plots import expression_figure, markers

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
