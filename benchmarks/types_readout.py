"""What holds the types back: the type head, the balance of types, too little tissue around a cell, or the embeddings?

CELLDETR_DATA=... python benchmarks/types_readout.py | tee benchmarks/results/types_readout.txt

True boxes, so that detection plays no part. Logistic regressions learn from the nuclei of BRCA-M2C's training tiles, or
from those and the typed ones of NuInsSeg; validation tiles of BRCA-M2C and CoNSeP's training tiles, which no shipped
weights have seen, score them (`inflammatory` counts as lymphocyte, `spindle` as stromal). Each reads the embedding
alone or beside it the mean of a feature map in a Gaussian window about the cell. "prior" adapts the balance of types
to each image by expectation-maximisation; "neighbours" multiplies a cell's probabilities with the weighted mean of
those of the cells around it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from celldetr.boxes import normalise_boxes
from celldetr.data.card import load_card
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples, rescale
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import PACKAGED

TYPES = ("lymphocyte", "epithelial", "stromal")
SAME = {"inflammatory": "lymphocyte", "spindle": "stromal"}
BREAST, ORGANS = ("brca-m2c:train",), ("brca-m2c:train", "nuinsseg-typed:train", "nuinsseg-typed:epithelia")
SCORED = {"breast": ("brca-m2c:val",), "colon": ("consep-train:fit", "consep-train:val")}
ALIGN = 32  # px; sides are padded to a multiple
MAPS = ("backbone 8", "backbone 16", "backbone 32", "encoder 8", "encoder 16", "encoder 32")
WINDOWS = (24, 48, 96)  # standard deviations, px
PRIOR = np.array([0.25, 0.5, 0.25])
REACHES, WEIGHTS = (15, 40), (0.3, 1.0)  # px, exponent: of neighbours

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Nuclei:
    """N nuclei of typed images: features by name (N, d), the head's logits (N, 3), centres, types, and their images."""

    features: dict[str, Floats]
    logits: Floats
    centres: Floats
    types: NDArray[np.int64]
    image: NDArray[np.int64]


def joined(parts: list[Nuclei]) -> Nuclei:
    return Nuclei(
        {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("logits", "centres", "types")),
        np.repeat(np.arange(len(parts)), [len(part.types) for part in parts]),
    )


@torch.inference_mode()
def describe(network: CellDETR, context: bool, sample: Sample) -> Nuclei:
    """Embeddings, logits and, if asked for, means of feature maps around the typed nuclei of an image."""
    sample = rescale(sample, network.config.mpp)
    names = [SAME.get(name, name) for name in sample.type_names]
    types = np.array([TYPES.index(names[kind]) if kind >= 0 and names[kind] in TYPES else -1 for kind in sample.types])
    sample, types = sample.keep(types >= 0), types[types >= 0]
    height, width = (-(-side // ALIGN) * ALIGN for side in sample.image.shape[:2])
    beyond = (0, height - sample.image.shape[0]), (0, width - sample.image.shape[1]), (0, 0)
    image = torch.from_numpy(np.pad(sample.image, beyond, mode="reflect")).permute(2, 0, 1)[None].contiguous()
    levels = network.levels(network.normalise(image))
    memories = network.encode_levels(levels, torch.tensor([[float(width), float(height)]]), None)
    boxes = normalise_boxes(torch.from_numpy(sample.boxes), width, height)[None]
    read = network.represent(memories, boxes)
    features = {"": read.embeddings[0].double().numpy()}
    centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]).astype(np.float64) / 2
    if context:
        maps = {f"backbone {stride}": level[0] for stride, level in levels.items()}
        rest = memories.detection.tokens[0]
        for stride in network.config.encoder_strides:
            shape = height // stride, width // stride
            tokens, rest = rest[: shape[0] * shape[1]], rest[shape[0] * shape[1] :]
            maps[f"encoder {stride}"] = tokens.T.reshape(-1, *shape)
        for name, window in ((name, window) for name in MAPS for window in WINDOWS):
            stride = int(name.split()[1])
            pooled = torch.nn.functional.avg_pool2d(maps[name][None], max(1, 16 // stride))[0].numpy()
            stride = max(stride, 16)
            where = centres[:, ::-1].T / stride - 0.5
            blurred = gaussian_filter(pooled, (0, window / stride, window / stride), mode="reflect")
            around = [map_coordinates(channel, where, order=1, mode="nearest") for channel in blurred]
            features[f"{name}, {window} px"] = np.stack(around, 1).astype(np.float64)
    return Nuclei(features, read.logits[0, :, :3].double().numpy(), centres, types, np.zeros(len(types), np.int64))


def mean_f1(truth: NDArray[np.int64], scores: Floats) -> float:
    return float(f1_score(truth, scores.argmax(1), labels=[0, 1, 2], average="macro"))


def adapted(nuclei: Nuclei, damping: float) -> Floats:
    """Probabilities with the balance of types of each image, estimated from itself (Saerens et al. 2002)."""
    found = softmax(nuclei.logits, 1)
    for image in np.unique(nuclei.image):
        own, balance = found[nuclei.image == image], PRIOR
        for _ in range(50):
            likely = own * balance / PRIOR
            likely /= likely.sum(1, keepdims=True)
            balance = (likely.sum(0) + damping * PRIOR) / (len(own) + damping)
        found[nuclei.image == image] = likely
    return found


def with_neighbours(nuclei: Nuclei, reach: float, weight: float) -> Floats:
    """Log probabilities plus a share of those of the cells around, which count by their distance."""
    logs = log_softmax(nuclei.logits, 1)
    found = logs.copy()
    for image in np.unique(nuclei.image):
        own = nuclei.image == image
        apart = np.linalg.norm(nuclei.centres[own][:, None] - nuclei.centres[own], axis=-1)
        near = np.exp(-((apart / reach) ** 2) / 2) * (1 - np.eye(len(apart)))
        around = (near @ np.exp(logs[own]) + 0.1) / (near.sum(1, keepdims=True) + 0.3)
        found[own] += weight * np.log(around)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["pan-20x", "small-20x"])
    parser.add_argument("--images", type=int, help="the first so many of each split, for a trial")
    given = parser.parse_args()
    print(f"{'mean F1 of three types at true boxes':62s}" + "".join(f"{name:>8s}" for name in SCORED), flush=True)
    for model in given.models:
        network = load_checkpoint(PACKAGED / model).network.eval()
        look = partial(describe, network, model == given.models[0])
        nuclei = {}
        for name in {*ORGANS, *(each for sets in SCORED.values() for each in sets)}:
            card, split = name.split(":")
            parts = [look(sample) for sample in load_samples(load_card(card), split)[: given.images]]
            nuclei[name] = joined([part for part in parts if len(part.types)])
        tests = {name: joined([nuclei[each] for each in sets]) for name, sets in SCORED.items()}

        def row(text: str, scores: list[Floats], model: str = model, tests: dict[str, Nuclei] = tests) -> None:
            found = [mean_f1(test.types, each) for test, each in zip(tests.values(), scores, strict=True)]
            print(f"{model + ', ' + text:62s}" + "".join(f"{f1:8.3f}" for f1 in found), flush=True)

        row("its head", [test.logits for test in tests.values()])
        for bias in (0.4, 0.8):
            row(f"its head, epithelial + {bias}", [test.logits + np.array([0, bias, 0]) for test in tests.values()])
        for damping in (0, 100):
            row(f"its head, prior, damping {damping}", [adapted(test, damping) for test in tests.values()])
        for reach, weight in ((reach, weight) for reach in REACHES for weight in WEIGHTS):
            row(
                f"its head, neighbours within {reach} px, weight {weight}",
                [with_neighbours(test, reach, weight) for test in tests.values()],
            )
        for sets, name in ((BREAST, "breast"), (ORGANS, "all organs")):
            training = joined([nuclei[each] for each in sets])
            for extra in training.features:
                chosen = ("", extra) if extra else ("",)
                learnt = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
                learnt.fit(np.concatenate([training.features[each] for each in chosen], 1), training.types)
                row(
                    f"readout learned on {name}" + (f", and {extra}" if extra else ""),
                    [
                        learnt.predict_log_proba(np.concatenate([test.features[each] for each in chosen], 1))
                        for test in tests.values()
                    ],
                )


if __name__ == "__main__":
    main()
