"""What readers share: reading of images and lines, known labels, and samples whose boxes or points are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.data.card import DatasetCard
from celldetr.data.masks import Masks
from celldetr.data.pseudo_boxes import pseudo_boxes
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.errors import InputError, doubt, near
from celldetr.io.tables import is_missing, read_text
from celldetr.slide.orientation import as_stored
from celldetr.slide.picture import decode_whole

SLACK = 2.0  # px that a box or point may lie outside its image (rounding of the source)


@dataclass(frozen=True)
class Picture:
    """The picture of labels.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        mpp: micrometres per pixel, as given, else as the file says; None: unknown.
        orientation: EXIF or TIFF orientation in which it is stored; 1: as it is seen.
    """

    pixels: NDArray[np.uint8]
    mpp: float | None
    orientation: int = 1

    def stored(self) -> Picture:
        """As the pixels lie in the file, for labels that count there."""
        return replace(self, pixels=as_stored(self.pixels, self.orientation), orientation=1)


def read_picture(path: Path, mpp: float | None = None) -> Picture:
    """Read the picture of labels by the decoder of slides; what it has to say is warned of.

    Args:
        path: the file.
        mpp: as given, instead of what the file says.

    Raises:
        InputError: no such file, not an image, or one so large that it is not to be decoded in one piece.
    """
    try:
        decoded = decode_whole(path, mpp)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: cannot be read as an image ({reason})") from None
    for note in decoded.notes:
        doubt(note)
    if decoded.orientation != 1:
        doubt(
            f"{path}: is stored turned (orientation {decoded.orientation}) and was read upright, as viewers show it;"
            " if its labels count in the file's own rows, save it without that tag"
        )
    return Picture(decoded.pixels, decoded.mpp, decoded.orientation)


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels of ``read_picture``."""
    return read_picture(path).pixels


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without surrounding blanks.

    Raises:
        InputError: no such file, or not text.
    """
    return [line.strip() for line in read_text(path).splitlines()]


def type_index(card: DatasetCard, label: str, where: str) -> int:
    """Index into ``card.type_names`` of a label of the source; ``UNKNOWN`` of one that says that there is none (NA).

    Raises:
        InputError: the card does not know the label.
    """
    if card.single_type:
        return 0
    index = card.label_index
    if label not in index and is_missing(label):
        return UNKNOWN
    if label not in index:
        raise InputError(f"{where}: label {label!r} is not in the card of {card.name!r}; {near(label, index)}")
    return index[label]


def clip_to_image(shapes: NDArray[np.floating], shape: Sequence[int], rows: Sequence[str]) -> NDArray[np.float32]:
    """Clip boxes (N, 4) xyxy or points (N, 2), pixels, to an image of ``shape`` (H, W, ...).

    Raises:
        InputError: one is not finite, is empty or inverted, or leaves the image by more than ``SLACK`` pixels; the
            message has its entry of ``rows``, which says where it was read.
    """
    shapes = np.asarray(shapes, dtype=np.float32)
    size = np.array([shape[1], shape[0]], dtype=np.float32)
    low, high = shapes[:, :2], shapes[:, -2:]
    clipped = np.clip(shapes, 0, np.tile(size, shapes.shape[1] // 2))
    bad = ~np.isfinite(shapes).all(1) | (low < -SLACK).any(1) | (high > size + SLACK).any(1)
    kind = "box" if shapes.shape[1] == 4 else "point"
    if kind == "box":
        bad |= (clipped[:, 2:] <= clipped[:, :2]).any(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        numbers = ", ".join(f"{value:g}" for value in shapes[row])
        is_empty = kind == "box" and np.any(high[row] <= low[row])
        what = "is empty" if is_empty else f"lies outside the image of {shape[1]} x {shape[0]} px"
        raise InputError(f"{rows[row]}: {kind} ({numbers}) {what}")
    return clipped


def needed_mpp(card: DatasetCard, mpp: float | None) -> float:
    """Micrometres per pixel of an image, else the card's.

    Raises:
        InputError: neither is known.
    """
    mpp = mpp or card.mpp
    if mpp is None:
        raise InputError(
            f"dataset {card.name!r}: mpp (micrometres per pixel) is missing; pass `mpp=0.5`, say, or write mpp: 0.5"
        )
    return mpp


def labelled_image(
    card: DatasetCard,
    name: str,
    image: NDArray[np.uint8],
    shapes: NDArray[np.floating],
    types: Sequence[int],
    rows: Sequence[str],
    mpp: float | None = None,
    tissue: str = "",
    masks: Masks | None = None,
) -> Sample:
    """A sample of annotated boxes, or of annotated points with boxes by ``pseudo_boxes``.

    Args:
        card: the dataset.
        name: of the image.
        image: (H, W, 3) uint8.
        shapes: (N, 4) xyxy or (N, 2) xy, in pixels.
        types: N indices into the card's types, or ``UNKNOWN``.
        rows: for each nucleus, where it was read, for messages.
        mpp: of this image; default: the card's.
        tissue, masks: see ``Sample``.

    Raises:
        InputError: see ``clip_to_image``; no mpp.
    """
    mpp = needed_mpp(card, mpp)
    shapes = clip_to_image(shapes, image.shape, rows)
    are_points = shapes.shape[1] == 2
    return Sample(
        name=name,
        image=image,
        mpp=mpp,
        boxes=pseudo_boxes(image, shapes, mpp) if are_points else shapes,
        types=np.asarray(types, dtype=np.int64).reshape(-1),
        type_names=card.type_names,
        points=shapes if are_points else ((shapes[:, :2] + shapes[:, 2:]) / 2).astype(np.float32),
        group=card.group_of(name),
        tissue=tissue,
        derived_boxes=are_points,
        masks=masks,
    )
