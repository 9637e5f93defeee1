"""Data sources: samples of a dataset card, at the resolution and with the types of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr import measure, plugins
from celldetr.config import DataSource
from celldetr.data.autocard import PATCHES, find_card
from celldetr.data.card import DatasetCard
from celldetr.data.label_checks import check_labels, tell_copies, without_repeats
from celldetr.data.label_share import with_image_share, with_label_share
from celldetr.data.patch_set import PatchSet
from celldetr.data.readers import brca_m2c, coco, instance_maps, no_nuclei, pannuke, points_csv, qupath_geojson
from celldetr.data.sample import UNKNOWN, LazySamples, Sample, image_digest
from celldetr.data.tiling import cut
from celldetr.errors import InputError, near
from celldetr.io.left_out import LeftOut

Reader = Callable[[DatasetCard, str], Iterator[Sample]]  # a card and the name of one of its splits

READERS: dict[str, Reader] = {
    "brca_m2c": brca_m2c.read,
    "coco": coco.read,
    "instance_maps": instance_maps.read,
    "no_nuclei": no_nuclei.read,
    "pannuke": pannuke.read,
    "points_csv": points_csv.read,
    "qupath_geojson": qupath_geojson.read,
}

Shapes = Literal["boxes", "outlines", "masks"]  # of nuclei, that samples are to have; boxes they always have

SAME_MPP = 0.01  # relative difference in mpp below which an image is not resampled


def load_samples(
    card: DatasetCard, split: str, *, limit: int | None = None, shapes: Shapes = "boxes"
) -> Sequence[Sample]:
    """Read a split of a dataset.

    Args:
        card: the dataset.
        split: a name in ``card.splits``.
        limit: read no more images than this, whatever pieces they come in.
        shapes: beside boxes, ``Sample.outlines`` or ``Sample.masks`` where the labels have masks.

    Returns:
        samples in the reader's order, large images in pieces (``data.tiling.cut``); a list, or a ``PatchSet``.

    Raises:
        InputError: the card or the data are wrong; the message names file, row and value.
    """
    if card.format == PATCHES:
        patches = PatchSet(card.directory(), split)
        return patches if limit is None else patches[:limit]
    left = LeftOut(f"dataset {card.name!r}, split {split!r}", "counted once")
    reader = islice(find_reader(card)(card, split), limit)
    read = [_with_shapes(without_repeats(sample, left), shapes, card.least_solidity) for sample in reader]
    if not read:
        raise InputError(f"dataset {card.name!r}, split {split!r}: no image found in {card.directory()}")
    left.tell()
    check_labels(read, card.directory(), card.nucleus_um)
    samples = [piece for sample in read for piece in cut(sample)]
    seen: set[str] = set()
    for sample in samples:
        if sample.name in seen:
            raise InputError(f"dataset {card.name!r}, split {split!r}: two images are named {sample.name!r}")
        seen.add(sample.name)
    samples = [replace(sample, digest=image_digest(sample.image)) for sample in samples]
    tell_copies(samples, card.directory())
    return samples


def find_reader(card: DatasetCard) -> Reader:
    """The reader of a card's format: one of ours, or of another package (entry points ``celldetr.readers``).

    Raises:
        InputError: there is none, or it cannot be imported.
    """
    reader = READERS.get(card.format) or plugins.load_plugin(plugins.READERS, card.format)
    if reader is None:
        known = [*READERS, PATCHES, *plugins.plugin_names(plugins.READERS)]
        raise InputError(f"dataset {card.name!r}: unknown format {card.format!r}; {near(card.format, known)}")
    return reader


def _with_shapes(sample: Sample, shapes: Shapes, least_solidity: float) -> Sample:
    """The sample with what was asked for; outlines of doubtful nuclei are NaN."""
    if shapes == "masks" or sample.masks is None:
        return sample
    outlines = sample.masks.outlines(sample.boxes) if shapes == "outlines" else None
    if outlines is not None and least_solidity:
        solidity = measure.shapes(outlines.astype(np.float64))[:, measure.SHAPES.index("solidity")]
        outlines[solidity < least_solidity] = np.nan
    return replace(sample, outlines=outlines, masks=None)


def rescale(sample: Sample, mpp: float) -> Sample:
    """Resample a sample to another resolution; its nuclei follow. Within 1 % it is returned as it is.

    Raises:
        InputError: ``mpp`` is not positive.
    """
    if not mpp > 0:
        raise InputError(f"mpp={mpp} must be positive: micrometres per pixel, e.g. 0.5")
    factor = sample.mpp / mpp
    if abs(factor - 1) <= SAME_MPP:
        return sample
    height, width = sample.image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # Pillow's filter widens with the factor when shrinking, so nothing aliases.
    image = np.asarray(Image.fromarray(sample.image).resize(size, Image.Resampling.BICUBIC))
    scale = np.array([size[0] / width, size[1] / height], dtype=np.float32)  # factor, but for rounding to pixels
    outlines = None if sample.outlines is None else sample.outlines * scale
    masks = None if sample.masks is None else sample.masks.moved(scale, np.zeros(2), image.shape)
    boxes, points = sample.boxes * np.tile(scale, 2), sample.points * scale
    return replace(sample, image=image, mpp=mpp, boxes=boxes, points=points, outlines=outlines, masks=masks)


@overload
def map_types(samples: LazySamples, type_names: Sequence[str], mapping: dict[str, str] | None) -> LazySamples: ...


@overload
def map_types(
    samples: Sequence[Sample], type_names: Sequence[str], mapping: dict[str, str] | None
) -> Sequence[Sample]: ...


def map_types(samples: Sequence[Sample], type_names: Sequence[str], mapping: dict[str, str] | None) -> Sequence[Sample]:
    """Give the samples of a data set the types of a model; a list, or of ``LazySamples`` such.

    Args:
        samples: of one data set.
        type_names: the model's types.
        mapping: the data set's type -> the model's type; ``""`` or missing: unknown. None: types of the same name.

    Raises:
        InputError: a name in ``mapping`` that the dataset or the model does not have.
    """
    if not samples:
        return []
    target = tuple(type_names)
    table = type_table(samples[0].type_names, target, mapping)
    convert = partial(_with_types, table=table, type_names=target)
    if isinstance(samples, LazySamples):
        return samples.map(convert, samples.counts @ np.eye(len(target) + 1, dtype=np.int64)[table])
    return [convert(sample) for sample in samples]


def _with_types(sample: Sample, table: NDArray[np.int64], type_names: tuple[str, ...]) -> Sample:
    spots = None if sample.spots is None else sample.spots.map_types(table[:-1], len(type_names))
    return replace(sample, types=table[sample.types], type_names=type_names, spots=spots)


def same_names(source: Sequence[str], target: Sequence[str]) -> dict[str, str]:
    """Each type of a data set that a model has by the same name, as a mapping."""
    return {name: name for name in source if name in target}


def type_table(source: Sequence[str], target: Sequence[str], mapping: dict[str, str] | None) -> NDArray[np.int64]:
    """The mapping of ``map_types`` as a table (K + 1,), indexed by ``Sample.types``; errors as of ``map_types``."""
    pairs = same_names(source, target) if mapping is None else mapping
    for key, name in pairs.items():
        if key not in source:
            raise InputError(f"types: the dataset has no type {key!r}; {near(key, source)}")
        if name and name not in target:
            raise InputError(f"types: the model has no type {name!r} (for {key!r}); {near(name, target)}")
    table = [list(target).index(pairs[name]) if pairs.get(name) else UNKNOWN for name in source]
    return np.array([*table, UNKNOWN], dtype=np.int64)  # UNKNOWN is -1: the last entry


def load_source(
    source: DataSource, type_names: Sequence[str], mpp: float, shapes: Shapes = "boxes"
) -> Sequence[Sample]:
    """Samples of one source of a recipe, at a model's resolution and with its types; ``LazySamples`` of a patch set.

    ``shapes`` is of ``load_samples``.

    Raises:
        InputError: see ``find_card``, ``load_samples``, ``map_types``.
    """
    samples = load_samples(find_card(source.card, source.mpp), source.split, shapes=shapes)
    if isinstance(samples, LazySamples):
        typed = source.types is not None or bool(set(samples[0].type_names) & set(type_names))
        if source.image_share != 1 or (source.label_share != 1 and typed):
            raise InputError(f"{source.card}: a patch set keeps all; leave out label_share and image_share")
        zoom = samples[0].mpp / mpp
        mapped = map_types(samples, type_names, source.types)
        return mapped.map(partial(rescale, mpp=mpp), zoom=zoom if abs(zoom - 1) > SAME_MPP else 1.0)
    if source.image_share != 1:
        samples = with_image_share(samples, source.image_share, source.label_seed)
    samples = map_types(samples, type_names, source.types)
    if source.label_share != 1:
        samples = with_label_share(samples, source.label_share, source.label_seed)
    return [rescale(sample, mpp) for sample in samples]
