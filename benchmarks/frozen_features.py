"""Where types get lost between an ImageNet backbone and an embedding, before anything is trained.

    CELLDETR_DATA=<folder of the data sets> python benchmarks/frozen_features.py -o frozen_features.txt

A linear classifier (as of ``celldetr probe``) learns three types of CoNSeP's training tiles from frozen vectors at true
boxes, and is scored on the five tiles that are kept for choosing. The vectors are the backbone's features averaged over
each box, and what an untrained network of ``small-20x``'s shape makes of them: projected to the transformer's width and
normalised, mixed by the encoder, and the embedding. With ``--models`` they are the embeddings of these models. The type
``other`` is left out: those tiles have 34 of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_convert

from celldetr.api import load_model
from celldetr.config import ModelConfig
from celldetr.data.card import load_card
from celldetr.data.sample import Sample
from celldetr.data.sources import rescale
from celldetr.model.at_boxes import embed_boxes, embed_in_pieces, look_into
from celldetr.model.celldetr import CellDETR, Memories
from celldetr.model.inference import TilePredictor
from celldetr.probe.classify import choose_strength, confusion, linear, macro_f1, standardise, type_f1
from celldetr.probe.crops import CROP_PX, CropEmbedder
from celldetr.probe.handmade import handmade_features
from celldetr.probe.methods import Embed, methods
from celldetr.probe.pooled import PooledEmbedder, average_over
from celldetr.probe.truth import Truth, read_splits
from celldetr.training.whitening import whiten, whitening

CPU = torch.device("cpu")
SEEDS = 3
Made = tuple[NDArray[np.float64], int]  # F1 of each type and their mean; length of a vector


def averages(network: CellDETR, *, encoded: bool) -> Embed:
    """Levels of a network averaged over boxes: as projected, or as the encoder leaves them."""
    config = network.config if encoded else network.config.model_copy(update={"encoder_layers": 0})
    if not encoded:
        bare = CellDETR(config.model_copy(update={"pretrained": "none"})).eval()
        bare.load_state_dict(network.state_dict(), strict=False)
        network = bare

    def read(memories: Memories, boxes: torch.Tensor) -> torch.Tensor:
        memory = memories.representation
        tokens = memory.tokens.transpose(1, 2).split([h * w for h, w in memory.shapes], dim=2)
        levels = [level.unflatten(2, shape) for level, shape in zip(tokens, memory.shapes, strict=True)]
        pixels = box_convert(boxes[0], "cxcywh", "xyxy") * memory.sizes.repeat(1, 2)
        return average_over(pixels, levels, memory.strides)[None]

    look = look_into(TilePredictor(network, threshold=0.5, device=CPU, precision="32"), read)
    return lambda sample: embed_in_pieces(look, 4 * config.d_model, sample.image, sample.boxes)


def untrained(config: ModelConfig, seed: int, **changes: object) -> CellDETR:
    torch.manual_seed(seed)
    return CellDETR(config.model_copy(update={"pretrained": "pypi", **changes})).eval()


def score(embed: Embed, mpp: float, truths: list[Truth]) -> Made:
    """F1 of each type, and their mean, on the second split."""
    vectors = [np.concatenate([embed(rescale(s, mpp)) for s in truth.samples]) for truth in truths]
    return classify(vectors, truths), vectors[0].shape[1]


def classify(vectors: list[NDArray[np.float32]], truths: list[Truth]) -> NDArray[np.float64]:
    train, test = truths
    x, y = standardise(*vectors)
    strength = choose_strength(x, train.types, train.units, 3, 0)
    counts = confusion(test.types, linear(x, train.types, y, strength), 3)
    return np.append(type_f1(counts), macro_f1(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="log to write")
    parser.add_argument("--models", nargs="+", default=[], help="names or folders of models")
    args = parser.parse_args()
    card = load_card("consep-train")
    known = tuple(name for name in card.type_names if name != "other")
    truths = read_splits(card, "fit", "val", None, types=known)
    config = load_model("small-20x", "cpu", precision="32").network.config.model_copy(update={"dropout": 0.0})
    lines = [f"{len(truths[0].types):,} cells teach, {len(truths[1].types):,} are scored"]
    print(lines[0], flush=True)

    def tell(name: str, *made: Made) -> None:
        numbers = np.mean([numbers for numbers, _ in made], axis=0)
        each = "  ".join(f"{kind} {value:.3f}" for kind, value in zip(known, numbers, strict=False))
        lines.append(f"{name:58} {made[0][1]:5}  macro F1 {numbers[-1]:.3f}  {each}")
        print(lines[-1], flush=True)

    rate = partial(score, mpp=config.mpp, truths=truths)
    for method in methods(args.models[0], args.models[1:], "cpu") if args.models else ():
        tell(method.name, score(method.build(0), method.mpp, truths))
    if not args.models:
        learn = [rescale(sample, config.mpp) for sample in truths[0].samples]
        stages(config, rate, tell, learn)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def stages(
    config: ModelConfig, rate: Callable[[Embed], Made], tell: Callable[..., None], learn: Sequence[Sample]
) -> None:
    """Rows from crops to embeddings; those of untrained networks are means of ``SEEDS``.

    What is whitened is whitened on the boxes of ``learn``; types are not looked at.
    """
    tell("crops of 64 px through the backbone", rate(CropEmbedder(CROP_PX, CPU)))
    tell("hand-made features", rate(handmade_features))
    pool = PooledEmbedder(config, CPU)
    tell("the backbone's features averaged over boxes", rate(pool))
    weight, bias = (part.numpy() for part in whitening(np.concatenate([pool(s) for s in learn]), config.d_model))
    tell("  whitened", rate(lambda s: (pool(s) @ weight.T + bias).astype(np.float32)))
    for norm in ("group", "layer"):
        networks = [untrained(config, seed, level_norm=norm) for seed in range(SEEDS)]
        tell(f"  projected, {norm} normalisation", *(rate(averages(n, encoded=False)) for n in networks))
        tell("    through the encoder", *(rate(averages(n, encoded=True)) for n in networks))
        for content in ("size", "features"):
            made = [untrained(config, seed, level_norm=norm, content=content) for seed in range(SEEDS)]
            title = f"    embedding, content of a query from the {content}"
            tell(title, *(rate(embeddings(n)) for n in made))
    zero = {"level_norm": "layer", "content": "features", "residual_start": "zero"}
    made = [untrained(config, seed, **zero) for seed in range(SEEDS)]
    tell("      residual branches start at zero", *(rate(embeddings(n)) for n in made))
    for network in made:
        whiten(network, learn, CPU)
    tell("        content whitened", *(rate(embeddings(n)) for n in made))


def embeddings(network: CellDETR) -> Embed:
    predictor = TilePredictor(network, threshold=0.5, device=CPU, precision="32")
    return lambda sample: embed_boxes(predictor, sample.image, sample.boxes)


if __name__ == "__main__":
    main()
