"""A network that starts from the weights of another: all that fit, and the type head's rows of types of one name."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR

UNTYPED = "untyped"  # the one type of a network that was trained without types
# Settings that change what weights of one size do.
MEANING = (
    "mpp",
    "coordinates",
    "level_norm",
    "content",
    "decoupled",
    "constrained",
    "free_offsets",
    "margin",
    "heads",
    "points",
    "query_strides",
    "representation_values",
    "representation_strides",
    "encoder_strides",
    "strides",
    "self_attention",
    "represent",
    "mean",
    "std",
)
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


def start_note(network: CellDETR, source: CellDETR, new: Sequence[str], name: str) -> str:
    """What to tell of a start that does not wholly fit, in a sentence; "" where nothing is to be told.

    Args:
        network: to be trained.
        source: the start.
        new: as ``start_from`` returned it.
        name: of the start.

    Raises:
        InputError: most of the encoder does not fit, so that it would be no start.
    """
    encoder = [weight for weight in network.state_dict() if weight.startswith("encoder.")]
    if 2 * len(set(encoder) & set(new)) > len(encoder):
        widths = f"d_model {source.config.d_model} there, {network.config.d_model} here"
        raise InputError(
            f"init={name!r}: most weights of its encoder do not fit ({widths}); leave the settings of model as they are"
            " there, or leave out init"
        )
    notes = []
    if new:
        parts = sorted({weight.partition(".")[0] for weight in new})
        notes.append(f"{len(new)} of {len(network.state_dict())} tensors are new, in {', '.join(parts)}")
    for key in MEANING:
        there, here = getattr(source.config, key), getattr(network.config, key)
        if there != here:
            notes.append(f"it was trained with model.{key}={there}, now it is {here}")
    return f"init={name!r}: {'; '.join(notes)}" if notes else ""


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
