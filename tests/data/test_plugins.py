"""Packages that bring readers and backbones, as they are installed: a module, and a ``.dist-info`` beside it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from celldetr.config import ModelConfig
from celldetr.data.card import DatasetCard
from celldetr.data.sources import load_samples
from celldetr.errors import InputError
from celldetr.model.backbone import build_backbone
from helpers.blobs import blob_image, scattered

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "readers.md"
READER, BACKBONE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What docs/how-to/readers.md shows, installed."""
    site = tmp_path / "site"
    about = site / "my_celldetr-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-celldetr\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[celldetr.readers]\nmy-dots = my_dots:read\nbroken = no_such_module:read\n"
        "[celldetr.backbones]\nplain = my_networks:plain\nwrong = my_networks:wrong\n"
    )
    (site / "my_dots.py").write_text(READER)
    wrong = "\n\ndef wrong(strides, pretrained):\n    return Plain((8, 16))\n"
    (site / "my_networks.py").write_text(BACKBONE + wrong)
    monkeypatch.syspath_prepend(site)
    for name in ("my_dots", "my_networks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return site


def card(folder: Path, format: str) -> DatasetCard:
    types = {"a": ["a"], "b": ["b"]}
    splits = {"train": "train"}
    return DatasetCard(
        name="set", title="Set", format=format, root=str(folder), mpp=0.5, types=types, splits=splits, licence="own",
        citation="none",
    )  # fmt: skip


def test_a_reader_of_a_package_reads_a_card(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    centres = scattered(40, 150, 200)
    Image.fromarray(blob_image(centres, 150, 200)).save(folder / "images" / "one.png")
    nuclei = [{"at": list(map(float, centre)), "class": "ab"[i % 2]} for i, centre in enumerate(centres)]
    (folder / "labels" / "one.json").write_text(json.dumps({"nuclei": nuclei}))
    (sample,) = load_samples(card(tmp_path, "my-dots"), "train")
    np.testing.assert_allclose(sample.points, centres)
    assert sample.types.tolist() == [i % 2 for i in range(len(centres))]
    assert sample.derived_boxes
    with pytest.raises(InputError, match="'my-dots'"):
        load_samples(card(tmp_path, "my-dot"), "train")
    with pytest.raises(InputError, match="no_such_module"):
        load_samples(card(tmp_path, "broken"), "train")


def test_a_backbone_of_a_package_is_built(package: Path) -> None:
    config = ModelConfig(types=("a",), backbone="plain", strides=(4, 8, 16), encoder_strides=(8, 16))
    levels = build_backbone(config)(torch.rand(2, 3, 64, 32))
    assert [tuple(level.shape) for level in levels] == [(2, 64, 64 // s, 32 // s) for s in config.strides]
    with pytest.raises(InputError, match=r"'wrong': gives .* expected"):
        build_backbone(config.model_copy(update={"backbone": "wrong", "strides": (4, 8)}))
    with pytest.raises(InputError, match="bring 'plain', 'wrong'"):
        build_backbone(config.model_copy(update={"backbone": "plane"}))


def test_the_same_name_of_two_packages_is_refused(package: Path) -> None:
    about = package / "other-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[celldetr.backbones]\nplain = other:plain\n")
    with pytest.raises(InputError, match="my_networks:plain and other:plain"):
        build_backbone(ModelConfig(types=("a",), backbone="plain"))
