"""Images of dark discs."""

from __future__ import annotations

from PIL import Image, ImageDraw


def draw_cells(cells: list[tuple[int, int, int]], size: int = 64) -> Image.Image:
    """Dark discs (x, y, radius) on pink."""
    picture = Image.new("RGB", (size, size), (235, 190, 215))
    for x, y, radius in cells:
        ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(80, 40, 120))
    return picture
