"""Parts of a network that keep their weights while the rest learns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from celldetr.config import Part
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR

# The projections take the backbone's features to the encoder: with a frozen encoder behind them, they must not move.
MODULES: dict[Part, tuple[str, ...]] = {
    "backbone": ("backbone", "projections"),
    "encoder": ("encoder",),
    "detector": ("detector",),
    "representer": ("representer",),
}


def freeze(network: CellDETR, parts: Sequence[Part]) -> tuple[nn.Module, ...]:
    """Take the gradient from parts of a network; returns their modules, which have to stay in evaluation mode."""
    modules = tuple(network.get_submodule(name) for part in parts for name in MODULES[part])
    for module in modules:
        module.requires_grad_(False)
    return modules


def check_known(parts: Sequence[Part], new: Iterable[str], init: str) -> None:
    """Refuse to freeze what does not have its weights from ``init``.

    Args:
        parts: to be frozen.
        new: names of the weights that ``init`` does not have.
        init: the model, for the message.

    Raises:
        InputError: names the part and the first of these weights.
    """
    for part in parts:
        unknown = [name for name in new if name.partition(".")[0] in MODULES[part]]
        if unknown:
            raise InputError(
                f"training.freeze: {part} has weights that {init!r} does not have or has in another size"
                f" ({unknown[0]}); leave {part} out of freeze, or leave model settings as they are in {init!r}"
            )
