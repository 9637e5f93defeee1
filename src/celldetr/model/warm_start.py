"""A network that starts from the weights of another: all that fit, and the type head's rows of types of one name."""

from __future__ import annotations

import copy

import torch
from torch import nn

from celldetr.model.celldetr import CellDETR

UNTYPED = "untyped"  # the one type of a network that was trained without types
TYPE_HEAD = ("type_head.weight", "type_head.bias")


@torch.no_grad()
def start_from(network: CellDETR, source: CellDETR, *, types: bool = True) -> tuple[str, ...]:
    """Copy weights into ``network``.

    Args:
        network: to be trained; weights that ``source`` does not have in their size stay as they are.
        source: a trained network, with any types.
        types: whether the source's type head has learnt anything (``Card.types_trained``).

    Returns:
        names of the weights that stay, the type head's aside.
    """
    there = source.state_dict()
    own = network.state_dict()
    fitting = {
        name: there[name]
        for name, value in own.items()
        if name not in TYPE_HEAD and name in there and there[name].shape == value.shape
    }
    network.load_state_dict(fitting, strict=False)
    if types and network.config.d_model == source.config.d_model:
        rows = [
            (row, source.config.types.index(name))
            for row, name in enumerate(network.config.types)
            if name in source.config.types
        ]
        for row, old in rows:
            network.type_head.weight[row] = source.type_head.weight[old]
            network.type_head.bias[row] = source.type_head.bias[old]
    return tuple(name for name in own if name not in fitting and name not in TYPE_HEAD)


def without_types(network: CellDETR) -> CellDETR:
    """A network that shares all weights with ``network`` but the type head's: every cell is ``UNTYPED``.

    What was trained without types has a type head of random numbers, which must not be read as if it meant something.
    """
    shared = copy.copy(network)
    shared.config = network.config.model_copy(update={"types": (UNTYPED,)})
    head = nn.Linear(network.config.d_model, 1).to(network.type_head.weight.device)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    shared._modules = {**network._modules, "type_head": head}
    return shared
