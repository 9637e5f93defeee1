"""Tiles in, cells out: order, bounds, and that a tile's cells are its own."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert

from celldetr.cells.rows import cell_rows
from celldetr.config import Precision
from celldetr.errors import InputError
from celldetr.model.inference import TilePredictor, padded
from celldetr.model.memory import Memory
from celldetr.model.outline import LARGEST, OutlineHead
from celldetr.model.output import TileCells
from celldetr.outlines import RADII
from helpers.networks import THRESHOLD, TILES, assert_same, predictor


@pytest.fixture(scope="module")
def model(precision: Precision) -> TilePredictor:
    return predictor(precision=precision)


@pytest.fixture(scope="module")
def cells(model: TilePredictor) -> list[TileCells]:
    return model.predict_tiles(TILES)


def test_no_tiles_no_cells(model: TilePredictor) -> None:
    assert model.predict_tiles([]) == []


def test_cells_are_what_their_type_says(cells: list[TileCells]) -> None:
    assert sum(map(len, cells)) > 10
    for found in cells:
        n = len(found)
        assert (found.boxes.shape, found.boxes.dtype) == ((n, 4), np.float32)
        assert (found.scores.shape, found.scores.dtype) == ((n,), np.float32)
        assert (found.probabilities.shape, found.probabilities.dtype) == ((n, 3), np.float32)
        assert (found.embeddings.shape, found.embeddings.dtype) == ((n, 64), np.float16)


def test_boxes_have_a_size_and_lie_in_their_tile(cells: list[TileCells]) -> None:
    for found, image in zip(cells, TILES, strict=True):
        height, width = image.shape[:2]
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_probabilities_sum_to_one_and_keep_the_order_of_the_logits(cells: list[TileCells]) -> None:
    probabilities = np.concatenate([found.probabilities for found in cells])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (probabilities >= 0).all()


def test_probabilities_sum_to_one_however_unlikely_all_types_are() -> None:
    model = predictor()
    torch.nn.init.constant_(model.network.type_head.bias, -200.0)
    found = model.predict_tiles(TILES[:1])[0]
    assert len(found)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)


def test_threshold_is_respected(model: TilePredictor, cells: list[TileCells]) -> None:
    assert all((found.scores >= THRESHOLD).all() for found in cells)
    precision: Precision = "bf16" if model.bf16 else "32"
    middle = np.sort(cells[0].scores)[len(cells[0]) // 2 - 1 :][:2]
    higher = float(middle.mean())  # between two scores: one tile alone is rounded otherwise than two together
    fewer = predictor(higher, precision).predict_tiles(TILES[:1])[0]
    assert 0 < len(fewer) < len(cells[0])
    assert_same(cells[0].take(cells[0].scores >= higher), fewer)
    nothing = predictor(1.0, precision).predict_tiles(TILES)
    assert [len(found) for found in nothing] == [0] * len(TILES)
    assert nothing[0].probabilities.shape == (0, 3)
    assert nothing[0].embeddings.shape == (0, 64)


@pytest.mark.parametrize("changes", [{}, {"self_attention": "after_first"}])
def test_a_tile_alone_gives_what_it_gives_in_a_batch(changes: dict[str, object], precision: Precision) -> None:
    model = predictor(precision=precision, **changes)
    together = model.predict_tiles(TILES)
    tolerance = 2e-3 if precision == "32" else 3e-2  # in bfloat16, a few of the last bits of numbers near 1
    for i in (0, 1, 2):
        assert_same(together[i], model.predict_tiles([TILES[i]])[0], tolerance)


def test_order_is_kept_when_sizes_are_mixed(model: TilePredictor, cells: list[TileCells]) -> None:
    for found, expected in zip(model.predict_tiles(TILES[::-1]), cells[::-1], strict=True):
        assert_same(found, expected)


def test_a_query_that_is_not_a_number_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = predictor()
    expected = model.predict_tiles(TILES[:1])[0]
    head = model.network.detector.heads[-1]
    original = head.forward

    def broken(content: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, delta = original(content)
        return torch.where(logits < 0, torch.nan, logits), delta

    monkeypatch.setattr(head, "forward", broken)
    assert_same(model.predict_tiles(TILES[:1])[0], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_tile_is_refused(model: TilePredictor, wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"tile 1.*\(H, W, 3\) uint8"):
        model.predict_tiles([TILES[0], wrong])


def test_description_is_json_and_names_the_model(model: TilePredictor) -> None:
    made = TilePredictor(model.network, threshold=np.float32(0.5), card=model.card, precision="32")
    facts = json.loads(json.dumps(made.describe()))
    assert facts == {
        "name": "toy",
        "sha256": "ab",
        "threshold": 0.5,
        "mpp": 0.5,
        "types": ["a", "b", "c"],
        "same_nucleus_um": 2.5,
        "nested_share": 0.8,
        "orientations": 1,
        "precision": "float32",
    }


@pytest.mark.parametrize(
    ("coordinates", "recipe", "side"),
    [
        ("pixels", {"augment": {"crop": 256}}, None),
        ("image", {"augment": {"crop": 256}}, 256),
        ("image", {}, None),  # a card may have been written by anybody
        ("image", {"augment": {"crop": "256"}}, None),
    ],
)
def test_a_model_knows_the_size_of_its_images(
    monkeypatch: pytest.MonkeyPatch, model: TilePredictor, coordinates: str, recipe: object, side: int | None
) -> None:
    network = SimpleNamespace(config=model.network.config.model_copy(update={"coordinates": coordinates}))
    monkeypatch.setattr(model, "network", network)
    monkeypatch.setattr(model, "card", {"recipe": recipe})
    assert model.image_px == side


def test_bfloat16_finds_about_the_same(model: TilePredictor) -> None:
    half = TilePredictor(model.network, threshold=0.0, precision="bf16").predict_tiles(TILES[:1])[0]
    full = TilePredictor(model.network, threshold=0.0, precision="32").predict_tiles(TILES[:1])[0]
    assert half.embeddings.dtype == np.float16
    assert half.scores.mean() == pytest.approx(full.scores.mean(), abs=0.05)


def test_outlines_go_into_the_table_as_they_are_drawn(precision: Precision) -> None:
    model = predictor(precision=precision, outlines=True)
    torch.nn.init.normal_(model.network.outliner.radii.weight, std=0.2)
    for drawn, tile in zip(model.predict_tiles(TILES), TILES, strict=True):
        assert drawn.radii is not None
        assert drawn.radii.shape == (len(drawn), RADII)
        rows = cell_rows(drawn, model.types, (0.5, 0.5))
        shapes = shapely.from_wkb(rows["geometry"].to_pylist())
        assert (shapely.get_num_coordinates(shapes) == RADII + 1).all()
        centre, half = (drawn.boxes[:, :2] + drawn.boxes[:, 2:]) / 2, (drawn.boxes[:, 2:] - drawn.boxes[:, :2]) / 2
        furthest = ((shapely.bounds(shapes)[:, 2:] - centre) / half).max()
        assert 1.01 < furthest <= LARGEST + 1e-3  # not cut to the boxes
        # One at a time as together, from the pixels of the tile.
        images = model.network.normalise(torch.from_numpy(tile.transpose(2, 0, 1).copy())[None])
        sizes = torch.tensor([[tile.shape[1], tile.shape[0]]], dtype=torch.float32)
        boxes = box_convert(torch.from_numpy(drawn.boxes) / sizes.repeat(1, 2), "xyxy", "cxcywh")[None]
        with torch.no_grad():
            stride = model.network.config.strides[-1]
            seen = model.network.memorise(*padded(images, stride))
            alone = model.network.outline(seen, boxes)[0]
        np.testing.assert_allclose(drawn.radii, alone.numpy(), atol=0.03)


def test_boxes_alone_do_not_run_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    network = predictor(outlines=True).network
    drawn = TilePredictor(network, threshold=0.5, precision="32")
    plain = TilePredictor(network, threshold=0.5, precision="32", outlines=False)
    monkeypatch.setattr(OutlineHead, "forward", None)
    (found,) = plain.predict_tiles(TILES[:1])
    assert found.radii is None
    assert (plain.describe()["outlines"], drawn.describe()["outlines"]) == (False, True)
    assert "outlines" not in predictor().describe()
    with pytest.raises(TypeError):
        drawn.predict_tiles(TILES[:1])


def test_only_cells_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, forward, seen = predictor(outlines=True), OutlineHead.forward, []

    def spy(self: OutlineHead, images: Tensor, memory: Memory, boxes: Tensor, valid: Tensor) -> Tensor:
        seen.append((boxes.shape[1], int(valid.sum())))
        return forward(self, images, memory, boxes, valid)

    monkeypatch.setattr(OutlineHead, "forward", spy)
    found = model.predict_tiles([TILES[0], TILES[2]])
    assert seen == [(max(map(len, found)), sum(map(len, found)))]
