"""The backbone in training, BatchNorm inside its convolutions: the same maps, gradients, names and weights."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from timm.layers import BatchNormAct2d, create_conv2d
from torch import Tensor, nn

from celldetr.model.backbone import Backbone
from celldetr.model.depthwise_cpu import depthwise_backward
from celldetr.model.folding import fold_batchnorm
from celldetr.model.frozen import FrozenConvolution

KINK = {"float32": 1e-3, "bfloat16": 0.2}  # nearer to where an activation bends, rounding decides its gradient


def settle(module: nn.Module) -> None:
    """Statistics and affine as after training: none is 0 or 1."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = torch.randn(norm.num_features) * 0.1
            norm.running_var = torch.rand(norm.num_features) + 0.5
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.uniform_(norm.weight, 0.5, 1.5)


def gradients(function: nn.Module, x: Tensor, weight: Tensor, up: Tensor) -> list[Tensor]:
    """The result and the gradients of image and weight."""
    x = x.clone().requires_grad_()
    result = function(x)
    return [result.detach(), *torch.autograd.grad(result, (x, weight), up.to(result.dtype))]


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.SiLU])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "bias": True},
        {"kernel_size": 3, "dilation": 2},
        {"kernel_size": 3, "groups": 2},
        {"kernel_size": 5, "depthwise": True},
        {"kernel_size": 3, "stride": 2, "depthwise": True, "padding": "same"},
        {"kernel_size": 5, "stride": 2, "depthwise": True},
    ],
    ids=str,
)
def test_a_convolution_is_what_it_was(options: dict[str, object], activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    channels = 20
    convolution = create_conv2d(channels, channels, **options).to(memory_format=torch.channels_last)
    norm = BatchNormAct2d(channels, act_layer=activation).eval().requires_grad_(False)
    settle(norm)
    fused, plain = FrozenConvolution(convolution, norm), nn.Sequential(convolution, norm)
    for size in ((12, 16), (13, 9)):
        x = torch.randn(2, channels, *size).to(memory_format=torch.channels_last) * 4
        before = nn.functional.batch_norm(convolution(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        for dtype, kink in KINK.items():
            bends = (before.abs() < kink) | ((before - 6).abs() < kink)
            up = torch.randn_like(before).masked_fill(bends, 0)
            expected = gradients(plain, x, convolution.weight, up)
            with torch.autocast("cpu", enabled=dtype == "bfloat16"):
                got = gradients(fused, x, convolution.weight, up)
            for one, other in zip(got, expected, strict=True):
                assert one.shape == other.shape
                if dtype == "float32":
                    assert float((one - other).abs().max()) <= 2e-5 * float(other.abs().max())
                else:
                    assert float((one - other).norm()) <= 0.02 * float(other.norm())


def test_depthwise_gradients_do_not_depend_on_the_threads() -> None:
    torch.manual_seed(0)
    count = torch.get_num_threads()
    x, grad = (torch.randn(3, 24, n, n).to(memory_format=torch.channels_last) for n in (10, 5))
    weight = torch.randn(24, 1, 5, 5)
    try:
        torch.set_num_threads(1)
        expected = depthwise_backward(x, weight, grad, (2, 2), (1, 1))
        torch.set_num_threads(3)
        got = depthwise_backward(x, weight, grad, (2, 2), (1, 1))
    finally:
        torch.set_num_threads(count)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True) if a is not None and b is not None)
    assert depthwise_backward(x, weight, grad, (2, 2), (1, 1), of_input=False)[0] is None


def backbone(name: str, border: Literal["zeros", "replicate"] = "zeros") -> Backbone:
    torch.manual_seed(0)
    made = Backbone(name, (4, 8), frozen_batchnorm=True, border=border)
    settle(made)
    return made.train()


def learned(function: nn.Module, made: Backbone, image: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Maps, and the gradients of all parameters."""
    made.zero_grad()
    maps = function(image)
    sum((x * torch.cos(torch.arange(x.numel(), dtype=x.dtype)).view(x.shape)).sum() for x in maps).backward()
    return maps, {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("border", ["zeros", "replicate"])
def test_a_backbone_is_what_it_was(name: str, border: Literal["zeros", "replicate"]) -> None:
    made = backbone(name, border).double()  # of which no kernel of ours knows
    state = {key: value.clone() for key, value in made.state_dict().items()}
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    maps, expected = learned(made.body, made, image)
    fused, got = learned(made, made, image)
    for a, b in zip(maps, fused, strict=True):
        torch.testing.assert_close(a, b)
    assert got.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-6, atol=1e-9 * float(expected[key].abs().max()))
    assert made.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    assert not [key for key in got if ".bn" in key]


@pytest.mark.parametrize("border", ["zeros", "replicate"])
def test_on_a_cpu_too(border: Literal["zeros", "replicate"]) -> None:
    """MobileNetV3's activations are smooth nearly everywhere."""
    made = backbone("mobilenetv3_small_100", border)
    image = torch.randn(2, 3, 64, 64)
    expected, got = (learned(function, made, image)[1] for function in (made.body, made))
    for key in expected:
        assert float((got[key] - expected[key]).norm()) < 1e-4 * float(expected[key].norm()), key


def test_copies_are_independent() -> None:
    made = backbone("resnet18")
    image = torch.randn(1, 3, 64, 64)
    before = [x.detach().clone() for x in made(image)]
    other = copy.deepcopy(made)
    folded = fold_batchnorm(made)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
        for a, b, c in zip(before, made(image), folded(image), strict=True):
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(before[0], other(image)[0])


def test_batchnorm_that_is_not_frozen_learns() -> None:
    made = Backbone("resnet18", (4,), frozen_batchnorm=False).train()
    before = made.body.bn1.running_mean.clone()
    made(torch.randn(2, 3, 64, 64))[0].sum().backward()
    assert not torch.equal(made.body.bn1.running_mean, before)
    assert made.body.bn1.weight.grad is not None
