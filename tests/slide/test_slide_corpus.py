"""The corpus of slides: each is read as its twin, or refused, or read with a doubt that says what is wrong."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray

from celldetr.errors import InputError
from corpus.scene import Case
from corpus.slides import FINE, SLIDES, Make, seen, twin
from helpers.synthetic import draw

NEAR_UM = 0.5


@cache
def expected_places(twin: Make) -> NDArray[np.float64]:
    """Of a twin, which several cases have."""
    with TemporaryDirectory() as folder:
        return seen(twin(Path(folder)))[0]


@pytest.mark.parametrize("case", SLIDES, ids=lambda case: case.name)
def test_no_slide_is_silently_wrong(case: Case, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    if case.must == "refused":
        with pytest.raises(InputError, match=case.says):
            seen(path, case.mpp)
        return
    places, notes = seen(path, case.mpp)
    assert bool(notes) == bool(case.says), notes
    assert re.search(case.says or "", "; ".join(notes)), notes
    if case.must == "read":
        assert case.twin is not None
        expected = expected_places(case.twin)
        assert len(places) == len(expected)
        assert all(np.hypot(*(expected - place).T).min() < NEAR_UM for place in places)


def test_the_twin_is_read_in_place_and_without_a_word(tmp_path: Path) -> None:
    places, notes = seen(twin(tmp_path))
    true = draw(FINE, FINE)[1] * FINE
    assert notes == []
    assert len(places) == len(true)
    assert all(np.hypot(*(true - place).T).min() < NEAR_UM for place in places)
