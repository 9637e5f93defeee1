"""Resolution and types of samples are made what a model wants, and nothing else of them changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.data.sample import UNKNOWN, Sample
from celldetr.data.sources import map_types, rescale
from celldetr.errors import InputError


def sample(width: int = 60, height: int = 40, types: tuple[int, ...] = (0, 1, UNKNOWN)) -> Sample:
    image = np.full((height, width, 3), 240, dtype=np.uint8)
    boxes = np.array([[10, 10, 20, 30], [30, 0, 60, 40], [2, 3, 4, 5]], dtype=np.float32)[: len(types)]
    for x0, y0, x1, y1 in boxes[:1].astype(int):
        image[y0:y1, x0:x1] = 20
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    return Sample("s", image, 0.5, boxes, np.array(types, dtype=np.int64), ("a", "b"), points, "p")


def dark_extent(image: np.ndarray) -> list[float]:
    """Sub-pixel extent of the dark rectangle, from sums of darkness along each axis."""
    dark = np.clip((240 - image[..., 0].astype(float)) / 220, 0, 1)
    rows, columns = dark.sum(1), dark.sum(0)
    out = []
    for profile in (columns, rows):
        filled = profile / profile.max()
        centre = (filled * (np.arange(len(filled)) + 0.5)).sum() / filled.sum()
        out.append((centre - filled.sum() / 2, centre + filled.sum() / 2))
    return [out[0][0], out[1][0], out[0][1], out[1][1]]


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 1.5))
def test_boxes_follow_the_pixels(mpp: float) -> None:
    result = rescale(sample(), mpp)
    assert result.image.shape[1] == pytest.approx(60 * 0.5 / result.mpp, abs=0.7)
    assert dark_extent(result.image) == pytest.approx(result.boxes[0].tolist(), abs=0.35)
    assert result.points == pytest.approx((result.boxes[:, :2] + result.boxes[:, 2:]) / 2, abs=1e-4)
    assert (result.boxes <= np.tile(result.image.shape[1::-1], 2)).all()


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    flat = rescale(replace(sample(), image=stripes), 2.0).image[4:-4, 4:-4]
    assert np.ptp(flat.astype(int)) <= 4
    assert flat.mean() == pytest.approx(127.5, abs=2)


def test_within_a_percent_nothing_happens() -> None:
    original = sample()
    assert rescale(original, 0.503) is original
    assert rescale(original, 0.51) is not original


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_a_resolution_must_be_positive(mpp: float) -> None:
    with pytest.raises(InputError, match="must be positive"):
        rescale(sample(), mpp)


def test_types_of_the_same_name_are_the_same() -> None:
    (result,) = map_types([sample()], ["c", "b"], None)
    assert result.types.tolist() == [UNKNOWN, 1, UNKNOWN]
    assert result.type_names == ("c", "b")


def test_types_are_mapped_merged_and_forgotten() -> None:
    names = ["x", "y"]
    assert map_types([sample()], names, {"a": "y", "b": "x"})[0].types.tolist() == [1, 0, UNKNOWN]
    assert map_types([sample()], names, {"a": "x", "b": "x"})[0].types.tolist() == [0, 0, UNKNOWN]
    assert map_types([sample()], names, {"a": "", "b": "x"})[0].types.tolist() == [UNKNOWN, 0, UNKNOWN]
    assert map_types([sample()], names, {"b": "x"})[0].types.tolist() == [UNKNOWN, 0, UNKNOWN]


def test_types_that_do_not_exist_are_errors() -> None:
    with pytest.raises(InputError, match="the dataset has no type 'q'"):
        map_types([sample()], ["x"], {"q": "x"})
    with pytest.raises(InputError, match=r"the model has no type 'xx' \(for 'a'\)"):
        map_types([sample()], ["x"], {"a": "xx"})
