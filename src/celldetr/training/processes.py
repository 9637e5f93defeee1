"""Training on several processes: how they start, what they agree on, and what a loss is divided by.

The batch is that of the recipe however many processes share it, and everything random but dropout is a function of the
crop's place in it, so that without dropout a run on two processes has the gradients of a run on one.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch.nn import functional

from celldetr.errors import InputError
from celldetr.model.device import pick_device

# The others wait while one process validates or writes; PyTorch would give up after half an hour.
LONGEST_WAIT = timedelta(hours=12)


def start_fabric(device: str, devices: int) -> Fabric:
    """Devices and processes.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        devices: processes to start on this machine, each with its own device; those of ``torchrun`` exist already.

    Raises:
        InputError: a device that does not exist here, or more of them than there are.
    """
    chosen = pick_device(device)
    if device == "auto" and not can_train(chosen):
        chosen = torch.device("cpu")
    nodes = 1
    if dist.is_available() and dist.is_torchelastic_launched():
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if devices not in (1, here):
            raise InputError(f"`devices={devices}`, but torchrun started {here} processes here; leave `devices` out")
        devices, nodes = here, everywhere // here
    most = {"cuda": torch.cuda.device_count(), "mps": 1}.get(chosen.type)
    if devices < 1 or (most is not None and devices > most):
        raise InputError(f"`devices={devices}`: expected 1 to {most or 'the number of cores'} on {chosen.type}")
    if devices > 1 and chosen.index is not None:
        raise InputError(f"`device={device}` is one device, for {devices} processes; give `device={chosen.type}`")
    several = devices * nodes > 1
    if several:  # of 1x1 convolutions, whose two layouts are the same bytes
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    fabric = Fabric(
        accelerator=chosen.type,
        devices=devices if chosen.index is None else [chosen.index],
        num_nodes=nodes,
        # A batch without a nucleus leaves the representation decoder without a gradient.
        strategy=DDPStrategy(find_unused_parameters=True, timeout=LONGEST_WAIT) if several else "auto",
    )
    fabric.launch()
    return fabric


def can_train(device: torch.device) -> bool:
    """Whether there are gradients of what attention samples: older PyTorch has none on Apple's MPS."""
    image, places = torch.zeros(1, 1, 2, 2, device=device, requires_grad=True), torch.zeros(1, 1, 1, 2, device=device)
    try:
        functional.grid_sample(image, places, align_corners=False).sum().backward()
    except NotImplementedError:
        return False
    return True


def end_others(fabric: Fabric) -> None:
    """Stop the processes that this one has started: they would wait for it, and for hours."""
    launcher = fabric.strategy.launcher
    if launcher is not None and hasattr(launcher, "kill"):
        launcher.kill(signal.SIGTERM)


def share(batch: int, processes: int) -> int:
    """How much of a batch each process gets.

    Raises:
        InputError: it cannot be shared equally.
    """
    if batch % processes:
        raise InputError(
            f"training.batch_size={batch} is the batch of all {processes} processes together and must be a multiple of"
            f" {processes}; change one of the two"
        )
    return batch // processes


def agree(fabric: Fabric, check: Callable[[], None]) -> None:
    """Run ``check`` in the first process; raises its ``InputError`` in all of them."""
    problem = ""
    if fabric.is_global_zero:
        try:
            check()
        except InputError as error:
            problem = str(error)
    if problem := fabric.broadcast(problem):
        raise InputError(problem)


def normaliser(count: float, device: torch.device) -> float:
    """Divisor of this process's sums, such that their mean over processes is the sum over the batch / count.

    Args:
        count: of this process; the batch's is the sum over processes, at least 1.
        device: for the communication.
    """
    if not distributed():
        return max(float(count), 1.0)
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return max(float(total), 1.0) / dist.get_world_size()


def largest(count: int, device: torch.device) -> int:
    """The largest of a count over all processes."""
    if not distributed():
        return count
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows (n, ...), any n, of all processes.

    Own rows keep their graph, those of others have none. A loss that every process computes of all rows therefore has
    its whole gradient in the sum over processes: no message is needed on the way back, where it could cross those of
    the data parallelism.
    """
    if not distributed():
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    lengths = [int(each) for each in counts]
    sent = rows.new_zeros(max(lengths), *rows.shape[1:])
    sent[: len(rows)] = rows.detach()
    received = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather(received, sent)
    parts = [each[:length] for each, length in zip(received, lengths, strict=True)]
    parts[rank()] = rows
    return torch.cat(parts)


def world_size() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if distributed() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if distributed() else 0


def distributed() -> bool:
    """Whether several processes share a batch."""
    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    """Whether this process is the one that prints; known before Fabric is there."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
