"""A contact sheet: small pictures side by side, the nuclei of each outlined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from celldetr.io.files import replacing

GAP, CAPTION = 8, 14  # px between pictures, and of the line under each
OUTLINE = (0, 200, 120)  # seen on pink and on purple
INK, PAPER = (40, 40, 48), (255, 255, 255)
LETTER = 6.0  # px, width of a letter of Pillow's own small font


@dataclass(frozen=True)
class Picture:
    """One picture of a sheet.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy, px of it.
        caption: the line under it.
        outlines: (N, V, 2) points, px of it, drawn instead of boxes; NaN where there is none; None: boxes alone.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    caption: str
    outlines: NDArray[np.floating] | None = None


def contact_sheet(pictures: Sequence[Picture], columns: int) -> Image.Image:
    """Pictures, at least one, in rows of ``columns``, each given the room of the largest."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = (max(picture.image.shape[axis] for picture in pictures) for axis in (0, 1))
    size = GAP + columns * (width + GAP), GAP + rows * (height + CAPTION + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, picture in enumerate(pictures):
        left = GAP + number % columns * (width + GAP)
        top = GAP + number // columns * (height + CAPTION + GAP)
        image = Image.fromarray(picture.image)
        lines = ImageDraw.Draw(image)
        none = np.full((len(picture.boxes), 1, 2), np.nan)
        outlines = none if picture.outlines is None else picture.outlines
        for (x0, y0, x1, y1), points in zip(picture.boxes.tolist(), outlines, strict=True):
            if np.isfinite(points).all():  # PIL counts from the centre of the first pixel
                lines.line((np.concatenate([points, points[:1]]) - 0.5).ravel().tolist(), fill=OUTLINE, joint="curve")
                continue
            left_px, top_px = round(x0), round(y0)
            # PIL draws the last pixel too, and a box ends before it.
            right_px, bottom_px = max(round(x1) - 1, left_px), max(round(y1) - 1, top_px)
            lines.rectangle((left_px, top_px, right_px, bottom_px), outline=OUTLINE)
        sheet.paste(image, (left, top))
        text = picture.caption.encode("ascii", "replace").decode()
        letters = int(width / LETTER)
        text = text if len(text) <= letters else f"{text[: max(letters - 3, 1)]}..."
        draw.text((left, top + height + 1), text, fill=INK)
    return sheet


def write_contact_sheet(pictures: Sequence[Picture], path: Path, columns: int = 6) -> None:
    """Draw a sheet and write it as PNG."""
    with replacing(path) as temporary:
        contact_sheet(pictures, columns).save(temporary, format="PNG")
