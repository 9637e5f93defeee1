"""Averaging over orientations: turned and turned back is where it was, and a mean is a mean."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert

from celldetr.config import Precision
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR, Memories, Representations
from celldetr.model.detection import DetectionOutput, Detections
from celldetr.model.inference import TilePredictor
from celldetr.model.orientations import ORIENTATIONS, Orientation, merge, orientations_of
from celldetr.outlines import RADII, outline_points
from helpers.networks import TILES, assert_same, predictor

SIDE = 9  # px of a square that stands for a cell
DISTANCE = 5.0  # px of 2.5 um at 0.5 um


class Squares(torch.nn.Module):
    """Finds dark squares by looking at pixels: in each orientation the same, by construction.

    The embedding is the colour of the pixel at the box's centre in *this* orientation; the type tells whether the box
    is wider than high. ``blind`` hides a square from a view in which it lies in the left half of the image.
    """

    def __init__(self, template: CellDETR, *, blind: bool = False) -> None:
        super().__init__()
        self.config, self.detector, self.blind = template.config, template.detector, blind
        self.representer, self.outliner = template.representer, None

    def memorise(self, images: Tensor, sizes: Tensor) -> Memories:
        return Memories((images, sizes), None)  # type: ignore[arg-type]

    def detect(self, memories: Memories) -> DetectionOutput:
        images, sizes = memories.detection  # type: ignore[misc]
        boxes = torch.zeros(len(images), 4, 4)
        logits = torch.full((len(images), 4), -9.0)
        for b, (image, size) in enumerate(zip(images, sizes, strict=True)):
            for q, red in enumerate((10, 20, 30, 40)):
                y, x = (image[0] == red).nonzero().unbind(1)
                if not len(x) or (self.blind and float(x.float().mean()) < float(size[0]) / 2):
                    continue
                low, high = torch.stack([x.min(), y.min()]), torch.stack([x.max(), y.max()]) + 1
                boxes[b, q] = torch.cat([(low + high) / 2, (high - low).float()]) / size.repeat(2)
                logits[b, q] = 1.0 + q
        return DetectionOutput((Detections(boxes, logits),), None, None)

    describe = CellDETR.describe

    def represent(
        self, memories: Memories, boxes: Tensor, origin: Tensor | None = None, blocked: Tensor | None = None
    ) -> Representations:
        images, sizes = memories.detection  # type: ignore[misc]
        pixel = (
            (boxes[..., :2] * sizes[:, None]).floor().long().clamp(max=images.shape[-1] - 1)
        )  # padding lies anywhere
        index = torch.arange(len(images))[:, None]
        embeddings = images[index, :, pixel[..., 1], pixel[..., 0]].float()
        wide = boxes[..., 2] * sizes[:, None, 0] > boxes[..., 3] * sizes[:, None, 1]
        logits = torch.stack([wide, ~wide, wide], dim=-1).float()
        return Representations(embeddings, logits, ())


def squares(count: int, **changes: bool) -> TilePredictor:
    made = predictor(0.1)
    found = copy.copy(made)
    found.network = Squares(made.network, **changes)  # type: ignore[assignment]
    found.orientations = orientations_of(count)
    return found


def scene(height: int, width: int, places: list[tuple[int, int, int, int]]) -> NDArray[np.uint8]:
    """Rectangles (x, y, w, h) of red 10, 20, ... on white; green and blue tell the pixel's place."""
    image = np.full((height, width, 3), 255, np.uint8)
    for number, (x, y, w, h) in enumerate(places):
        image[y : y + h, x : x + w] = (10 * (number + 1), 7 * number, 100 + number)
    return image


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_box_lies_on_the_same_pixels_in_a_turned_image(orientation) -> None:
    image = torch.zeros(1, 1, 20, 30)
    image[0, 0, 3:8, 11:13] = 1
    box = torch.tensor([12 / 30, 5.5 / 20, 2 / 30, 5 / 20])
    turned = orientation.turn(image)
    height, width = turned.shape[2:]
    x, y, w, h = (orientation.turn_boxes(box) * torch.tensor([width, height, width, height])).tolist()
    inside = turned[0, 0, round(y - h / 2) : round(y + h / 2), round(x - w / 2) : round(x + w / 2)]
    assert inside.numel() == 10
    assert bool((inside == 1).all())
    torch.testing.assert_close(orientation.back(orientation.turn_boxes(box)), box)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_outline_turned_back_has_the_points_that_were_turned(orientation: Orientation) -> None:
    seen = torch.rand(3, RADII, generator=torch.Generator().manual_seed(0)) + 0.3
    boxes = torch.tensor([[0.3, 0.6, 0.2, 0.1], [0.5, 0.5, 0.4, 0.4], [0.8, 0.1, 0.05, 0.1]])

    def points(boxes: Tensor, radii: Tensor) -> Tensor:
        return torch.from_numpy(outline_points(box_convert(boxes, "cxcywh", "xyxy").numpy(), radii.numpy()))

    there = points(orientation.turn_boxes(boxes), seen)
    here = points(boxes, orientation.back_radii(seen))
    turned = orientation.turn_boxes(torch.cat([here, torch.zeros_like(here)], -1))[..., :2]
    for one, two in zip(turned, there, strict=True):  # the same points, from another one on, perhaps the other way
        assert float(torch.cdist(one, two).min(1).values.max()) < 1e-6
        assert float(torch.cdist(two, one).min(1).values.max()) < 1e-6


def test_orientations_differ_and_the_first_keep_a_tiles_shape() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert len({tuple(each.turn(image).flatten().tolist()) for each in ORIENTATIONS}) == 8
    assert all(each.turn(torch.zeros(1, 1, 2, 3)).shape == (1, 1, 2, 3) for each in orientations_of(4))


@pytest.mark.parametrize("count", [0, 3, 16])
def test_other_counts_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=rf"orientations={count}: expected 1, 2, 4 or 8"):
        orientations_of(count)


def test_nothing_to_put_them_together_by_is_refused() -> None:
    network = predictor().network
    with pytest.raises(InputError, match="same_nucleus_um"):
        TilePredictor(network, threshold=0.5, same_nucleus_um=0, orientations=2)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_what_is_the_same_in_all_orientations_is_found_exactly(count: int) -> None:
    places = [(2, 3, 5, 9), (40, 8, 9, 5), (21, 30, 7, 7), (47, 38, 3, 11)]
    image = scene(50, 61, places)  # neither side is a multiple of what tiles are padded to
    (found,) = squares(count).predict_tiles([image])
    found = found.take(np.argsort(found.scores))
    expected = np.array([(x, y, x + w, y + h) for x, y, w, h in places], np.float32)
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-np.arange(1.0, 5.0))), rtol=1e-5)
    colours = image[[y + h // 2 for _, y, _, h in places], [x + w // 2 for x, _, w, _ in places]]
    np.testing.assert_allclose(found.embeddings, colours, atol=0.2)


def test_types_are_averaged_over_what_each_orientation_says() -> None:
    image = scene(64, 64, [(10, 10, 9, 5)])  # wide as it is, high along the diagonal
    four, eight = (squares(count).predict_tiles([image])[0].probabilities[0] for count in (4, 8))
    assert four[0] == pytest.approx(four[2])
    assert four[0] > four[1]
    wide, high = four, four[[1, 0, 1]] / four[[1, 0, 1]].sum()
    assert eight[1] == pytest.approx((wide[1] + high[1]) / 2, abs=0.01)


def test_a_cell_that_some_orientations_miss_counts_as_zero_there() -> None:
    image = scene(64, 64, [(40, 10, SIDE, SIDE)])  # on the right as it is: on the left in half of the views
    once, twice, often = (squares(count, blind=True).predict_tiles([image])[0].scores for count in (1, 2, 4))
    np.testing.assert_allclose(twice, once / 2, rtol=1e-6)
    np.testing.assert_allclose(often, once / 2, rtol=1e-6)


def test_a_batch_and_an_empty_tile() -> None:
    images = [scene(64, 64, [(40, 10, SIDE, SIDE)]), scene(64, 64, []), scene(64, 64, [(9, 40, 5, 5), (40, 9, 5, 5)])]
    assert [len(found) for found in squares(8).predict_tiles(images)] == [1, 0, 2]
    real = TilePredictor(predictor().network, threshold=1.0, orientations=2).predict_tiles(TILES)
    assert [len(found) for found in real] == [0] * len(TILES)
    assert real[0].embeddings.shape == (0, 64)


def test_a_network_in_one_orientation_is_the_network_alone() -> None:
    """Against the steps themselves, without the predictor."""
    model = predictor(precision="32")
    image = torch.from_numpy(TILES[0].transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        memories = model.network.memorise(image)
        last = model.network.detect(memories).last
        embeddings = model.network.represent(memories, last.boxes).embeddings[0]
    (found,) = model.predict_tiles(TILES[:1])
    scores = last.logits.sigmoid()[0].numpy()
    query = [int(np.abs(scores - score).argmin()) for score in found.scores]
    np.testing.assert_allclose(found.scores, scores[query], atol=1e-5)
    np.testing.assert_allclose(found.embeddings, embeddings.numpy()[query].astype(np.float16), rtol=2e-3, atol=2e-3)


def test_turning_the_tile_turns_the_cells(precision: Precision) -> None:
    """All eight orientations of a turned tile are the same eight pictures."""
    made = predictor(0.2)
    eight = TilePredictor(made.network, threshold=0.2, orientations=8, precision=precision)
    image = TILES[1][:48, :64]
    found, mirrored = (eight.predict_tiles([each])[0] for each in (image, image[:, ::-1].copy()))
    assert len(found) > 3
    boxes = mirrored.boxes.copy()
    boxes[:, [0, 2]] = 64 - boxes[:, [2, 0]]
    moved = type(mirrored)(boxes, mirrored.scores, mirrored.probabilities, mirrored.embeddings)
    assert_same(found, moved, 2e-3 if precision == "32" else 8e-3)  # bfloat16 has steps of 2 to the -8


# On a grid of 8 px, up to 2 px off: within a view 6 px apart at least.
place = st.tuples(st.integers(0, 5), st.integers(0, 5))
cells = st.dictionaries(
    place, st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0.125, 1, width=32)), max_size=12
)


@settings(deadline=None)
@given(st.lists(cells, min_size=1, max_size=4))
def test_merging_loses_no_score_and_finds_what_is_at_each_place(
    views: list[dict[tuple[int, int], tuple[int, int, float]]],
) -> None:
    boxes = [
        np.array([(8 * i + x, 8 * j + y, 4, 4) for (i, j), (x, y, _) in view.items()], np.float32).reshape(-1, 4)
        for view in views
    ]
    scores = [np.array([score for *_, score in view.values()], np.float32) for view in views]
    merged, score = merge(boxes, scores, DISTANCE)
    assert len(merged) == len(set().union(*views))
    for (x, y, w, h), found in zip(merged, score, strict=True):
        i, j = int((x + 1) // 8), int((y + 1) // 8)
        here = [view[i, j] for view in views if (i, j) in view]
        assert found == pytest.approx(sum(each for *_, each in here) / len(views), rel=1e-5)
        weights = [each for *_, each in here]
        assert x - 8 * i == pytest.approx(np.average([dx for dx, *_ in here], weights=weights), abs=1e-4)
        assert y - 8 * j == pytest.approx(np.average([dy for _, dy, _ in here], weights=weights), abs=1e-4)
        assert (w, h) == (4, 4)


def test_the_nearest_of_each_orientation_is_taken() -> None:
    first = np.array([[10, 10, 4, 6]], np.float32)
    second = np.array([[13, 10, 8, 8], [11, 10, 8, 2]], np.float32)
    boxes, scores = merge([first, second], [np.array([0.9], np.float32), np.array([0.3, 0.3], np.float32)], DISTANCE)
    np.testing.assert_allclose(boxes, [[10.25, 10, 5, 5], [13, 10, 8, 8]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.6, 0.15], rtol=1e-6)


def test_turning_the_tile_turns_the_outlines() -> None:
    made = predictor(0.2, outlines=True)
    torch.nn.init.normal_(made.network.outliner.radii.weight, std=0.3)
    eight = TilePredictor(made.network, threshold=0.2, orientations=8, precision="32")
    image = TILES[1][:48, :64]
    found, mirrored = (eight.predict_tiles([each])[0] for each in (image, image[:, ::-1].copy()))
    assert found.radii is not None
    assert mirrored.radii is not None
    assert found.radii.std(1).min() > 0.005  # no ellipses
    here, there = (outline_points(cells.boxes, cells.radii.astype(float)) for cells in (found, mirrored))
    there = (there * [-1, 1] + [64, 0])[:, (RADII // 2 - np.arange(RADII)) % RADII]
    assert len(here) == len(there) > 3
    nearest = np.abs(here[:, None] - there[None]).max((2, 3)).argmin(1)
    np.testing.assert_allclose(here, there[nearest], atol=0.02)
