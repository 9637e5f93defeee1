"""How much of the attention stays inside the nucleus: the number behind box-constrained attention.

Measured at the true boxes of data sets that have masks, so that every network is asked about the same cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from celldetr.data.card import DatasetCard
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples, rescale
from celldetr.errors import InputError
from celldetr.model.attention_trace import AttentionTrace

# An image at a network's mpp and boxes (N, 4) xyxy in pixels of it -> where the network looks.
Trace = Callable[[NDArray[np.uint8], NDArray[np.float32]], AttentionTrace]


@dataclass(frozen=True)
class AttentionInside:
    """Shares of the attention, means over the N cells of a data set; layers are those of the representation decoder.

    Attributes:
        cells: N.
        in_mask: share inside the nucleus's own mask after each layer.
        in_box: share inside its box after each layer.
        mask_of_box: share of its box that the mask fills: what attention spread evenly over the box would have.
    """

    cells: int
    in_mask: tuple[float, ...]
    in_box: tuple[float, ...]
    mask_of_box: float


def masked_samples(card: DatasetCard, split: str) -> Sequence[Sample]:
    """The images of a split, each nucleus with a mask.

    Raises:
        InputError: the data set has none, or its files are wrong.
    """
    samples = load_samples(card, split, shapes="masks")
    if any(sample.masks is None or not sample.masks.complete for sample in samples):
        raise InputError(f"dataset {card.name!r} has no masks of nuclei; expected one that has, e.g. consep")
    return samples


def attention_inside(trace: Trace, mpp: float, samples: Iterable[Sample], tile: int) -> AttentionInside:
    """Measure a network.

    Args:
        trace: of the network.
        mpp: that it wants; images are resampled, masks are not: points are carried back to their pixels.
        samples: see ``masked_samples``.
        tile: longest side, px at ``mpp``, of what the network sees at once; larger images are cut, and a cell is looked
            at in the part that holds its centre.

    Raises:
        InputError: no nucleus in the samples.
    """
    in_mask, in_box, fill = [], [], []
    for sample in samples:
        if sample.masks is None:
            continue
        instances, numbers = sample.masks.map(sample.image.shape), np.arange(1, len(sample) + 1)
        areas = np.bincount(instances.ravel(), minlength=len(sample) + 1)[1:]
        fill.append(areas / np.prod(sample.boxes[:, 2:] - sample.boxes[:, :2], axis=1))
        scaled = rescale(replace(sample, masks=None), mpp)
        height, width = scaled.image.shape[:2]
        factor = np.array([instances.shape[1] / width, instances.shape[0] / height], dtype=np.float32)
        for left, top, right, bottom in _parts(width, height, tile):
            here = (scaled.points >= (left, top)).all(1) & (scaled.points < (right, bottom)).all(1)
            if not here.any():
                continue
            corner = np.array([left, top], dtype=np.float32)
            seen = trace(scaled.image[top:bottom, left:right], scaled.boxes[here] - np.tile(corner, 2))
            in_box.append(seen.share_in_box())
            on_map = replace(seen, locations=(seen.locations + corner) * factor)
            in_mask.append(share_in_mask(on_map, instances, numbers[here]))
    if not in_mask:
        raise InputError("no nucleus in these images: there is nothing to look at")
    shares = [np.concatenate(parts, axis=1) for parts in (in_mask, in_box)]
    means = [tuple(float(mean) for mean in share.mean(1)) for share in shares]
    return AttentionInside(shares[0].shape[1], means[0], means[1], float(np.concatenate(fill).mean()))


def share_in_mask(
    trace: AttentionTrace, instances: NDArray[np.integer], numbers: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Share of the attention inside each cell's own mask.

    A point counts with all its weight where the pixel that it lies in belongs to the nucleus. (A level reads the four
    cells around a point bilinearly, and their features have seen more: where information comes from is not so sharp.)

    Args:
        trace: its locations are pixels of the map.
        instances: (H, W) a number for each nucleus, 0 for background.
        numbers: (N,) of the cells in the map.

    Returns:
        (A, N) for the A layers of the representation decoder.
    """
    height, width = instances.shape
    x, y = np.floor(trace.locations.astype(np.float64)).astype(np.int64).transpose(5, 0, 1, 2, 3, 4)
    in_image = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    found = instances[y.clip(0, height - 1), x.clip(0, width - 1)]
    return trace.share(in_image & (found == numbers[:, None, None, None]))


def _parts(width: int, height: int, tile: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of parts of nearly equal size, none longer than ``tile``, that cover an image."""
    xs, ys = (np.linspace(0, side, -(-side // tile) + 1).round().astype(int).tolist() for side in (width, height))
    return [(left, top, right, bottom) for top, bottom in pairwise(ys) for left, right in pairwise(xs)]
