"""Put a trained model into the package: float16 weights, a threshold, and a card with what was measured.

The threshold is chosen on the recipe's validation images, for the weights as rounded and the predictor as it is now.

python benchmarks/ship_weights.py runs/small-20x/model small-20x
celldetr evaluate brca-m2c -o metrics.json          # scores the weights as shipped
python benchmarks/ship_weights.py runs/small-20x/model small-20x --metrics metrics.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from celldetr.config import Recipe, parse
from celldetr.data.sources import load_source
from celldetr.evaluation.image_cells import LOWEST_SCORE
from celldetr.model.checkpoint import load_checkpoint, save_checkpoint
from celldetr.model.hub import PACKAGED
from celldetr.model.inference import TilePredictor
from celldetr.training.validation import validate

SHOWN = ("mean_type_f1", "mean_type_f1_classwise")


def quoted(metrics: Path) -> dict[str, dict[str, float]]:
    """Headline numbers of an evaluation under two pairing rules, by data set, split and protocol."""
    report = json.loads(metrics.read_text(encoding="utf-8"))
    context = report["context"]
    where = f"{context['dataset']} {context['split']}"
    others = report["protocols"]
    return {
        f"{where}, {name}": {
            "detection.f1": summary["detection"]["f1"],
            **{key: summary[key] for key in SHOWN},
        }
        for name, summary in {"standard": report, "points-compat": others["points-compat"]}.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("--metrics", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    network = checkpoint.network.half().float()  # as it is read back
    recipe = parse(Recipe, checkpoint.card.recipe, str(options.checkpoint))
    types, mpp = recipe.model.types, recipe.model.mpp
    samples = [sample for source in recipe.validation for sample in load_source(source, types, mpp)]
    threshold, validation = validate(TilePredictor(network, threshold=LOWEST_SCORE), samples)
    step = checkpoint.card.metrics.get("validation", {}).get("step")
    metrics = {"validation": {**validation, "step": step}}
    for path in options.metrics:
        metrics |= quoted(path)
    card = checkpoint.card.model_copy(update={"name": options.name, "metrics": metrics, "threshold": threshold})
    saved = save_checkpoint(PACKAGED / options.name, network, card, dtype=torch.float16)
    print(f"{PACKAGED / options.name}: {saved.sha256}")


if __name__ == "__main__":
    main()
