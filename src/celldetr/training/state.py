"""The state of a run: weights, their average, the optimiser's moments and the step, as one safetensors file.

All randomness in training is a function of (seed, step, place in the batch), so nothing else is needed to continue
exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from celldetr.errors import InputError
from celldetr.io.files import replacing

STATE_FILE = "state.safetensors"


def save_state(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> None:
    """Write the state of a run; ``facts`` are JSON-able."""
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(folder / STATE_FILE) as unfinished:
        save_file(tensors, unfinished, metadata={"facts": json.dumps(facts)})


def load_state(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put the state of a run back; returns the facts.

    Raises:
        InputError: no state, a broken one, or one of another network.
    """
    path = folder / STATE_FILE
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
            for key in file.keys():  # noqa: SIM118 (not a dict)
                kind, _, name = key.partition("/")
                parts[kind][name] = file.get_tensor(key)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a training state ({error}); start again with `overwrite=True`") from None
    try:
        network.load_state_dict(parts["network"])
        average.load_state_dict(parts["average"])
        _load_moments(optimizer, parts["optimizer"])
    except (RuntimeError, ValueError, IndexError) as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: state of another network than the recipe's ({first})") from None
    return facts


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give each parameter its moments back, in the parameter's memory layout: sums depend on the order in memory."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape and value.ndim:
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
