"""PanNuke's folds as they are published: images, masks and tissues of a fold, each one NumPy array.

images (N, 256, 256, 3), 0 to 255 as float or uint8; masks (N, 256, 256, C + 1), a channel per type with a number for
each nucleus, the last channel background; types (N,) names of tissues. The card's labels are the channels' positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.config import Config
from celldetr.data.card import DatasetCard
from celldetr.data.masks import InstanceMap, number_nuclei
from celldetr.data.readers.common import labelled_image, type_index
from celldetr.data.sample import Sample
from celldetr.errors import InputError


class PannukeOptions(Config):
    """Options of the format ``pannuke``; ``{split}`` stands for the card's value of the split, the fold's number."""

    images: str = "Fold {split}/images/fold{split}/images.npy"
    masks: str = "Fold {split}/masks/fold{split}/masks.npy"
    tissues: str = "Fold {split}/images/fold{split}/types.npy"  # "" = images are named without their tissue


def _map(path: Path, ndim: int) -> NDArray:
    """Map an array of ``ndim`` dimensions."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such array") from None
    except Exception as error:  # NumPy evaluates the header as a literal, which fails in many ways
        raise InputError(
            f"{path}: cannot be read as a NumPy array without pickles ({error or type(error).__name__})"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != ndim:
        shape = array.shape if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{path}: expected {ndim} dimensions, got {shape}")
    return array


def _image(values: NDArray, where: str) -> NDArray[np.uint8]:
    """One image as uint8."""
    if values.dtype == np.uint8:
        return np.array(values)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise InputError(f"{where}: pixel values must be 0 to 255, got {values.min():g} to {values.max():g}")
    return np.rint(values).astype(np.uint8)


def _nuclei(
    masks: NDArray, card: DatasetCard, where: str
) -> tuple[NDArray[np.float32], InstanceMap, list[int], list[str]]:
    """Boxes, masks, types and descriptions of the nuclei of one image; ``masks`` (H, W, C) is without the background.

    Where nuclei of two channels overlap, the pixel is that of the later channel, as in PanNuke's own evaluation.
    """
    boxes, types, rows = [np.zeros((0, 4), dtype=np.float32)], list[int](), list[str]()
    together = np.zeros(masks.shape[:2], np.int32)
    for channel in range(masks.shape[2]):
        instances = np.asarray(masks[:, :, channel])
        if not np.isfinite(instances).all():
            raise InputError(f"{where}, channel {channel}: expected numbers of nuclei, got some that are not finite")
        if not instances.any():
            continue
        numbers, own = number_nuclei(instances.astype(np.int64))
        boxes.append(own.extents()[0])
        together = np.where(own.numbers > 0, own.numbers + len(rows), together)
        types += [type_index(card, str(channel), f"{where}, channel {channel}")] * len(numbers)
        rows += [f"{where}, channel {channel}, nucleus {number}" for number in numbers]
    return np.concatenate(boxes), InstanceMap(together), types, rows


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a fold.

    Raises:
        InputError: an array is missing, of another shape or kind, or the card does not know a channel.
    """
    options = card.options_as(PannukeOptions)
    root, fold = card.directory(), str(card.split(split))
    paths = [root / text.replace("{split}", fold) for text in (options.images, options.masks, options.tissues)]
    images, masks = _map(paths[0], 4), _map(paths[1], 4)
    tissues = _map(paths[2], 1) if options.tissues else None
    for path, array in zip(paths, (images, masks), strict=False):
        if array.dtype.kind not in "uif":
            raise InputError(f"{path}: expected numbers, got {array.dtype}")
    if images.shape[3] != 3 or 0 in images.shape[1:]:
        raise InputError(f"{paths[0]}: expected (N, H, W, 3), got {images.shape}")
    fits = masks.shape[:3] == images.shape[:3] and masks.shape[3] > 1
    if not fits or (tissues is not None and len(tissues) != len(images)):
        others = f"masks {masks.shape}" + ("" if tissues is None else f", types {tissues.shape}")
        raise InputError(f"{paths[1]}: {others} do not fit images {images.shape}")
    for index in range(len(images)):
        where = f"{paths[1]}, image {index}"
        boxes, nuclei, types, rows = _nuclei(masks[index, :, :, :-1], card, where)
        tissue = "" if tissues is None else str(tissues[index])
        name = f"fold{fold}_{index:04d}" + (f"_{tissue}" if tissue else "")
        image = _image(images[index], f"{paths[0]}, image {index}")
        yield labelled_image(card, name, image, boxes, types, rows, tissue=tissue, masks=nuclei)
