"""What a model gets wrong, in pictures: nuclei that it misses, boxes without a nucleus, wrong types.

CELLDETR_DATA=... python benchmarks/known_failures.py small-20x nuinsseg test --images 12 --out missed.jpg

A row of the picture is a kind of error; a crop is 40 um wide, with what it is about in the middle: magenta what the
labels say, yellow what the model says. Of misses a random choice is shown, of the others those that the model is surest
of; where there are enough images, from different ones, and none at the edge of its image.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import celldetr
from celldetr.data.card import load_card
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.data.sources import load_samples, map_types, same_names
from celldetr.evaluation.image_cells import ImageCells, predict_samples
from celldetr.evaluation.protocols import find_protocol, pair_image
from celldetr.slide.array import array_cells

COLUMNS, CROP_UM = 8, 40.0
TITLES = {"missed": "not found", "false": "no nucleus in the labels", "wrong": "another type in the labels"}


class Failure(NamedTuple):
    """One error: its image, place and box (xyxy), how sure the model was, and what is written above its crop."""

    image: int
    x: float
    y: float
    box: NDArray[np.float64]
    sure: float
    caption: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("card")
    parser.add_argument("split")
    parser.add_argument("--images", type=int, help="at most; spread over the split")
    parser.add_argument("--out", type=Path, required=True, help="JPEG or PNG to write")
    options = parser.parse_args()
    model, card = celldetr.load_model(options.model), load_card(options.card)
    samples = load_samples(card, options.split)
    if options.images:
        samples = [samples[i] for i in np.linspace(0, len(samples) - 1, min(options.images, len(samples))).astype(int)]
    samples = map_types(samples, model.types, same_names(card.type_names, model.types))
    images = list(predict_samples(lambda image, mpp: array_cells(image, mpp, model), samples, model.types))
    found = failures(images, model.types)
    true, seen = sum(len(image.true_xy) for image in images), sum(len(image.pred_xy) for image in images)
    print(f"{options.model} on {options.card} {options.split}, {len(images)} images: {true} nuclei, {seen} found")
    for kind, errors in found.items():
        pairs = Counter(error.caption for error in errors) if kind == "wrong" else {}
        print(f"{TITLES[kind]}: {len(errors)}", *(f"{caption} {count}" for caption, count in pairs.items()), sep="; ")
    draw(found, samples, images, options.out)


def failures(images: Sequence[ImageCells], types: Sequence[str]) -> dict[str, list[Failure]]:
    """All errors of each kind, those to be shown first."""
    rng, rule = np.random.default_rng(0), find_protocol("within-radius")
    found: dict[str, list[Failure]] = {kind: [] for kind in TITLES}
    for number, image in enumerate(images):
        pairs = pair_image(image, rule)
        for i in np.setdiff1d(np.arange(len(image.true_xy)), pairs.true_idx):
            found["missed"].append(Failure(number, *image.true_xy[i], image.true_boxes[i], rng.random(), ""))
        for i in np.setdiff1d(np.arange(len(image.pred_xy)), pairs.pred_idx):
            score = image.pred_scores[i]
            found["false"].append(Failure(number, *image.pred_xy[i], image.pred_boxes[i], score, f"score {score:.2f}"))
        for i, j in zip(pairs.pred_idx, pairs.true_idx, strict=True):
            said, true = image.pred_types[i], image.true_types[j]
            if true not in (UNKNOWN, said):
                caption = f"{types[said]}, is {types[true]}"
                sure = image.pred_type_scores[i]
                found["wrong"].append(Failure(number, *image.pred_xy[i], image.pred_boxes[i], sure, caption))
    return {kind: varied(errors) for kind, errors in found.items()}


def varied(errors: list[Failure]) -> list[Failure]:
    """The surest first, but each image's second after every image's first."""
    turn: Counter[int] = Counter()
    keyed = []
    for error in sorted(errors, key=lambda error: -error.sure):
        keyed.append((turn[error.image], error))
        turn[error.image] += 1
    return [error for _, error in sorted(keyed, key=lambda pair: (pair[0], -pair[1].sure))]


def draw(found: dict[str, list[Failure]], samples: Sequence[Sample], images: Sequence[ImageCells], path: Path) -> None:
    """The picture: a row a kind of which there are any."""
    rows = {kind: errors for kind, errors in found.items() if errors}
    figure = Figure(figsize=(1.75 * COLUMNS, 2.1 * len(rows)), layout="constrained")
    for part, (kind, errors) in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows.items(), strict=True):
        part.suptitle(f"{TITLES[kind]}: {len(errors)}", fontsize=11)
        axes = part.subplots(1, COLUMNS)
        for axis in axes:
            axis.set_axis_off()
        whole = [error for error in errors if within(error, samples[error.image])]
        for axis, error in zip(axes, whole, strict=False):
            half = CROP_UM / 2 / images[error.image].mpp
            axis.imshow(samples[error.image].image)
            outline(axis, images[error.image].true_boxes, "magenta", 0.6)
            outline(axis, images[error.image].pred_boxes, "yellow", 0.6)
            outline(axis, error.box[None], "magenta" if kind == "missed" else "yellow", 2.2)
            axis.set(xlim=(error.x - half, error.x + half), ylim=(error.y + half, error.y - half))
            axis.set_title(error.caption, fontsize=7)
    figure.savefig(path, dpi=110)


def within(error: Failure, sample: Sample) -> bool:
    """Whether its crop lies in the image."""
    half = CROP_UM / 2 / sample.mpp
    height, width = sample.image.shape[:2]
    return half <= error.x <= width - half and half <= error.y <= height - half


def outline(axis: Axes, boxes: NDArray[np.float64], colour: str, width: float) -> None:
    """Draw (N, 4) boxes."""
    for x0, y0, x1, y1 in boxes:
        axis.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=colour, lw=width)


if __name__ == "__main__":
    main()
