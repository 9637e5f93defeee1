"""Instance maps (CoNSeP, DSB2018): beside each image a map of its size, 0 for background, a number for each nucleus.

Types come from a JSON file ``{"number": label}`` beside the map or a CSV file beside the card (``nucleus_types``), or
there is a single type. Boxes are the exact extents of the nuclei: a nucleus of pixels 3 to 5 spans [3, 6].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from celldetr.config import Positive
from celldetr.data.card import DatasetCard
from celldetr.data.masks import number_nuclei
from celldetr.data.nucleus_parts import USUAL_MPP
from celldetr.data.readers.common import Picture, labelled_image, read_picture, type_index
from celldetr.data.readers.layout import FileLayout, Item, find_items
from celldetr.data.readers.nucleus_types import NucleusTypes
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.io.left_out import LeftOut
from celldetr.io.safe_io import load_json
from celldetr.slide.orientation import ORIENTATION

# No others: Pillow hands some formats to programs (EPS to Ghostscript), and a file is what it contains, not its suffix.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")


SMALLEST_UM = 2.5  # side of a square as large as a piece that may be a nucleus of its own
SHARED = 0.1  # of the numbers, that may be of several pieces
JOINED, SEVERAL = "read as one nucleus each", "numbers of several that lie apart or hang together by a thin bridge"
BRIDGE_UM = 1.0  # widest that two nuclei of one number may hang together by


class InstanceOptions(FileLayout):
    """Options of the format ``instance_maps``."""

    suffix: str = ".png"  # of the map, after the image's name; .npy and image formats are read
    types_suffix: str = ""  # of the JSON file with the labels; not needed with a single type
    types_file: str = ""  # instead: CSV file with the labels of some nuclei, beside the card (``nucleus_types``)
    # For sets of unknown and mixed scale: every image's mpp is chosen so that its median nucleus has this diameter (of
    # a circle of its area), and the card's mpp is not used.
    median_diameter_um: Positive | None = None


def read_map(path: Path) -> NDArray[np.integer]:
    """Read an (H, W) instance map.

    Raises:
        InputError: missing, unreadable, or not one non-negative whole number per pixel.
    """
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            with Image.open(path, formats=FORMATS) as image:
                if image.mode == "P":
                    raise ValueError("a palette image: colours, not numbers of nuclei")
                if image.format == "JPEG":
                    raise ValueError("JPEG changes the numbers of nuclei: save it as PNG or TIFF")
                if (pages := getattr(image, "n_frames", 1)) > 1:
                    raise ValueError(f"{pages} pages, of which one may be the map: save that alone")
                if image.getexif().get(ORIENTATION, 1) != 1:
                    raise ValueError("stored turned: save it without the tag Orientation, as its image lies")
                values = np.asarray(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such instance map") from None
    except Exception as error:  # damaged headers make Pillow and NumPy raise almost anything
        raise InputError(f"{path}: cannot be read as an instance map ({error or type(error).__name__})") from None
    if not isinstance(values, np.ndarray):
        raise InputError(f"{path}: cannot be read as an instance map (an archive of arrays)")
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer) or values.min(initial=0) < 0:
        raise InputError(
            f"{path}: expected one whole number >= 0 per pixel, got {values.dtype} of shape {values.shape}"
        )
    return values


def as_of_map(picture: Picture, shape: tuple[int, ...], path: Path) -> Picture:
    """A picture that is stored turned as its map lies.

    Raises:
        InputError: the map fits in both ways.
    """
    if picture.orientation == 1:
        return picture
    stored = picture.stored()
    if picture.pixels.shape[:2] == stored.pixels.shape[:2]:
        raise InputError(
            f"{path}: its image is stored turned (orientation {picture.orientation}); is the map as the image is stored"
            " or as it is seen? Save the image without that tag, as the map lies"
        )
    return stored if stored.pixels.shape[:2] == shape else picture


def check_map(instances: NDArray[np.integer], path: Path, mpp: float) -> NDArray[np.integer]:
    """The numbers of a map, rising, that are of several nuclei: pieces of such a size lie apart or hang by a bridge.

    Raises:
        InputError: a number takes most of the map and reaches all of its edges, as the background does, which must be
            0; or of a tenth of the numbers and more, pieces lie apart: of classes, or saved with too few bits.
    """
    edges = (instances[0], instances[-1], instances[:, 0], instances[:, -1])
    numbers, counts = np.unique(np.concatenate(edges), return_counts=True)
    ground = numbers[counts.argmax()] if len(numbers) else 0
    if ground and all((edge == ground).any() for edge in edges) and 2 * (instances == ground).sum() > instances.size:
        raise InputError(f"{path}: number {ground} covers most of it, as the background does, which must be 0")
    inside = _inside(instances)
    apart, count = _several(instances, inside, mpp)
    if len(apart) and len(apart) >= SHARED * count:
        raise InputError(
            f"{path}: {len(apart)} of its {count} numbers are of several nuclei that lie apart; is it a map of"
            " classes, or was it saved with 8 bits? Each nucleus needs a number of its own, in 16 bits"
        )
    if narrow := round(BRIDGE_UM / 2 / mpp):
        inside = ndimage.binary_erosion(inside, np.ones((3, 3)), narrow, border_value=1)
    return np.union1d(apart, _several(instances, inside, mpp)[0])


def _several(instances: NDArray[np.integer], inside: NDArray[np.bool_], mpp: float) -> tuple[NDArray[np.integer], int]:
    """Numbers that are in several pieces of a nucleus's size in what is ``inside``, and how many are in one or more."""
    labels = ndimage.label(inside, np.ones((3, 3)))[0]
    large = np.flatnonzero(np.sqrt(np.bincount(labels.ravel())[1:]) * mpp >= SMALLEST_UM) + 1
    places = ndimage.maximum_position(labels, labels, large) if len(large) else []
    kinds, pieces = np.unique([instances[place] for place in places], return_counts=True)
    return kinds[pieces > 1].astype(np.int64), len(kinds)


def _inside(instances: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels of nuclei, without those that touch another number: what is connected is of one number."""
    inside = instances > 0
    for axis in (0, 1):
        differs = np.diff(instances, axis=axis) != 0
        before = [slice(None), slice(None)]
        before[axis] = slice(None, -1)
        inside[tuple(before)] &= ~differs
    return inside


def _types(card: DatasetCard, item: Item, options: InstanceOptions, numbers: NDArray[np.int64]) -> list[int]:
    """Type index of each nucleus."""
    if card.single_type:
        return [0] * len(numbers)
    if not options.types_suffix:
        raise InputError(
            f"dataset {card.name!r}: with types {list(card.types)} the format instance_maps needs "
            "options.types_suffix, e.g. _types.json, or options.types_file"
        )
    path = item.label(options.types_suffix)
    values = load_json(path)
    try:
        labels = {int(number): str(label) for number, label in values.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f'{path}: expected JSON {{"number of the nucleus": label}} ({error})') from None
    missing = sorted(set(numbers.tolist()) - set(labels))
    if missing:
        raise InputError(f"{path}: no label for nucleus {missing[0]} of the map ({len(missing)} without)")
    return [type_index(card, labels[number], f"{path}, nucleus {number}") for number in numbers.tolist()]


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split; nuclei are in rising order of their numbers in the map.

    Raises:
        InputError: a file is missing, map and image differ in size, or a nucleus has no known label.
    """
    options = card.options_as(InstanceOptions)
    named = NucleusTypes(card, options.types_file) if options.types_file else None
    joined = LeftOut(f"dataset {card.name!r}", JOINED)
    for item in find_items(card, split, options):
        picture = read_picture(item.image, item.mpp or card.mpp)
        path = item.label(options.suffix)
        instances = read_map(path)
        image = as_of_map(picture, instances.shape, path).pixels
        if instances.shape != image.shape[:2]:
            raise InputError(f"{path}: {instances.shape} (rows, columns), but its image has {image.shape[:2]}")
        for number in check_map(instances, path, picture.mpp or USUAL_MPP):
            joined.add(SEVERAL, f"{path.name}: {number}")
        numbers, masks = number_nuclei(instances)
        boxes, areas = masks.extents()
        mpp = picture.mpp
        if options.median_diameter_um is not None:
            if not len(areas):
                raise InputError(f"{path}: no nucleus to measure the scale by, as options.median_diameter_um asks")
            mpp = options.median_diameter_um / float(np.median(np.sqrt(areas * 4 / np.pi)))
        rows = [f"{path}, nucleus {number}" for number in numbers]
        types = named.of(item.name, numbers, boxes) if named else _types(card, item, options, numbers)
        yield labelled_image(card, item.name, image, boxes, types, rows, mpp, masks=masks)
    joined.tell()
