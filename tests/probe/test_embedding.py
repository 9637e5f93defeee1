"""What is embedded: the same vectors as in a run, whole or in pieces; crops and hand-made features of known shapes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy.ndimage import map_coordinates

from celldetr.config import ModelConfig, Precision
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.model.at_boxes import cuts, embed_boxes
from celldetr.model.backbone import LITE0, imagenet_lite0
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, save_checkpoint
from celldetr.model.inference import TilePredictor
from celldetr.probe.crops import CROP_PX, CropEmbedder, cut
from celldetr.probe.handmade import FEATURES, handmade_features, nucleus_mask
from celldetr.probe.methods import methods, refuse_queries
from celldetr.probe.pooled import PooledEmbedder
from helpers.sample_crop import crop, default_model


def sample(image: np.ndarray, boxes: list[list[float]] | np.ndarray) -> Sample:
    found = np.asarray(boxes, np.float32).reshape(-1, 4)
    types = np.zeros(len(found), np.int64)
    return Sample("s", image, 0.4, found, types, ("a",), (found[:, :2] + found[:, 2:]) / 2)


@pytest.mark.slow
def test_boxes_that_a_run_found_have_the_embeddings_of_the_run(native_precision: Precision) -> None:
    model, image = default_model(native_precision), crop()
    (cells,) = model.predict_tiles([image])
    inside = ((cells.boxes > 1) & (cells.boxes < 299)).all(1)  # others were clipped to the tile after they were read
    assert inside.sum() > 30
    mine = embed_boxes(model, image, cells.boxes)[inside]
    theirs = cells.embeddings[inside].astype(np.float32)
    assert np.abs(mine - theirs).max() < 0.02 * np.abs(theirs).max()
    shifted = embed_boxes(model, image, cells.boxes + 6)[inside]
    assert np.abs(shifted - theirs).max() > 0.2 * np.abs(theirs).max()


def test_pieces_give_nearly_what_the_whole_gives_and_order_stays(native_precision: Precision) -> None:
    model, image = default_model(native_precision), crop()
    (cells,) = model.predict_tiles([image])
    boxes = np.concatenate([cells.boxes, [[-5, -5, 4, 6], [290, 280, 320, 330], [400, 400, 410, 410]]])
    whole = embed_boxes(model, image, boxes)
    pieces = embed_boxes(model, image, boxes, largest=128)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (whole, pieces))
    own = (a * b).sum(1)
    assert np.median(own) > 0.99
    order = np.random.default_rng(0).permutation(len(boxes))
    assert np.allclose(embed_boxes(model, image, boxes[order]), whole[order], atol=1e-3)
    assert embed_boxes(model, image, boxes[:0]).shape == (0, model.embedding_dim)


@pytest.mark.parametrize(("size", "largest"), [(300, 128), (1250, 1280), (1281, 1280), (64, 64), (1, 64)])
def test_cuts_cover_everything_once(size: int, largest: int) -> None:
    found = cuts(size, largest)
    assert found[0][0] == 0
    assert found[-1][1] == size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    assert all(low % 64 == 0 and low < high <= low + largest + 64 for low, high in found)


def test_the_network_of_crops_is_timms() -> None:
    image = crop()
    embed = CropEmbedder(CROP_PX, torch.device("cpu"))
    boxes = [[50, 60, 70, 80], [0, 0, 10, 10], [280, 290, 300, 300]]
    mine = embed(sample(image, boxes))
    full = timm.create_model(LITE0, pretrained=False, num_classes=0).eval()
    full.load_state_dict({k: v for k, v in imagenet_lite0().state_dict().items() if "classifier" not in k})
    patch = image[70 - 32 : 70 + 32, 60 - 32 : 60 + 32].copy()
    with torch.no_grad():
        theirs = full(torch.from_numpy(patch).permute(2, 0, 1)[None].float() / 127.5 - 1).numpy()
    assert mine.shape == (3, 1280)
    assert np.allclose(mine[0], theirs[0], atol=1e-3)
    assert embed(sample(image, [])).shape == (0, 1280)


def test_crops_are_centred_and_mirrored() -> None:
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    crops = cut(image, np.array([[8, 6, 12, 10], [-4, -4, 4, 4]], np.float32), 8)
    assert (crops[0] == image[4:12, 6:14]).all()
    assert (crops[1, 4:, 4:] == image[:4, :4]).all()
    assert (crops[1, 3, 4:] == image[0, :4]).all()


def test_measures_of_a_disc_are_those_of_a_disc() -> None:
    image = np.full((80, 80, 3), (235, 190, 215), np.uint8)
    yy, xx = np.ogrid[:80, :80]
    image[np.hypot(xx - 40, yy - 40) <= 10] = (70, 40, 120)
    image[(np.abs(xx - 40) <= 3) & (np.abs(yy - 40) <= 3)] = (235, 190, 215)  # a pale centre is filled
    (row,) = handmade_features(sample(image, [[27, 27, 54, 54]]))
    told = dict(zip(FEATURES, row, strict=True))
    assert told["area"] == pytest.approx(np.pi * (10 * 0.4) ** 2, rel=0.05)
    assert told["axis_major_length"] == pytest.approx(20 * 0.4, rel=0.08)
    assert told["eccentricity"] < 0.1
    assert told["solidity"] > 0.9  # the hull of pixels is wider than they are
    assert told["box_width"] == pytest.approx(27 * 0.4)
    assert told["mean_haematoxylin"] > 3 * told["ring_mean_haematoxylin"]
    assert np.isfinite(row).all()


def test_measures_exist_for_every_box() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
    white = np.full((40, 40, 3), 255, np.uint8)
    boxes = [[0, 0, 40, 40], [39.5, 39.5, 60, 60], [-3, 5, 1, 6], [10.2, 10.2, 10.4, 10.4], [20, 0, 30, 3]]
    for picture in (image, white):
        found = handmade_features(sample(picture, boxes))
        assert found.shape == (5, len(FEATURES))
        assert np.isfinite(found).all()
    assert nucleus_mask(np.zeros((9, 5), np.float32)).sum() > 20
    assert handmade_features(sample(image, [])).shape == (0, len(FEATURES))


def test_models_that_cannot_embed_true_boxes_are_refused() -> None:
    config = ModelConfig(types=("a",), represent="queries")
    with pytest.raises(InputError, match="represent='boxes'"):
        refuse_queries("plain", config)
    refuse_queries("ours", ModelConfig(types=("a",)))


@pytest.mark.parametrize(
    ("against", "says"),
    [
        (["crops-9000"], "32 to 512 px"),
        (["handmade", "handmade"], "name each row once"),
        (["small-20x"], "is named twice"),
        (["handmad"], "no model 'handmad'"),
    ],
)
def test_wrong_rows_are_told(against: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        methods("small-20x", against, "cpu")


def test_random_weights_are_those_of_their_seed() -> None:
    random = methods("small-20x", ["random"], "cpu")[1]
    image, boxes = crop(width=96, height=96), [[20, 20, 40, 40], [50, 60, 66, 80]]
    first, again, other = (random.build(seed)(sample(image, boxes)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert np.abs(first - other).max() > 0.1


def test_rows_of_another_resolution_are_other_rows(tmp_path: Path) -> None:
    config = ModelConfig(types=("a",), mpp=0.25, d_model=32, heads=4, ffn=32, encoder_layers=1, detection_layers=1)
    save_checkpoint(tmp_path / "m", CellDETR(config), Card(name="m", config=config, threshold=0.5))
    rows = ["crops", "handmade", "pooled"]
    fine, coarse = (methods(model, rows, "cpu")[1:] for model in (str(tmp_path / "m"), "small-20x"))
    for one, other in zip(fine, coarse, strict=True):
        assert one.mpp != other.mpp
        assert one.identity != other.identity


def test_pooled_features_are_averages_of_the_backbones() -> None:
    config = default_model().network.config.model_copy(update={"border": "zeros"})  # that of timm
    image, boxes = crop(width=128, height=128), [[40, 44, 64, 60], [60, 60, 92, 90]]
    embed = PooledEmbedder(config, torch.device("cpu"))
    found = embed(sample(image, boxes))
    body = timm.create_model(LITE0, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    weights = imagenet_lite0().state_dict()
    body.load_state_dict({name: weights[name] for name in body.state_dict()})
    with torch.no_grad():
        levels = body(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1)
    for row, (x0, y0, x1, y1) in zip(found, boxes, strict=True):
        right = []
        for level, stride in zip(levels, (4, 8, 16, 32), strict=True):
            x, y = (low + (np.arange(4) + 0.5) * (high - low) / 4 for low, high in ((x0, x1), (y0, y1)))
            places = np.stack(np.meshgrid(y, x, indexing="ij")).reshape(2, -1) / stride - 0.5
            right.append([map_coordinates(channel, places, order=1).mean() for channel in level[0].numpy()])
        assert np.allclose(row, np.concatenate(right), atol=1e-3)


@pytest.mark.slow
def test_models_of_several_seeds_are_one_row(tmp_path: Path) -> None:
    config = ModelConfig(types=("a",), mpp=0.4, d_model=32, heads=4, ffn=32, encoder_layers=1, detection_layers=1)
    for seed in range(2):
        torch.manual_seed(seed)
        save_checkpoint(tmp_path / f"m-{seed}", CellDETR(config), Card(name="m", config=config, threshold=0.5))
    (row,) = methods(str(tmp_path / "m-$seed"), [], "cpu", seeds=2)
    assert row.seeded
    cells = sample(crop(width=96, height=96), [[20, 20, 40, 40]])
    for seed in range(2):
        (alone,) = methods(str(tmp_path / f"m-{seed}"), [], "cpu")
        assert not alone.seeded
        assert (row.build(seed)(cells) == alone.build(0)(cells)).all()
    with pytest.raises(InputError, match="m-2"):
        methods(str(tmp_path / "m-$seed"), [], "cpu", seeds=3)


def test_a_network_of_images_of_one_size_refuses_larger_ones() -> None:
    config = ModelConfig(
        types=("a",), d_model=32, heads=4, ffn=32, encoder_layers=1, detection_layers=1, coordinates="image"
    )
    model = TilePredictor(CellDETR(config), threshold=0.5, card={"recipe": {"augment": {"crop": 96}}})
    boxes = np.array([[20, 20, 40, 40]], np.float32)
    assert embed_boxes(model, crop(width=96, height=96), boxes).shape == (1, 32)
    with pytest.raises(InputError, match="97 x 96 px: this model measures in fractions of images of 96 px"):
        embed_boxes(model, crop(width=97, height=96), boxes)


def test_with_self_attention_the_neighbours_of_a_piece_are_heard() -> None:
    config = ModelConfig(
        types=("a",), d_model=32, heads=4, ffn=32, encoder_layers=1, detection_layers=1, self_attention="after_first"
    )
    torch.manual_seed(0)
    predictor = TilePredictor(CellDETR(config), threshold=0.5, precision="32")
    image = crop(width=256, height=128)
    boxes = np.array([[100, 50, 116, 66], [140, 50, 156, 66]], np.float32)  # in two pieces, in each other's context
    both = embed_boxes(predictor, image, boxes, largest=128)
    alone = np.concatenate([embed_boxes(predictor, image, boxes[i : i + 1], largest=128) for i in range(2)])
    assert np.abs(both - alone).max() > 1e-3
