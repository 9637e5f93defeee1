"""An exported file computes what the network computes, for any number of images of any size, and says what it is."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchvision.ops import box_convert

from celldetr.config import ModelConfig
from celldetr.errors import InputError
from celldetr.model import onnx as exporting
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, Checkpoint, load_checkpoint
from celldetr.model.folding import for_inference
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.model.onnx import OUTPUTS, AllQueries, export_onnx, run_onnx
from celldetr.outlines import RADII
from helpers.sample_crop import crop

Outputs = list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return load_checkpoint(find_model("small-20x"))


@pytest.fixture(scope="module")
def session(small_onnx: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(small_onnx), providers=["CPUExecutionProvider"])


def tissue(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    tiles = [crop(900 + 40 * i, 850 + 60 * i, width, height) for i in range(batch)]
    return np.stack(tiles).transpose(0, 3, 1, 2)


def noise(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, 3, height, width), dtype=np.uint8)


@torch.inference_mode()
def expected(network: CellDETR, images: NDArray[np.uint8]) -> Outputs:
    """All queries, best first, by the stages that training and prediction use, with their kernels."""
    batch, _, height, width = images.shape
    coarsest = network.config.strides[-1]
    padded = functional.pad(torch.from_numpy(images), (0, -width % coarsest, 0, -height % coarsest))
    network = for_inference(network)
    memories = network.memorise(padded, torch.tensor([[width, height]]).expand(batch, 2).float())
    found = network.detect(memories).last
    scores, order = found.logits.sigmoid().sort(dim=1, descending=True)
    boxes = found.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    cells = network.represent(memories, boxes)
    absolute = box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    types = functional.logsigmoid(cells.logits).softmax(-1)
    return [x.numpy() for x in (absolute, scores, types, cells.embeddings)]


def assert_equal(found: Outputs, wanted: Outputs, tolerance: float = 1e-3) -> None:
    """Query by query; those of one score may stand in another order, but each is there exactly once."""
    assert [x.shape for x in found] == [x.shape for x in wanted]
    assert all(x.dtype == np.float32 for x in found)
    np.testing.assert_allclose(found[1], wanted[1], atol=tolerance, rtol=0)
    assert (np.diff(found[1], axis=1) <= 0).all()
    for image in range(len(wanted[0])):
        a, b = ([x[image].reshape(x.shape[1], -1) for x in outputs] for outputs in (wanted, found))
        partner = np.abs(a[0][:, None] - b[0][None]).max(-1).argmin(1)
        assert sorted(partner) == list(range(len(partner)))
        for name, one, other in zip(OUTPUTS, a, b, strict=True):
            np.testing.assert_allclose(other[partner], one, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "content", "size"),
    [
        *((1, noise, size) for size in ((256, 256), (250, 301), (33, 97))),
        *((3, tissue, size) for size in ((96, 96),)),
    ],
)
def test_onnx_runtime_agrees(
    session: onnxruntime.InferenceSession, shipped: Checkpoint, size: tuple[int, int], batch: int, content: Any
) -> None:
    images = content(batch, *size)
    assert_equal(session.run(list(OUTPUTS), {"images": images}), expected(shipped.network, images))


@pytest.mark.slow
def test_the_example_finds_the_cells_of_the_package(session: onnxruntime.InferenceSession, shipped: Checkpoint) -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "onnx_predict.py"))
    tiles = [crop(), crop(600, 700, 256, 256), np.full((70, 80, 3), 255, np.uint8)]
    predictor = TilePredictor(shipped.network, threshold=shipped.card.threshold, precision="32")
    for tile, cells in zip(tiles, predictor.predict_tiles(tiles), strict=True):
        order = np.argsort(-cells.scores, kind="stable")
        wanted = [x[order] for x in (cells.boxes, cells.scores, cells.probabilities, cells.embeddings)]
        found = example["cells_of"](session, tile)
        for name, one, other in zip(OUTPUTS, wanted, found, strict=True):
            tolerance = 1e-3 if name != "embeddings" else 4e-3  # float16 in the package
            np.testing.assert_allclose(other, one.astype(np.float32), atol=tolerance, rtol=1e-3, err_msg=name)
    assert len(predictor.predict_tiles(tiles[:1])[0]) > 30


@pytest.mark.slow
def test_the_file_says_what_it_is(small_onnx: Path, session: onnxruntime.InferenceSession, shipped: Checkpoint) -> None:
    facts, card = session.get_modelmeta().custom_metadata_map, shipped.card
    assert (facts["name"], facts["sha256"], facts["licence"]) == ("small-20x", card.sha256, "Apache-2.0")
    assert json.loads(facts["types"]) == list(card.config.types)
    assert (float(facts["mpp"]), float(facts["threshold"])) == (card.config.mpp, card.threshold)
    assert (float(facts["same_nucleus_um"]), float(facts["nested_share"])) == (2.5, 0.8)
    assert facts["version"] == card.package_version
    assert [(x.name, x.type, x.shape) for x in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", 3, "height", "width"])
    ]
    assert [x.name for x in session.get_outputs()] == list(OUTPUTS)
    assert [x.shape[:2] for x in session.get_outputs()] == [["batch", "queries"]] * 4
    onnx.checker.check_model(str(small_onnx), full_check=True)
    assert {x.domain for x in onnx.load(small_onnx).opset_import} == {""}  # no operators of a vendor
    assert small_onnx.stat().st_size < 100e6
    assert [path.name for path in small_onnx.parent.iterdir()] == ["small.onnx"]


def checkpoint(**changes: object) -> Checkpoint:
    """A small network with random weights."""
    torch.manual_seed(0)
    config = {
        "types": ["a", "b"],
        "backbone": "test_efficientnet",
        "d_model": 32,
        "heads": 4,
        "points": 2,
        "ffn": 32,
        "encoder_layers": 1,
        "detection_layers": 1,
        "representation_layers": 1,
    }
    network = CellDETR(ModelConfig.model_validate(config | changes)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return Checkpoint(
        network, Card(name="toy", config=network.config, threshold=0.5, sha256="ab", recipe={"augment": {"crop": 96}})
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet10t", "coordinates": "image", "queries": "learned", "num_queries": 20},
        {"query_strides": (8, 16), "location_encoding": "sine", "constrained": False, "num_queries": 37},
        {"content": "features", "level_norm": "layer", "num_queries": 37},
    ],
)
def test_other_networks(changes: dict[str, object], tmp_path: Path) -> None:
    made = checkpoint(**changes)
    made.network.train()
    path = export_onnx(made, tmp_path / "toy.onnx")
    assert all(module.training for module in (made.network, made.network.encoder))  # the caller's is left alone
    made.network.eval()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    side = session.get_modelmeta().custom_metadata_map.get("image_px")
    assert side == ("96" if changes.get("coordinates") == "image" else None)
    for images in (noise(2, 160, 96), noise(1, 100, 131)):
        assert_equal(session.run(list(OUTPUTS), {"images": images}), expected(made.network, images))


@pytest.mark.slow
def test_outlines_of_the_graph_are_those_of_the_predictor(tmp_path: Path) -> None:
    made = checkpoint(outlines=True, num_queries=37)
    assert made.network.outliner is not None
    torch.nn.init.normal_(made.network.outliner.radii.weight, std=0.3)
    path = export_onnx(made, tmp_path / "toy.onnx")
    tiles = [image.transpose(1, 2, 0).copy() for image in (*noise(2, 160, 96), *noise(1, 100, 131))]
    predictor = TilePredictor(made.network, threshold=0.0, precision="32", same_nucleus_um=0, nested_share=0)
    for tile, cells in zip(tiles, predictor.predict_tiles(tiles), strict=True):
        boxes, scores, _, _, radii = (x[0] for x in run_onnx(path, tile.transpose(2, 0, 1)[None].copy()))
        assert radii.shape == (len(boxes), RADII)
        boxes = boxes.clip(0, np.tile(tile.shape[1::-1], 2))
        found, wanted = (np.column_stack([s, b]) for s, b in ((scores, boxes), (cells.scores, cells.boxes)))
        partner = np.abs(wanted[:, None] - found[None]).max(-1).argmin(1)
        assert cells.radii is not None
        assert len(set(partner)) == len(cells) > 3
        assert cells.radii.std(1).min() > 0.005
        np.testing.assert_allclose(radii[partner], cells.radii, atol=2e-3)  # float16 in the package


@pytest.mark.slow
def test_a_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoint()

    @torch.no_grad()
    def wrong(_: Path, images: NDArray[np.uint8]) -> Outputs:
        return [x.numpy() + 0.01 for x in AllQueries(made.network).eval()(torch.from_numpy(images))]

    monkeypatch.setattr(exporting, "_record", lambda module, path: path.write_text("a graph"))
    monkeypatch.setattr(exporting, "_describe", lambda path, card: None)
    monkeypatch.setattr(exporting, "run_onnx", wrong)
    with pytest.raises(InputError, match=r"'toy'.*100%"):
        export_onnx(made, tmp_path / "toy.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "toy.onnx"
    with pytest.raises(InputError, match="self_attention='after_first'"):
        export_onnx(checkpoint(self_attention="after_first"), target)
    assert not target.exists()
    target.write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        export_onnx(checkpoint(), target)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(InputError, match=r"\[onnx\]"):
        export_onnx(checkpoint(), target, overwrite=True)
    assert target.read_text() == "kept"
