"""Which resolution is likelier than the stated one: a few places of a slide, read as if it were another.

At the right one the model is sure of more cells, and they have the size of nuclei. Both together are the evidence of a
resolution: the sum of the scores of its cells, times how usual their median size is. Another one is called likelier if
it has twice the evidence of the stated one, and a larger sum of scores: giant nuclei alone do not speak against the
stated one. Most of the places must agree, each for itself. On an image so small that places overlap they are no
witnesses of each other, and only factors of two are called: those of objectives. How often that is right:
benchmarks/familiarity.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from celldetr.model.output import TileCells, TileModel
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import DamageError

FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)  # of the stated micrometres per pixel
WINDOW_UM = 128.0  # side of a place, by the stated resolution
USUAL_UM, SPREAD = 6.0, 0.3  # median size of the nuclei of a set of images, and how far its logarithm is off
MUCH = 2.0  # times the evidence of the stated resolution
SURER = 1.05  # times its sum of scores
FEWEST = 20  # cells that tell anything
AGREE = 0.6  # share of the places with cells that must find it likelier, each for itself


@dataclass(frozen=True)
class Trial:
    """What a model finds at a resolution: cells, the sum of their scores, their median size in um, and the evidence."""

    mpp: float
    cells: int
    scores: float
    size_um: float
    evidence: float
    places: tuple[float, ...] = ()  # evidence at each place alone


def windows(reader: SlideReader, centres: NDArray[np.floating]) -> list[tuple[float, float, float, float]]:
    """Places (x, y, width, height) in level-0 pixels around ``centres`` (N, 2), moved into the slide."""
    width, height = min(WINDOW_UM / reader.mpp_x, reader.width), min(WINDOW_UM / reader.mpp_y, reader.height)
    corners = (centres - np.array([width, height]) / 2).clip(0, [reader.width - width, reader.height - height])
    return [(float(x), float(y), width, height) for x, y in corners]


def overlap(places: Sequence[tuple[float, float, float, float]]) -> bool:
    """Whether any two places (x, y, width, height) do."""
    corner, size = np.array(places).reshape(-1, 2, 2).swapaxes(0, 1)
    apart = (np.abs(corner[:, None] - corner) >= size).any(-1)
    return not (apart | np.eye(len(places), dtype=bool)).all()


def read_window(
    reader: SlideReader, place: tuple[float, float, float, float], mpp: float, factor: float = 1.0
) -> NDArray[np.uint8] | None:
    """Pixels of a place at ``mpp``, if the slide had ``factor`` times its stated mpp; None where it is damaged."""
    x, y, width, height = place
    size = [max(1, round(side * each * factor / mpp)) for side, each in ((width, reader.mpp_x), (height, reader.mpp_y))]
    try:
        return reader.read_region(x, y, width, height, *size)
    except DamageError:
        return None


def try_scales(
    reader: SlideReader, model: TileModel, places: Sequence[tuple[float, float, float, float]]
) -> list[Trial]:
    """Find the cells of places at each of ``FACTORS``."""
    trials = []
    for factor in FACTORS:
        tiles = [read_window(reader, place, model.mpp, factor) for place in places]
        found = model.predict_tiles([tile for tile in tiles if tile is not None])
        own = tuple(_weigh([cells], reader.mpp, model.mpp).evidence for cells in found)
        trials.append(replace(_weigh(found, reader.mpp * factor, model.mpp), places=own))
    return trials


def likelier(trials: Sequence[Trial], *, small: bool = False) -> Trial | None:
    """The trial with most evidence, if it has much more than the stated resolution, and places agree.

    Args:
        trials: as of ``FACTORS``.
        small: whether the places overlap.
    """
    stated = trials[FACTORS.index(1.0)]
    called = [trial for trial, factor in zip(trials, FACTORS, strict=True) if not small or factor in (0.5, 1.0, 2.0)]
    best = max(called, key=lambda trial: trial.evidence)
    if best is stated or best.cells < FEWEST or best.scores < SURER * stated.scores:
        return None
    votes = [theirs > ours for theirs, ours in zip(best.places, stated.places, strict=True) if theirs or ours]
    if votes and np.mean(votes) < AGREE:
        return None
    return best if best.evidence >= MUCH * stated.evidence else None


def _weigh(found: Sequence[TileCells], mpp: float, model_mpp: float) -> Trial:
    """Evidence of the cells of some tiles, at the model's mpp, for the slide's having ``mpp``."""
    sizes = np.concatenate([np.empty(0), *((c.boxes[:, 2:] - c.boxes[:, :2]).prod(1) ** 0.5 for c in found)])
    if not len(sizes):
        return Trial(mpp, 0, 0.0, float("nan"), 0.0)
    size = float(np.median(sizes)) * model_mpp
    usual = float(np.exp(-((np.log(size / USUAL_UM) / SPREAD) ** 2) / 2))
    scores = sum(float(cells.scores.sum()) for cells in found)
    return Trial(mpp, len(sizes), scores, size, usual * scores)
