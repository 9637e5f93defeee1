"""A network that starts from the weights of another: all that fit, and the type head's rows of types of one name."""

from __future__ import annotations

import torch

from celldetr.model.celldetr import CellDETR

TYPE_HEAD = ("type_head.weight", "type_head.bias")


@torch.no_grad()
def start_from(network: CellDETR, source: CellDETR) -> tuple[str, ...]:
    """Copy weights into ``network``.

    Args:
        network: to be trained; weights that ``source`` does not have in their size stay as they are.
        source: a trained network, with any types.

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
    if network.config.d_model == source.config.d_model:
        rows = [
            (row, source.config.types.index(name))
            for row, name in enumerate(network.config.types)
            if name in source.config.types
        ]
        for row, old in rows:
            network.type_head.weight[row] = source.type_head.weight[old]
            network.type_head.bias[row] = source.type_head.bias[old]
    return tuple(name for name in own if name not in fitting and name not in TYPE_HEAD)
