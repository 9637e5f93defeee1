"""A cell's boxes in two views are of the same cell, and views depend on seed and index alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.config import AugmentConfig, ContrastiveConfig
from celldetr.data.dataset import MOST_CELLS, TrainingImage
from celldetr.data.sample import Sample
from celldetr.data.views import ViewSet, collate_views

PLAIN = AugmentConfig(crop=64, stain_p=0, colour_p=0, blur_p=0)  # geometry only
STYLED = AugmentConfig(crop=64)
TWO = ContrastiveConfig(shift=0.3, zoom=1.5)
# Far from each other and from white: a cell is known by its colour.
COLOURS = np.array([(r, g, b) for r in (0, 110, 220) for g in (0, 110, 220) for b in (0, 120)], np.int64)


def mosaic(seed: int, width: int = 130, height: int = 110) -> Sample:
    """A rectangle of a colour of its own in each field of a grid, on white."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 255, np.uint8)
    boxes = []
    for i, colour in enumerate(rng.permutation(COLOURS)):
        x0, y0 = 20 * (i % 6) + rng.integers(2, 8), 30 * (i // 6) + rng.integers(2, 14)
        x1, y1 = x0 + rng.integers(8, 13), y0 + rng.integers(8, 15)
        image[y0:y1, x0:x1] = colour
        boxes.append([x0, y0, x1, y1])
    at = np.array(boxes, np.float32)
    types = rng.integers(-1, 2, len(at))
    return Sample(f"m{seed}", image, 0.5, at, types, ("a", "b"), (at[:, :2] + at[:, 2:]) / 2)


def colours(view: TrainingImage) -> dict[int, tuple[int, ...]]:
    """Of each cell that is in the view for more than a sliver, the colour in the middle of its box."""
    found = {}
    boxes, cells = view.targets.boxes * view.image.shape[2], view.targets.identities
    for (x, y, w, h), cell in zip(boxes.tolist(), cells.tolist(), strict=True):
        if min(w, h) >= 5:
            pixel = view.image[:, int(y), int(x)].numpy().astype(int)
            found[cell] = tuple(COLOURS[np.abs(COLOURS - pixel).sum(1).argmin()])
            assert np.abs(np.array(found[cell]) - pixel).max() < 60  # not the white between cells
    return found


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), index=st.integers(0, 30))
def test_the_two_boxes_of_a_cell_are_of_one_cell(seed: int, index: int) -> None:
    samples = [mosaic(seed), mosaic(seed + 1)]
    first, second = ViewSet(samples, PLAIN, TWO, seed, 31)[index]
    (chosen,) = {cell // MOST_CELLS for view in (first, second) for cell in view.targets.identities.tolist()}
    sample = samples[chosen]
    for view in (first, second):
        for cell, colour in colours(view).items():
            x, y = sample.points[cell % MOST_CELLS].astype(int)
            assert colour == tuple(sample.image[y, x])
    one, other = colours(first), colours(second)
    assert all(one[cell] == other[cell] for cell in one.keys() & other.keys())


def test_most_cells_are_in_both_views_which_are_not_the_same() -> None:
    views = ViewSet([mosaic(0)], STYLED, ContrastiveConfig(), 0, 40)
    pairs = [[view.targets.identities for view in views[index]] for index in range(40)]
    shared = [len(np.intersect1d(a, b)) / max(len(a), 1) for a, b in pairs]
    assert np.mean(shared) > 0.6
    assert min(shared) < 1
    assert not any(torch.equal(a.image, b.image) for a, b in map(views.__getitem__, range(40)))


def test_without_differences_the_views_are_the_same() -> None:
    still = AugmentConfig(crop=64, scale=(1, 1), orientations=False, stain_p=0, colour_p=0, blur_p=0)
    for index in range(5):
        first, second = ViewSet([mosaic(0)], still, ContrastiveConfig(shift=0, zoom=1), 0, 5)[index]
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.targets.boxes, second.targets.boxes)


def test_views_depend_on_seed_and_index_alone() -> None:
    samples = [mosaic(0), mosaic(1)]
    one = ViewSet(samples, STYLED, TWO, 7, 6)
    again = {index: ViewSet(samples, STYLED, TWO, 7, 9)[index] for index in (4, 0, 2)}
    for index, views in again.items():
        for view, same in zip(views, one[index], strict=True):
            assert torch.equal(view.image, same.image)
            assert torch.equal(view.targets.boxes, same.targets.boxes)
            assert torch.equal(view.targets.identities, same.targets.identities)
    images = [one[index][0].image for index in range(6)] + [ViewSet(samples, STYLED, TWO, 8, 6)[0][0].image]
    assert not any(torch.equal(a, b) for a, b in pairwise(images))
    with pytest.raises(IndexError):
        one[6]


def test_a_batch_has_all_first_views_and_then_all_second_ones() -> None:
    views = ViewSet([mosaic(0), mosaic(1)], STYLED, TWO, 0, 3)
    items = [views[index] for index in range(3)]
    batch = collate_views(items)
    assert batch.images.shape == (6, 3, 64, 64)
    for place, item in enumerate(items):
        for v, view in enumerate(item):
            assert torch.equal(batch.images[3 * v + place], view.image)
            assert batch.targets[3 * v + place] is view.targets
    released = ViewSet([mosaic(0)], STYLED, ContrastiveConfig(views="released"), 0, 3)
    assert collate_views([released[0], released[1]]).images.shape == (2, 3, 64, 64)


def test_an_image_smaller_than_its_crop_and_one_without_cells() -> None:
    small = mosaic(0, 130, 110)
    bare = Sample("bare", small.image, 0.5, small.boxes[:0], small.types[:0], ("a", "b"), small.points[:0])
    large = AugmentConfig(crop=160, scale=(0.8, 1.0), stain_p=0, colour_p=0, blur_p=0)
    first, second = ViewSet([small], large, TWO, 3, 1)[0]
    one, other = colours(first), colours(second)
    assert len(one.keys() & other.keys()) == len(small)
    assert one == other
    assert [len(view.targets) for view in ViewSet([bare], STYLED, TWO, 0, 1)[0]] == [0, 0]
