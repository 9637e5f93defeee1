"""Given cells that do not lie on nuclei are noticed: refused where it is known how they count, else doubted."""

from __future__ import annotations

import numpy as np
import pytest

from celldetr.errors import InputError
from celldetr.given.cells import from_boxes
from celldetr.given.places import check_places
from celldetr.slide.reader import from_array
from corpus.scene import HEIGHT, MPP, NUCLEI, WIDTH, pixels

BOXES = np.array([n.box for n in NUCLEI])
CENTRES = (BOXES[:, :2] + BOXES[:, 2:]) / 2
SLIDE = from_array(pixels(), MPP)


@pytest.mark.parametrize("boxes", [BOXES, CENTRES])
def test_cells_on_nuclei_pass_without_a_word(boxes: np.ndarray) -> None:
    assert check_places(from_boxes(boxes), SLIDE) == []


@pytest.mark.parametrize(
    ("boxes", "way"),
    [
        (BOXES * MPP, "they were micrometres"),
        (CENTRES * [1, -1] + [0, HEIGHT], "y counted from the bottom"),
        (CENTRES * [-1, 1] + [WIDTH, 0], "the image were mirrored"),
        (CENTRES / 2, "they were micrometres|half as fine"),
    ],
)
def test_cells_that_count_otherwise_are_refused(boxes: np.ndarray, way: str) -> None:
    with pytest.raises(InputError, match=f"do not lie on nuclei .*{way}"):
        check_places(from_boxes(boxes), SLIDE)


def test_cells_of_another_slide_are_doubted() -> None:
    (doubt,) = check_places(from_boxes(BOXES + 12), SLIDE)
    assert "no darker places than chance" in doubt
    assert "no darker places" in check_places(from_boxes(BOXES[:20] + 12), SLIDE)[0]
    assert check_places(from_boxes(BOXES[:4] + 12), SLIDE) == []  # too few to say


@pytest.mark.parametrize("cells", [BOXES[:6], BOXES[:2], CENTRES[:6], CENTRES[:1]])
def test_few_cells_in_micrometres_are_doubted(cells: np.ndarray) -> None:
    assert check_places(from_boxes(cells), SLIDE) == []
    (doubt,) = check_places(from_boxes(cells * MPP), SLIDE)
    assert "darker places if they were micrometres" in doubt
