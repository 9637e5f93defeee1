"""Put a trained model into the package: calibrated scores, half precision, familiarity, and a card with the numbers.

Two linear changes are written into the weights: scores become probabilities of being right (`calibrate`), and
embeddings are centred on the mean of training nuclei (`centre`), by which cosines find kin better
(benchmarks/kin_across.py). Neither changes the order of the scores, or a type. All else is chosen on the recipe's
validation splits, of which each tissue counts alike, for the weights as rounded and the predictor as it is now. The
threshold is that of `celldetr threshold SET:val ... --protocol within-radius`.

    CELLDETR_DATA=... python benchmarks/ship_weights.py runs/pan-20x/model pan-20x
    CELLDETR_DATA=... celldetr evaluate brca-m2c -o brca.json    # scores the weights as shipped
    CELLDETR_DATA=... python benchmarks/ship_weights.py src/celldetr/weights/pan-20x pan-20x --metrics brca.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from celldetr.config import Recipe, ThresholdOptions, parse
from celldetr.data.sources import load_source
from celldetr.evaluation.curve import score_pairs
from celldetr.evaluation.evaluate import choose_threshold
from celldetr.evaluation.format import show_threshold
from celldetr.evaluation.image_cells import LOWEST_SCORE, ImageCells
from celldetr.evaluation.protocols import find_protocol
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint, save_checkpoint, save_familiarity
from celldetr.model.detection import BoxHead
from celldetr.model.hub import PACKAGED
from celldetr.model.inference import TilePredictor
from celldetr.model.representation import RepresentationLayer
from celldetr.training.data import validation_px
from celldetr.training.familiarity import measure, training_images
from celldetr.training.validation import predict_images, validate

PROTOCOL = "within-radius"


def headline(summary: dict[str, Any]) -> dict[str, float]:
    """F1 of an evaluation under one rule of pairing, with its bootstrap interval where there is one, and of masks."""
    found = {"detection.f1": summary["detection"]["f1"]}
    found |= {key: summary[key] for key in ("mean_type_f1", "mean_type_f1_classwise")}
    masks = summary.get("masks") or {}
    found |= {f"masks.{key}": masks.get(key) for key in ("bpq", "sq", "aji")}
    found["median_mask_iou"] = summary.get("median_mask_iou")
    for name, interval in summary.get("intervals_95", {"metrics": {}})["metrics"].items():
        if name in found and interval is not None:
            found |= {f"{name}.low": interval[0], f"{name}.high": interval[1]}
    return {key: value for key, value in found.items() if value is not None}


def quoted(metrics: Path) -> dict[str, dict[str, float]]:
    """Headline numbers of an evaluation under two pairing rules, by data set, split and protocol."""
    report = json.loads(metrics.read_text(encoding="utf-8"))
    where = f"{report['context']['dataset']} {report['context']['split']}"
    summaries = {"standard": report, PROTOCOL: report["protocols"][PROTOCOL]}
    return {f"{where}, {name}": headline(summary) for name, summary in summaries.items()}


def logistic(sets: Sequence[Sequence[ImageCells]]) -> tuple[float, float]:
    """Slope and offset that make logits of objectness those of being right, over sets that count alike."""
    logits, right, weights = [], [], []
    for images in sets:
        scores = np.concatenate([image.pred_scores for image in images])
        hits = [
            np.isin(np.arange(len(i.pred_scores)), score_pairs(i, find_protocol(PROTOCOL).radius_um)[0]) for i in images
        ]
        logits.append(logit(scores))
        right.append(np.concatenate(hits))
        weights.append(np.full(len(scores), 1 / len(scores)))
    fit = LogisticRegression(C=np.inf, tol=1e-8)
    weight = np.concatenate(weights)
    fit.fit(np.concatenate(logits)[:, None], np.concatenate(right), weight / weight.mean())
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


@torch.no_grad()
def calibrate(network: CellDETR, slope: float, offset: float) -> None:
    """Write slope and offset into the weights of every objectness: the order of the scores stays."""
    for module in network.modules():
        if isinstance(module, BoxHead):
            module.objectness.weight *= slope
            module.objectness.bias.mul_(slope).add_(offset)


@torch.no_grad()
def centre(network: CellDETR, mean: Tensor) -> None:
    """Subtract a mean (d,) from embeddings, and give the type head back what it loses."""
    assert network.representer is not None
    last = cast(RepresentationLayer, network.representer.layers[-1])
    last.ffn.norm.bias.sub_(mean)
    network.type_head.bias.add_(network.type_head.weight @ mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument(
        "--metrics", type=Path, nargs="+", default=[], help="add these to the card, and change nothing else"
    )
    options = parser.parse_args()
    checkpoint, folder = load_checkpoint(options.checkpoint), PACKAGED / options.name
    network, card = checkpoint.network, checkpoint.card
    if options.metrics:
        for path in options.metrics:
            card = card.model_copy(update={"metrics": card.metrics | quoted(path)})
        save_checkpoint(folder, network, card, dtype=torch.float16)
        if checkpoint.familiarity:
            save_familiarity(folder, checkpoint.familiarity)
        return
    recipe = parse(Recipe, card.recipe, str(options.checkpoint))
    types, mpp = recipe.model.types, recipe.model.mpp
    sources = [load_source(source, types, mpp) for source in recipe.validation]
    raw = TilePredictor(network, threshold=LOWEST_SCORE)
    slope, offset = logistic([predict_images(raw, source)[0] for source in sources])
    print(f"calibration: slope {slope:.3f}, offset {offset:.3f}")
    calibrate(network, slope, offset)
    network = network.half().float()  # as it is read back
    names = [f"{source.card}:{source.split}" for source in recipe.validation]
    before = float(expit(slope * logit(card.threshold) + offset))  # the threshold of training, on the new scale
    predictor = TilePredictor(network, threshold=before)
    choice, sets = choose_threshold(predictor, names, ThresholdOptions(protocols=(PROTOCOL,)))
    for line in show_threshold(choice, before, sets):
        print(line)
    familiarity = measure(
        TilePredictor(network, threshold=choice.threshold), *training_images(recipe), validation_px(recipe)
    )
    if familiarity is None:
        print("too few training nuclei for familiarity: embeddings are not centred")
    else:
        centre(network, torch.from_numpy(familiarity.mean))
        familiarity = replace(familiarity, mean=np.zeros_like(familiarity.mean))
    network = network.half().float()
    predictor = TilePredictor(network, threshold=LOWEST_SCORE)
    _, validation = validate(predictor, [sample for source in sources for sample in source])
    errors = {f"calibration_error {each.name}": each.calibration_error for each in sets}
    step = card.metrics.get("validation", {}).get("step")
    metrics = {"validation": {**validation, "threshold": choice.threshold, **errors, "step": step}}
    update = {"name": options.name, "metrics": metrics, "threshold": choice.threshold}
    saved = save_checkpoint(folder, network, card.model_copy(update=update), dtype=torch.float16)
    if familiarity is not None:
        save_familiarity(folder, familiarity)
    print(f"{folder}: {saved.sha256}")


if __name__ == "__main__":
    main()
