"""Encoders of timm with weights from disk, against timm itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from celldetr.config import ProbeOptions, parse
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.probe.encoder import find_encoder
from helpers.probe_cells import truth

CPU = torch.device("cpu")


@pytest.fixture
def cells() -> Sample:
    return truth(1, 5, seed=3).samples[0]


def test_vectors_are_those_of_timm(tmp_path: Path, cells: Sample) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_vit").eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "model.pth")
    embedded = [
        find_encoder("test_vit", str(tmp_path / f"model.{kind}")).build(CPU)(cells) for kind in ("safetensors", "pth")
    ]
    assert np.array_equal(*embedded)
    x, y = (cells.boxes[1, :2] + cells.boxes[1, 2:]).astype(int) // 2
    wide = np.pad(cells.image, ((64, 64), (64, 64), (0, 0)), mode="symmetric")[y + 32 : y + 96, x + 32 : x + 96]
    crop = functional.resize(torch.from_numpy(wide.copy()).permute(2, 0, 1).float() / 255, [160, 160], antialias=False)
    with torch.no_grad():
        expected = network.forward_head(
            network.forward_features(v2.Normalize([0.5] * 3, [0.5] * 3)(crop)[None]), pre_logits=True
        )
    assert embedded[0].shape == (5, 64)
    assert np.allclose(embedded[0][1], expected[0].numpy(), atol=1e-4)


def test_a_config_beside_the_weights_says_how(tmp_path: Path, cells: Sample) -> None:
    arguments = {"init_values": 0.5, "img_size": 96, "global_pool": "", "num_classes": 10}
    network = timm.create_model("test_vit", **arguments)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="does not hold the weights of this encoder"):
        find_encoder("test_vit", str(tmp_path / "model.safetensors")).build(CPU)
    looks = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "input_size": [3, 96, 96]}
    (tmp_path / "config.json").write_text(json.dumps({"model_args": arguments, "pretrained_cfg": looks}))
    encoder = find_encoder("test_vit", str(tmp_path / "model.safetensors"))
    embed = encoder.build(CPU)
    assert embed(cells).shape == (5, 64)  # tokens are not averaged: the first is the image's
    assert (embed.size, embed.mean.flatten().tolist()) == (96, pytest.approx([102, 127.5, 153]))
    before = encoder.identity
    network.patch_embed.proj.bias.data += 1
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert find_encoder("test_vit", str(tmp_path / "model.safetensors")).identity != before


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a timm network; .*test_vit"):
        find_encoder("test_vi", "x")
    with pytest.raises(InputError, match="no such file"):
        find_encoder("test_vit", str(tmp_path / "absent"))
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match="is missing"):
        find_encoder("test_vit", str(tmp_path / "part.safetensors")).build(CPU)
    (tmp_path / "broken.pth").write_bytes(b"no pickle")
    with pytest.raises(InputError, match="does not hold"):
        find_encoder("test_vit", str(tmp_path / "broken.pth")).build(CPU)
    with pytest.raises(InputError, match="go together"):
        parse(ProbeOptions, {"encoder": "test_vit"}, "x")
