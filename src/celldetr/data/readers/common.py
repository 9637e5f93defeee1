"""What all readers share: images that are checked, labels that are known, boxes that fit their image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.data.card import DatasetCard
from celldetr.data.pseudo_boxes import pseudo_boxes
from celldetr.data.sample import Sample
from celldetr.errors import InputError, near

# No others: Pillow hands some formats to programs (EPS to Ghostscript), and a file is what it contains, not its suffix.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SLACK = 2.0  # px a box or point may lie outside its image (rounding of the source) before the card is said to lie


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB.

    Raises:
        InputError: no such file, not an image, or one so large that it is not to be decoded in one piece.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except Exception as error:  # damaged headers make Pillow's decoders raise almost anything
        raise InputError(f"{path}: cannot be read as an image ({error or type(error).__name__})") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without surrounding blanks.

    Raises:
        InputError: no such file, or not text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def required_mpp(card: DatasetCard) -> float:
    """The card's mpp.

    Raises:
        InputError: the card has none.
    """
    if card.mpp is None:
        raise InputError(
            f"dataset {card.name!r}: mpp (micrometres per pixel) is missing; pass `mpp=0.5`, say, or write mpp: 0.5"
        )
    return card.mpp


def type_index(card: DatasetCard, label: str, where: str) -> int:
    """Index into ``card.type_names`` of a label of the source.

    Raises:
        InputError: the card does not know the label.
    """
    if card.single_type:
        return 0
    index = card.label_index
    if label not in index:
        raise InputError(f"{where}: label {label!r} is not in the card of {card.name!r}; {near(label, index)}")
    return index[label]


def check_inside(xyxy: NDArray[np.floating], shape: Sequence[int], rows: Sequence[str]) -> NDArray[np.float32]:
    """Clip boxes to their image, or say which lies outside.

    Args:
        xyxy: (N, 4) boxes in pixels.
        shape: (H, W, ...) of the image.
        rows: for each box, where it was read, for the message.

    Raises:
        InputError: a box that is not finite, is empty or inverted, or leaves the image by more than ``SLACK`` pixels.
    """
    boxes = np.asarray(xyxy, dtype=np.float32).reshape(-1, 4)
    height, width = shape[:2]
    low, high = boxes[:, :2], boxes[:, 2:]
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    outside = (low < -SLACK).any(1) | (high > np.array([width, height]) + SLACK).any(1)
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(1)
    bad = ~np.isfinite(boxes).all(1) | outside | empty
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        corners = ", ".join(f"{value:g}" for value in boxes[row])
        what = "is empty" if np.any(high[row] <= low[row]) else f"lies outside the image of {width} x {height} px"
        raise InputError(f"{rows[row]}: box ({corners}) {what}")
    return clipped


def point_sample(
    card: DatasetCard,
    name: str,
    image: NDArray[np.uint8],
    points: NDArray[np.floating],
    types: Sequence[int],
    rows: Sequence[str],
    mpp: float | None = None,
) -> Sample:
    """A sample of annotated points; its boxes are found by ``pseudo_boxes``.

    Args:
        card: the dataset.
        name: of the image.
        image: (H, W, 3) uint8.
        points: (N, 2) x, y in pixels.
        types: N indices into the card's types.
        rows: for each point, where it was read, for messages.
        mpp: of this image; default: the card's.

    Raises:
        InputError: a point outside the image by more than ``SLACK`` pixels; no mpp.
    """
    xy = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    height, width = image.shape[:2]
    size = np.array([width, height], dtype=np.float32)
    bad = ~np.isfinite(xy).all(1) | (xy < -SLACK).any(1) | (xy > size + SLACK).any(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        at = ", ".join(f"{value:g}" for value in xy[row])
        raise InputError(f"{rows[row]}: point ({at}) lies outside the image of {width} x {height} px")
    xy = np.clip(xy, 0, size)
    mpp = required_mpp(card) if mpp is None else mpp
    return Sample(
        name=name,
        image=image,
        mpp=mpp,
        boxes=pseudo_boxes(image, xy, mpp),
        types=np.asarray(types, dtype=np.int64).reshape(-1),
        type_names=card.type_names,
        points=xy,
        group=card.group_of(name),
        derived_boxes=True,
    )


def box_sample(
    card: DatasetCard,
    name: str,
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating],
    types: Sequence[int],
    rows: Sequence[str],
    mpp: float | None = None,
    tissue: str = "",
) -> Sample:
    """A sample of annotated boxes; its points are the boxes' centres.

    Args:
        card: the dataset.
        name: of the image.
        image: (H, W, 3) uint8.
        boxes: (N, 4) xyxy in pixels.
        types: N indices into the card's types, or ``UNKNOWN``.
        rows: for each box, where it was read, for messages.
        mpp: of this image; default: the card's.
        tissue: what the image is of, where the source says so.

    Raises:
        InputError: see ``check_inside``; no mpp.
    """
    checked = check_inside(boxes, image.shape, rows)
    return Sample(
        name=name,
        image=image,
        mpp=required_mpp(card) if mpp is None else mpp,
        boxes=checked,
        types=np.asarray(types, dtype=np.int64).reshape(-1),
        type_names=card.type_names,
        points=((checked[:, :2] + checked[:, 2:]) / 2).astype(np.float32),
        group=card.group_of(name),
        tissue=tissue,
    )
