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
    """One picture of a sheet: (H, W, 3) uint8 RGB, boxes (N, 4) xyxy in px of it, and a line under it."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    caption: str


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
        for x0, y0, x1, y1 in picture.boxes.tolist():
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
