"""A set of typed patches trains a model with the recipe ``xenium``: the types are learned, detection is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from celldetr.config import ModelConfig, TrainConfig
from celldetr.data.dataset import Batch
from celldetr.data.patch_set import PatchSet, PatchSetInfo, Position, SlideInfo
from celldetr.data.patch_writer import PatchWriter
from celldetr.data.shards import Patch
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, load_checkpoint, save_checkpoint
from celldetr.recipes import load_recipe
from celldetr.recipes.own_data import own_sources
from celldetr.training import loop
from celldetr.training.data import load_data
from celldetr.training.supervised import SupervisedLoss
from celldetr.training.trainer import image_generators
from helpers.targets import targets

COLOURS = {"red": (150, 30, 60), "blue": (40, 40, 160)}
TYPES = tuple(COLOURS)
TINY: dict[str, Any] = {
    "types": ["other"],
    "mpp": 0.5,
    "backbone": "test_efficientnet",
    "d_model": 32,
    "heads": 4,
    "points": 2,
    "ffn": 32,
    "encoder_layers": 1,
    "detection_layers": 1,
    "representation_layers": 1,
    "num_queries": 160,
}
QUICK = ["training.steps=3", "training.batch_size=2", "training.workers=0", "augment.crop=64", "training.precision=32"]


def patch(slide: str, number: int) -> Patch:
    """Two discs of each type on pink, one of them of unknown type."""
    rng = np.random.default_rng([number, len(slide)])
    picture = Image.new("RGB", (64, 64), (235, 190, 215))
    boxes, types = [], []
    for place, (x, y) in enumerate([(16, 16), (48, 16), (16, 48), (48, 48)]):
        kind, r = place % 2, int(rng.integers(5, 9))
        ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[TYPES[kind]])
        boxes.append([x - r, y - r, x + r + 1, y + r + 1])
        types.append(-1 if place == 3 else kind)
    return Patch(
        slide=slide,
        x=64.0 * number,
        y=0.0,
        mpp=0.5,
        image=np.asarray(picture),
        boxes=np.array(boxes, np.float32),
        scores=np.ones(4, np.float32),
        types=np.array(types, np.int16),
        confidence=np.array([0.9, 0.6, 0.8, 1.0], np.float32),
    )


def typed_set(folder: Path) -> Path:
    info = PatchSetInfo(
        status="incomplete", mpp=0.5, px=64, patches=0, nuclei=0, encoding="png", types=TYPES, validation=0.3,
        made_with={}, shards=(), slides=(), next=Position(slide=0, place=0),
    )  # fmt: skip
    slides = []
    with PatchWriter(folder, info, 100) as writer:
        for name in ("s [region 1]", "s [region 2]", "s [region 3]"):
            for number in range(3):
                writer.add(patch(name, number))
            slides.append(
                SlideInfo(name=name, file="s", places=3, looked_at=3, patches=3, nuclei=12, left_out={}, group="d")
            )
        writer.close_shard(slides, None)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    network = CellDETR(ModelConfig.model_validate(TINY))
    nn.init.constant_(network.detector.heads[-1].objectness.bias, 0.0)
    save_checkpoint(tmp_path / "start", network, Card(name="start", config=network.config, threshold=0.3))
    return tmp_path / "start"


def test_the_recipe_learns_types_and_leaves_detection_alone(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "draw_curves", lambda folder: None)
    data = typed_set(tmp_path / "set")
    recipe = load_recipe("xenium", [f"init={start}", *QUICK, "training.validation_images=2"], own_sources(data))
    assert recipe.model.types == TYPES
    assert [source.split for source in (*recipe.train, *recipe.validation)] == ["train", "val"]
    loaded = load_data(recipe)
    assert (len(loaded.samples), len(loaded.held_out), loaded.counts) == (6, 2, [12, 6])
    checkpoint = load_checkpoint(loop.train(recipe, tmp_path / "run", device="cpu"))
    before, after = load_checkpoint(start).network.state_dict(), checkpoint.network.state_dict()
    moved = {
        n.partition(".")[0] for n, v in after.items() if v.shape != before[n].shape or not torch.equal(v, before[n])
    }
    assert moved == {"representer", "type_head"}
    assert checkpoint.card.config.types == TYPES
    assert checkpoint.card.training_data[-1]["name"] == "set"


def test_sets_of_two_donors_are_a_folder(tmp_path: Path) -> None:
    for name in ("train", "val"):
        typed_set(tmp_path / name)
    sources = own_sources(tmp_path, mapping={"red": "any", "blue": ""})
    assert sources["model"] == {"types": ["any"]}
    assert [s["split"] for s in sources["train"] + sources["validation"]] == ["all", "all"]
    assert sources["train"][0]["types"] == {"red": "any", "blue": ""}
    with pytest.raises(InputError, match="has no class 'green'"):
        own_sources(tmp_path / "train", mapping={"green": ""})


def test_labels_are_known_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("xenium", ["model.types=[blue]", "model.mpp=0.5"], None)
    source = own_sources(typed_set(tmp_path / "set"), mapping={"red": ""})
    recipe = load_recipe("xenium", ["model.mpp=0.5"], source)
    decoded: list[int] = []
    real = PatchSet._decode
    monkeypatch.setattr(PatchSet, "_decode", lambda self, index: decoded.append(index) or real(self, index))
    assert load_data(recipe).counts == [6]
    assert set(decoded) == {0}  # the first of each split, to see whether it can be read


@pytest.mark.slow
def test_compositions_alone_teach_types() -> None:
    """Spots of one type mostly: from their shares alone the network tells the types apart."""
    torch.manual_seed(0)
    network = CellDETR(ModelConfig.model_validate(TINY | {"types": TYPES}))
    settings = {"mode": "parallel", "w_composition": 1.0, "w_type": 0.0, "freeze": ["detector"]}
    settings |= {"w_class": 0.0, "w_l1": 0.0, "w_giou": 0.0}
    made = SupervisedLoss(network, TrainConfig.model_validate(settings), torch.ones(2)).train()
    patches = [patch("s", number) for number in range(4)]
    images = torch.stack([torch.from_numpy(p.image.copy()).permute(2, 0, 1) for p in patches])
    boxes = []
    for p in patches:
        b = torch.from_numpy(p.boxes) / 64
        boxes.append(torch.cat([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], 1))
    spots = torch.tensor([0, 1, 0, 1])  # discs 0 and 2 are red, 1 and 3 blue
    shares = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    batch = Batch(images, [targets(each, spots=spots, compositions=shares) for each in boxes])
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(25):
        loss, terms = made(batch, image_generators(0, step, 0, 4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(terms["representation0/composition"]))
    assert float(terms["representation0/type"]) == 0.0
    assert losses[-1] < 0.05 < losses[0]
    network.eval()
    with torch.no_grad():
        origin = torch.zeros(4, 2)
        told = network.represent(network.memorise(images, origin=origin), torch.stack(boxes), origin).logits.argmax(-1)
    assert told.tolist() == [[0, 1, 0, 1]] * 4
