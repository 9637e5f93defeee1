"""One pass over the table gives what loading it whole gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celldetr.cells.reader import open_table
from celldetr.report.statistics import (
    DIAMETER_STEP,
    PICK_COLUMNS,
    SCORE_STEP,
    Picks,
    gather,
    histogram_median,
)
from helpers.cell_tables import TYPES, random_cells, random_embeddings, write_run


def test_numbers_equal_those_of_the_whole_table(tmp_path: Path) -> None:
    cells = random_cells(700)
    table = open_table(write_run(tmp_path / "s", cells, random_embeddings(cells), row_group=90))
    found = gather(table, 0.5, examples=5)
    diameter = np.sqrt(cells["w_px"].astype(float) * cells["h_px"]) * 0.5
    for i, name in enumerate(TYPES):
        of_type = cells["type"] == name
        assert found.counts[i] == of_type.sum() == found.diameters[i].sum() == found.scores[i].sum()
        assert found.median_diameters()[i] == pytest.approx(np.median(diameter[of_type]), abs=DIAMETER_STEP)
        assert found.median_scores()[i] == pytest.approx(np.median(cells["score"][of_type]), abs=SCORE_STEP)
        expected, _ = np.histogram(diameter[of_type], np.arange(found.diameters.shape[1] + 1) * DIAMETER_STEP)
        assert np.abs(found.diameters[i] - expected).sum() <= 2  # a value on the edge of a bin may fall either way


def test_the_surest_cells_are_the_surest(tmp_path: Path) -> None:
    cells = random_cells(400)
    table = open_table(write_run(tmp_path / "s", cells, random_embeddings(cells), row_group=50))
    found = gather(table, 0.5, examples=7)
    confidence = cells["score"].astype(float) * cells["type_score"]
    for i, name in enumerate(TYPES):
        best = confidence[cells["type"] == name].nlargest(7).index
        assert np.array_equal(found.surest.cells[i], cells.loc[best, list(PICK_COLUMNS)].to_numpy(dtype=float))


def test_random_cells_are_of_their_type_and_repeatable(run: Path) -> None:
    cells = random_cells(200, size=(600, 400))
    first, again = (gather(open_table(run), 0.5, examples=9).random for _ in range(2))
    other = gather(open_table(run), 0.5, examples=9, seed=1).random
    for i, name in enumerate(TYPES):
        places = set(cells[cells["type"] == name]["x_px"])
        assert set(first.cells[i][:, 0]) <= places
        assert len(set(first.cells[i][:, 0])) == 9
        assert np.array_equal(first.cells[i], again.cells[i])
    assert any(not np.array_equal(first.cells[i], other.cells[i]) for i in range(3))


def test_a_rare_type_gives_what_it_has(tmp_path: Path) -> None:
    cells = random_cells(10)
    cells["type"] = ["lymphocyte"] * 8 + ["stromal"] * 2
    found = gather(open_table(write_run(tmp_path / "s", cells, random_embeddings(cells))), 0.5, examples=5)
    assert [len(picked) for picked in found.surest.cells] == [5, 0, 2]
    assert np.isnan(found.median_diameters()[1])


def test_values_out_of_range_are_counted_at_the_end_and_nan_nowhere(tmp_path: Path) -> None:
    cells = random_cells(3)
    cells["type"] = "stromal"
    cells.loc[0, ["w_px", "h_px"]] = 100_000.0
    cells.loc[1, "score"] = np.nan
    found = gather(open_table(write_run(tmp_path / "s", cells, random_embeddings(cells))), 0.5, examples=5)
    assert found.diameters[2, -1] == 1
    assert (found.diameters[2].sum(), found.scores[2].sum()) == (3, 2)


@given(st.lists(st.floats(0, 9.999), min_size=1, max_size=60))
def test_median_of_a_histogram(values: list[float]) -> None:
    histogram, _ = np.histogram(values, np.arange(101) * 0.1)
    # Between the two middle values any number is a median; the histogram's lies within a bin of them.
    low, high = np.quantile(values, 0.5, method="lower"), np.quantile(values, 0.5, method="higher")
    assert low - 0.1001 <= histogram_median(histogram, 0.1) <= high + 0.1001


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1000)), max_size=80), st.integers(1, 9))
def test_picks_do_not_depend_on_how_cells_are_batched(items: list[tuple[int, int]], batch: int) -> None:
    keys = np.array([key + i * 1e-4 for i, (_, key) in enumerate(items)])  # all different
    codes = np.array([code for code, _ in items], dtype=np.intp)
    cells = np.repeat(keys[:, None], len(PICK_COLUMNS), axis=1).reshape(-1, len(PICK_COLUMNS))
    picks = Picks(4, 3)
    for start in range(0, len(items), batch):
        part = slice(start, start + batch)
        picks.offer(cells[part], codes[part], keys[part])
    for code in range(3):
        assert picks.keys[code].tolist() == sorted(keys[codes == code], reverse=True)[:4]
        assert picks.cells[code][:, 0].tolist() == picks.keys[code].tolist()
