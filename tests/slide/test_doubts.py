"""What is said of a finished slide: each doubt where it is due, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from celldetr.cells.schema import FAMILIARITY
from celldetr.model.output import TileCells
from celldetr.slide.array import predict_array
from celldetr.slide.doubts import FOREIGN, LOW, PLACES, CellFacts
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import from_array
from celldetr.slide.scale_trial import FACTORS, FEWEST, MUCH, SURER, Trial, likelier, overlap, read_window, windows
from helpers.blobs import BlobModel, blob_image, scattered

IMAGE = blob_image(scattered(500, 420, 610), 420, 610)  # discs of 11 px
OPTIONS = PredictOptions(tile=512, overlap=32, tissue=False)


class Says(BlobModel):
    """Finds the discs, with a score and a familiarity of the test's."""

    score, familiarity = 0.9, 0.5

    def _find(self, tile: NDArray[np.uint8]) -> TileCells:
        cells = super()._find(tile)
        known = np.full(len(cells), self.familiarity, np.float32)
        return replace(cells, scores=np.full(len(cells), self.score, np.float32), familiarity=known)


def said(image: NDArray[np.uint8] = IMAGE, **values: float) -> list[str]:
    model = Says()
    for name, value in values.items():
        setattr(model, name, value)
    return [text.split(":")[0] for text in predict_array(image, 0.5, model, OPTIONS).attrs["celldetr"]["warnings"]]


def sharp(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({}, []),
        ({"familiarity": 0.06}, []),
        ({"familiarity": 0.04}, ["foreign tissue"]),
        ({"score": LOW + 0.02}, []),
        ({"score": LOW - 0.02}, ["low scores"]),
        ({"score": LOW - 0.02, "familiarity": 0.01}, ["foreign tissue", "low scores"]),
    ],
)
def test_each_doubt_is_said(values: dict[str, float], texts: list[str]) -> None:
    assert said(sharp(IMAGE), **values) == texts


def test_blur_is_said() -> None:
    blurred = ndimage.gaussian_filter(sharp(IMAGE).astype(float), (3, 3, 0))
    darker = (255 - 1.3 * (255 - blurred)).clip(0, 255).astype(np.uint8)  # so that discs are still found
    assert "blur" in said(darker)


def test_few_cells_say_little() -> None:
    few = np.full((420, 610, 3), 255, np.uint8)
    few[:100, :100] = IMAGE[:100, :100]
    assert said(sharp(few), score=0.1, familiarity=0.0) == []


def a_table(scores: NDArray[np.float64], familiarity: NDArray[np.float64] | None) -> pa.Table:
    count = len(scores)
    values = {"w_px": np.full(count, 12.0), "h_px": np.full(count, 12.0), "score": scores}
    columns = {name: pa.array(value, pa.float32()) for name, value in values.items()}
    columns |= {name: pa.array(np.arange(count) * 2.0) for name in ("x_px", "y_px")}
    known = pa.nulls(count, pa.float32()) if familiarity is None else pa.array(familiarity, pa.float32())
    return pa.table(columns | {FAMILIARITY: known})


def test_facts_of_a_file_are_those_of_its_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores, familiarity = rng.random(501), rng.random(501)
    table = a_table(scores, familiarity)
    pq.write_table(table, tmp_path / "cells.parquet", row_group_size=64)
    for facts in (CellFacts.of(table, 0.5), CellFacts.of_file(tmp_path / "cells.parquet", 0.5)):
        assert facts.median_score == pytest.approx(np.median(scores), abs=0.01)
        assert facts.unfamiliar == pytest.approx((familiarity.astype(np.float32) < 0.05).mean())
        assert facts.sizes.count == (scores.astype(np.float32) >= 0.5).sum()
        assert facts.places.shape == (PLACES, 2)
        assert len(np.unique(facts.places[:, 0])) == PLACES
    assert CellFacts.of(a_table(scores, None), 0.5).unfamiliar is None
    none = CellFacts.of(a_table(np.empty(0), None), 0.5)
    assert none.unfamiliar is None
    assert len(none.places) == 0
    assert 0 < FOREIGN < 1


def test_a_likelier_resolution_needs_much_more_evidence() -> None:
    trials = [Trial(0.5 * factor, 50, 20.0, 6.0, 10.0) for factor in FACTORS]
    assert likelier(trials) is None
    trials[-1] = Trial(1.0, 50, 20.0 * SURER, 6.0, MUCH * 10 + 0.1)
    assert likelier(trials) is trials[-1]
    trials[-1] = Trial(1.0, 50, 20.0, 6.0, MUCH * 10 + 0.1)  # of nuclei of another size, and less sure
    assert likelier(trials) is None
    trials[-1] = Trial(1.0, FEWEST - 1, 30.0, 6.0, 100)
    assert likelier(trials) is None
    assert likelier([Trial(0.5 * factor, 0, 0.0, float("nan"), 0.0) for factor in FACTORS]) is None


def test_places_must_agree_and_small_images_call_factors_of_two_only() -> None:
    trials = [Trial(0.5 * factor, 60, 20.0, 6.0, 10.0, (4.0, 3.0, 3.0)) for factor in FACTORS]
    trials[1] = replace(trials[1], scores=30.0, evidence=30.0, places=(20.0, 2.0, 2.0))  # one place alone
    assert likelier(trials) is None
    trials[1] = replace(trials[1], places=(20.0, 6.0, 4.0))
    assert likelier(trials) is trials[1]
    assert likelier(trials, small=True) is None
    trials[-1] = replace(trials[-1], scores=30.0, evidence=25.0, places=(10.0, 8.0, 7.0))
    assert likelier(trials, small=True) is trials[-1]


def test_whether_places_overlap() -> None:
    assert not overlap([(0, 0, 10, 10), (10, 0, 10, 10), (0, 10, 10, 10)])
    assert overlap([(0, 0, 10, 10), (12, 0, 10, 10), (5, 5, 10, 10)])
    assert not overlap([(0, 0, 10, 10)])


def test_windows_lie_in_the_slide_and_show_what_is_there() -> None:
    reader = from_array(IMAGE, 0.5)
    places = windows(reader, np.array([[0, 0], [300, 200], [610, 420]]))
    for x, y, width, height in places:
        assert 0 <= x <= 610 - width
        assert 0 <= y <= 420 - height
    x, y, width, height = (round(value) for value in places[1])
    np.testing.assert_array_equal(read_window(reader, places[1], 0.5), IMAGE[y : y + height, x : x + width])
    doubled = read_window(reader, places[1], 0.5, 2.0)
    assert doubled is not None
    assert doubled.shape == (2 * height, 2 * width, 3)
