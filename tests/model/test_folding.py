"""A folded backbone computes what it did before, whatever the network and the size of the image."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from celldetr.model.backbone import Backbone
from celldetr.model.folding import fold_batchnorm


def backbone(name: str, border: Literal["zeros", "replicate"] = "zeros") -> Backbone:
    torch.manual_seed(0)
    made = Backbone(name, (4, 8), frozen_batchnorm=True, border=border).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: no statistic is 0 or 1
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return made


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_100", "efficientnet_b0"])
@pytest.mark.parametrize("size", [(64, 64), (75, 97)])
@pytest.mark.parametrize("border", ["zeros", "replicate"])
def test_folded_equals_unfolded(name: str, size: tuple[int, int], border: Literal["zeros", "replicate"]) -> None:
    made = backbone(name, border)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    folded = fold_batchnorm(made)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        for a, b in zip(made(image), folded(image), strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(b, a, atol=1e-4 * float(a.abs().max()), rtol=0)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_bfloat16_is_as_near_to_float32_as_unfolded() -> None:
    made = backbone("tf_efficientnet_lite0")
    folded = fold_batchnorm(made)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = made(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain, fast = made(image), folded(image)
    for a, b, c in zip(exact, plain, fast, strict=True):
        assert c.dtype == torch.bfloat16
        assert float((c - a).norm()) < 1.5 * float((b - a).norm())


class Twice(nn.Module):
    """One convolution read by two BatchNorms, which neither may swallow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seen = self.conv(x)
        return [self.one(seen), self.two(self.conv(x))]


def test_a_convolution_that_is_used_twice_stays() -> None:
    made = backbone("resnet18")
    made.body = Twice().eval()
    folded = fold_batchnorm(made)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == 2
