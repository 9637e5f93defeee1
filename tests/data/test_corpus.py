"""The corpus of labels from everywhere: each case reads as its twin does, or is refused with a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import corpus.coco_files
import corpus.columns
import corpus.geojson
import corpus.pictures
import corpus.programs
import corpus.sets
import corpus.tables
import corpus.variants  # noqa: F401
from corpus.run import reading, run
from corpus.scene import CASES, NUCLEI, Case, coco_twin, points_twin, qupath_twin


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_silently_wrong(case: Case, tmp_path: Path) -> None:
    got, difference = run(case, tmp_path)
    said = "; ".join([got.refusal, *got.notes])
    assert not difference, said
    if case.must != "either":
        assert bool(got.refusal) == (case.must == "refused"), said
    assert case.says is None or re.search(case.says, said), said


@pytest.mark.parametrize("twin", [coco_twin, points_twin, qupath_twin])
def test_what_is_in_order_is_read_without_a_word(twin: object, tmp_path: Path) -> None:
    got = reading(twin(tmp_path))  # type: ignore[operator]
    assert (got.refusal, got.notes) == ("", [])
    places = sorted((round(n.x, 1), round(n.y, 1), n.kind) for n in NUCLEI)
    ((name, cells),) = got.cells.items()
    assert name == "a"
    assert [kind for *_, kind in cells] == [kind for *_, kind in places]
    assert all(abs(a[0] - b[0]) < 0.1 and abs(a[1] - b[1]) < 0.1 for a, b in zip(cells, places, strict=True))
