"""A network, a batch and a data set, all as small as they can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from celldetr.config import ModelConfig, Recipe
from celldetr.data.dataset import Batch
from celldetr.data.patch_set import PatchSetInfo, Position, SlideInfo
from celldetr.data.patch_writer import PatchWriter
from celldetr.data.shards import Patch
from celldetr.data.spots import Spots
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, save_checkpoint
from celldetr.training import loop
from helpers.drawn_cells import draw_cells
from helpers.targets import targets

TINY = {
    "types": ["round", "long"],
    "backbone": "test_efficientnet",  # 80,000 parameters
    "d_model": 32,
    "heads": 4,
    "points": 2,
    "ffn": 32,
    "encoder_layers": 1,
    "detection_layers": 2,
    "representation_layers": 2,
    "num_queries": 160,  # 10 in 64 x 64 px
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing curves takes longer than the tiny runs."""
    monkeypatch.setattr(loop, "draw_curves", lambda folder: None)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., ModelConfig]:
    return lambda **changes: ModelConfig.model_validate(TINY | changes)


@pytest.fixture
def start(tmp_path: Path, tiny_model: Callable[..., ModelConfig]) -> Path:
    """A checkpoint with types round and oval, that finds something everywhere."""
    torch.manual_seed(5)
    network = CellDETR(tiny_model(types=["oval", "round"], dropout=0.1))
    nn.init.constant_(network.detector.heads[-1].objectness.bias, 0.0)
    save_checkpoint(tmp_path / "start", network, Card(name="start", config=network.config, threshold=0.3))
    return tmp_path / "start"


@pytest.fixture(scope="session")
def tiny_batch() -> Batch:
    """Three images: nuclei of known and unknown type, none, one. 64 px."""
    images = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    several = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.25, 0.2], [0.5, 0.9, 0.2, 0.15]])
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    labels = [(several, torch.tensor([0, 1, -1])), none, (several[:1], torch.tensor([1]))]
    return Batch(images, [targets(boxes, types) for boxes, types in labels])


@pytest.fixture
def soft_set(tmp_path: Path) -> Path:
    """A patch set of types round and long with confidences and, in half of the patches, a spot."""
    info = PatchSetInfo(
        status="incomplete",
        mpp=0.5,
        px=64,
        patches=0,
        nuclei=0,
        encoding="png",
        types=("round", "long"),
        validation=0.5,
        made_with={},
        shards=(),
        slides=(),
        next=Position(slide=0, place=0),
    )
    rng = np.random.default_rng(3)
    with PatchWriter(tmp_path / "soft", info, 100) as writer:
        for number in range(6):
            cells = [(int(x), int(y), int(r)) for x, y, r in rng.integers((10, 10, 4), (54, 54, 8), (4, 3))]
            boxes = np.array([[x - r, y - r, x + r + 1, y + r + 1] for x, y, r in cells], np.float32)
            patch = Patch(
                slide="s",
                x=0.0,
                y=64.0 * number,
                mpp=0.5,
                image=np.asarray(draw_cells(cells)),
                boxes=boxes,
                scores=np.ones(4, np.float32),
                types=np.array([0, 1, -1, number % 2], np.int16),
                confidence=rng.uniform(0.1, 1, 4).astype(np.float32),
                spots=Spots(np.array([0, 0, -1, 0]), np.array([[0.25, 0.75]], np.float32)) if number % 2 else None,
            )
            writer.add(patch)
        told = SlideInfo(name="s", file="s", places=6, looked_at=6, patches=6, nuclei=24, left_out={})
        writer.close_shard([told], None)
    return tmp_path / "soft"


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """Writes a COCO data set of three images, one of them empty, and returns recipes that train on it."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, count in enumerate((5, 0, 4)):
        cells = [(int(x), int(y), int(r)) for x, y, r in rng.integers((10, 10, 4), (54, 54, 8), (count, 3))]
        draw_cells(cells).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for x, y, r in cells:
            annotations.append(
                {"image_id": number, "category_id": int(r > 5), "bbox": [x - r, y - r, 2 * r + 1, 2 * r + 1]}
            )
    categories = [{"id": 0, "name": "round"}, {"id": 1, "name": "long"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (root / "all.json").write_text(json.dumps(content))
    card = {
        "name": "discs",
        "title": "Discs",
        "format": "coco",
        "mpp": 0.5,
        "types": {"round": ["round"], "long": ["long"]},
        "splits": {"all": "all.json"},
        "licence": "CC0-1.0",
        "citation": "none",
    }
    (root / "discs.yaml").write_text(yaml.safe_dump(card))
    source = {"card": str(root / "discs.yaml"), "split": "all"}

    def make(model: dict[str, object] | None = None, init: Path | str = "", **training: object) -> Recipe:
        values = {
            "name": "tiny",
            "init": str(init),
            "model": TINY | (model or {}),
            "train": [source],
            "validation": [source],
            "augment": {"crop": 64},
            "training": {"steps": 4, "batch_size": 2, "warmup": 1, "precision": "32", "workers": 0} | training,
        }
        return Recipe.model_validate(values)

    return make
