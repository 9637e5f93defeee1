"""A slide whose stated resolution makes its nuclei implausible says so, and no other does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from celldetr.slide.array import predict_array
from celldetr.slide.nucleus_size import CONFIDENT, ENOUGH, LEAST, MOST, STEP, NucleusSizes
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import from_array
from helpers.blobs import BlobModel, blob_image, scattered
from helpers.runs import run_slide

IMAGE = blob_image(scattered(500, 420, 610), 420, 610)  # discs of 11 px
OPTIONS = PredictOptions(tile=512, overlap=32, tissue=False)


def rows(width: NDArray[np.float64], height: NDArray[np.float64], score: NDArray[np.float64]) -> pa.Table:
    values = {"w_px": width, "h_px": height, "score": score}
    return pa.table({name: pa.array(value, pa.float32()) for name, value in values.items()})


def of(size: float, count: int, score: float = 0.9, mpp: float = 0.5) -> NucleusSizes:
    """Nuclei twice as wide as high, of a size in micrometres."""
    sizes = NucleusSizes(mpp)
    side = np.full(count, size / mpp)
    sizes.add(rows(side * 2**0.5, side / 2**0.5, np.full(count, score)))
    return sizes


cells = st.tuples(st.floats(1, 60), st.floats(1, 60), st.floats(0, 1, width=32))


@settings(deadline=None)
@given(st.lists(cells, min_size=1, max_size=40), st.integers(0, 40))
def test_the_median_is_that_of_the_confident_cells(drawn: list[tuple[float, float, float]], cut: int) -> None:
    table = rows(*np.array(drawn).T)
    sizes = NucleusSizes(0.5)
    for part in (table.slice(0, cut), table.slice(cut)):
        sizes.add(part)
    width, height, score = (table[name].to_numpy().astype(np.float64) for name in ("w_px", "h_px", "score"))
    wanted = np.sort(np.sqrt(width * height)[score >= CONFIDENT] * 0.5)
    assert sizes.count == len(wanted)
    if len(wanted):  # of an even number of cells, either of the two in the middle or what lies between
        low, high = wanted[(len(wanted) - 1) // 2], wanted[len(wanted) // 2]
        assert low - STEP <= sizes.median <= high + STEP
    else:
        assert np.isnan(sizes.median)


@pytest.mark.parametrize(("size", "doubted"), [(LEAST - 0.2, 1), (LEAST + 0.2, 0), (MOST - 0.2, 0), (MOST + 0.2, 1)])
def test_sizes_beyond_the_bounds_are_doubted(size: float, doubted: int) -> None:
    assert len(of(size, ENOUGH).warnings()) == doubted


def test_few_cells_or_doubtful_ones_say_nothing() -> None:
    assert of(20.0, ENOUGH - 1).warnings() == []
    assert of(20.0, 10 * ENOUGH, score=0.4).warnings() == []
    assert NucleusSizes(0.5).warnings() == []


def test_the_sentence_names_the_value_what_was_expected_and_what_to_do() -> None:
    (small,), (large,) = of(3.0, ENOUGH, mpp=0.25).warnings(), of(11.0, ENOUGH, mpp=0.5).warnings()
    for sentence, size, mpp, rather in ((small, "3.0 um", "0.25", "0.5"), (large, "11.0 um", "0.5", "0.25")):
        assert re.search(rf"{size}.* {mpp} um per pixel.* {rather}\?", sentence)
        assert "`mpp" in sentence


@pytest.mark.parametrize(("mpp", "says"), [(0.5, None), (0.25, "come out small"), (1.0, "come out large")])
def test_a_run_says_it_where_people_look(mpp: float, says: str | None, tmp_path: Path) -> None:
    summary = run_slide(from_array(IMAGE, mpp, "discs"), BlobModel(), tmp_path, OPTIONS)
    assert summary.cells > ENOUGH
    run = json.loads((summary.directory / "run.json").read_text())
    array = predict_array(IMAGE, mpp, BlobModel(), OPTIONS)
    assert list(summary.warnings) == run["warnings"] == array.attrs["celldetr"]["warnings"]
    # Discs are found as surely at any resolution, so that no other is called likelier.
    sentences = [sentence for sentence in summary.warnings if "rather near 0.5" in sentence]
    assert [says in sentence for sentence in sentences] == ([] if says is None else [True])
