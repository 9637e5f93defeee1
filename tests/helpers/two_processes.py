"""What ``torchrun`` runs in ``test_processes``: the gradients of a recipe's first step, then a few steps of a run.

Arguments, once or more: a recipe (YAML), the folder of a run to continue, the step to stop at (0: there is no run), and
where the first process puts the gradients.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from celldetr.recipes import load_recipe
from celldetr.training import loop
from celldetr.training.data import load_data
from celldetr.training.processes import start_fabric


def first_gradients(recipe_file: str, target: Path) -> dict[str, float]:
    """Write the gradients of the first step; returns loss and terms."""
    recipe = load_recipe(recipe_file)
    kind, fabric = loop.RUNS[recipe.training.objective], start_fabric(recipe.training.precision, "cpu", 1)
    run = kind(recipe, target.parent, fabric, load_data(recipe))
    if fabric.is_global_zero:
        run.initialise()
    run.distribute()
    numbers = run.gradients(0, next(iter(run.crops(0))))
    gradients = {name: p.grad.contiguous() for name, p in run.network.named_parameters() if p.grad is not None}
    gradients |= {f"head.{name}": p.grad for name, p in run.head.named_parameters() if p.grad is not None}
    if run.fabric.is_global_zero:
        save_file(gradients, target)
    return numbers


if __name__ == "__main__":
    loop.draw_curves = lambda folder: None  # type: ignore[assignment]
    arguments = iter(sys.argv[1:])
    for recipe_file, folder, stop, target in zip(arguments, arguments, arguments, arguments, strict=True):
        first_gradients(recipe_file, Path(target))
        if stop != "0":
            loop.train(load_recipe(recipe_file), Path(folder), resume=True, device="cpu", stop_at=int(stop))
