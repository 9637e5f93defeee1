"""A training run on two processes, with the environment that ``torchrun`` gives them.

They are forked from a server that has imported everything: ``torchrun`` itself would import torch three times.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from celldetr.recipes import load_recipe
from celldetr.training import loop
from celldetr.training.data import load_data
from celldetr.training.processes import start_fabric
from celldetr.training.trainer import Trainer
from helpers.children import context

Runs = list[tuple[Path, Path, Path | None]]


def first_gradients(recipe_file: Path, target: Path) -> None:
    """Write the gradients of the first step of a recipe."""
    recipe = load_recipe(recipe_file)
    fabric = start_fabric("cpu", 1)
    objective, _ = loop.build(recipe, load_data(recipe), fabric.device)
    if fabric.is_global_zero:
        objective.initialise()
    trainer = Trainer(objective.loss, recipe.training, fabric)
    trainer.distribute()
    dataset = objective.dataset(recipe.training.batch_size * recipe.training.steps)
    trainer.backward(0, next(trainer.batches(dataset, objective.collate)))
    named = trainer.loss.named_parameters()
    gradients = {name.removeprefix("network."): p.grad.contiguous() for name, p in named if p.grad is not None}
    if fabric.is_global_zero:
        save_file(gradients, target)


def gradients_and_steps(runs: Runs, stop: int) -> None:
    """For each recipe the gradients of the first step; where there is a run to continue, that too, to step ``stop``."""
    loop.draw_curves = lambda folder: None  # type: ignore[assignment]
    for recipe_file, target, folder in runs:
        first_gradients(recipe_file, target)
        if folder is not None:
            loop.train(load_recipe(recipe_file), folder, resume=True, device="cpu", stop_at=stop)


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in two processes that share the work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context().Process(target=_call, args=(rank, port, function, arguments)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in started] == [0, 0]


def _call(rank: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2"),
        "GROUP_RANK": "0",
    }
    function(*arguments)
