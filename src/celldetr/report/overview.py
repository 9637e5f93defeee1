"""``overview.png``: the tissue with its typed cells, a legend with counts and a scale bar.

At most ``LONG_SIDE`` pixels long: single cells can be judged on a region or a small slide, and a whole one opens
anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from celldetr.cells.palette import RGB
from celldetr.cells.reader import CellTable, by_taught, open_table
from celldetr.cells.rings import has_outlines
from celldetr.cells.schema import BOX
from celldetr.io.files import replacing
from celldetr.report.marks import draw_cells, draw_roi, hatch
from celldetr.slide.damage import read_around

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader

LONG_SIDE = 3000  # px
LARGEST_ZOOM = 4.0  # a tile of 256 px becomes a picture of 1024; none is enlarged beyond half of LONG_SIDE
SHORT_SIDE = 320  # px that text needs; a narrower picture gets margins
LINE = 1.7  # height of a line, times that of its text
OVERVIEW_NAME = "overview.png"

INK: RGB = (28, 28, 32)
FAINT: RGB = (110, 110, 118)
PAPER: RGB = (255, 255, 255)
RULE: RGB = (222, 222, 226)


def picture_size(width: int, height: int) -> tuple[int, int, float]:
    """Width and height of the picture of a slide, px, and its pixels per level-0 pixel."""
    return fitting(width, height, LONG_SIDE)


def fitting(width: int, height: int, long_side: int) -> tuple[int, int, float]:
    """As of ``picture_size``, of a picture at most ``long_side`` px long."""
    longest = max(width, height)
    zoom = max(1.0, min(LARGEST_ZOOM, long_side / 2 / longest))
    scale = min(zoom, long_side / longest)
    return max(1, round(width * scale)), max(1, round(height * scale)), scale


def count_types(table: CellTable) -> NDArray[np.int64]:
    """(K,) number of cells of each type."""
    counts = np.zeros(len(table.types), dtype=np.int64)
    for batch in table.batches(("type",)):
        counts += np.bincount(table.type_codes(batch), minlength=len(table.types))
    return counts


def nice_length(longest: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 ... that is not more than ``longest`` (positive)."""
    power = 10.0 ** np.floor(np.log10(longest))
    return float(power * max(step for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9)))


def length_text(micrometres: float) -> str:
    """``50`` -> ``50 µm``, ``2000`` -> ``2 mm``."""
    return f"{micrometres / 1000:g} mm" if micrometres >= 1000 else f"{micrometres:g} µm"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: it has the letters of most languages and the micro sign."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _draw_scale_bar(image: Image.Image, um_per_px: float, size: int) -> None:
    """A bar of a round length in the lower left corner, on a plate that keeps it readable; ``size`` of text, px."""
    length = nice_length(image.width * um_per_px / 5)
    bar, label, font = max(2, round(length / um_per_px)), length_text(length), _font(size)
    draw = ImageDraw.Draw(image, "RGBA")
    pad, thick = size // 2, max(3, size // 5)
    text_width = draw.textlength(label, font=font)
    wide, high = max(bar, text_width) + 2 * pad, size * 1.3 + thick + 2 * pad
    left, top = size, image.height - size - high
    draw.rounded_rectangle((left, top, left + wide, top + high), radius=pad // 2, fill=(255, 255, 255, 225))
    middle = left + wide / 2
    draw.text((middle, top + pad * 0.7), label, fill=INK, font=font, anchor="ma")
    bottom = top + high - pad
    draw.rectangle((middle - bar / 2, bottom - thick, middle - bar / 2 + bar - 1, bottom - 1), fill=INK)


def _wrap(widths: Sequence[float], available: float) -> list[list[int]]:
    """Break a row of items into lines no wider than ``available``, in order."""
    lines: list[list[int]] = [[]]
    used = 0.0
    for i, width in enumerate(widths):
        if lines[-1] and used + width > available:
            lines.append([])
            used = 0.0
        lines[-1].append(i)
        used += width
    return lines


def _legend(width: int, names: Sequence[str], counts: NDArray[np.int64], colours: list[RGB], size: int) -> Image.Image:
    """A strip of ``width`` px that names each colour and counts its cells."""
    font, bold = _font(size), _font(size, bold=True)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    total = max(int(counts.sum()), 1)
    values = [f"{count:,} ({100 * count / total:.0f} %)" for count in counts]
    gap = swatch = size
    line_height = round(size * LINE)
    name_widths = [swatch + gap * 0.5 + measure.textlength(name + "  ", font=bold) for name in names]
    widths = [n + measure.textlength(v, font=font) + 2 * gap for n, v in zip(name_widths, values, strict=True)]
    lines = _wrap(widths, width - gap)
    strip = Image.new("RGB", (width, len(lines) * line_height + 2 * (size // 2)), PAPER)
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        left, middle = float(gap), size // 2 + (row + 0.5) * line_height
        for i in line:
            box = (left, middle - swatch / 2, left + swatch, middle + swatch / 2)
            draw.rounded_rectangle(box, radius=swatch // 5, fill=colours[i], outline=INK)
            draw.text((left + swatch + gap * 0.5, middle), names[i], fill=INK, font=bold, anchor="lm")
            draw.text((left + name_widths[i], middle), values[i], fill=FAINT, font=font, anchor="lm")
            left += widths[i]
    return strip


def _title(width: int, title: str, detail: str, size: int) -> Image.Image:
    """A strip of ``width`` px with the slide's name and one line about it."""
    big, font = _font(round(size * 1.25), bold=True), _font(size)
    strip = Image.new("RGB", (width, round(size * 1.25) + round(size * LINE) + round(size * 1.4)), PAPER)
    draw = ImageDraw.Draw(strip)
    while len(title) > 8 and draw.textlength(title, font=big) > width - 2 * size:
        title = title[:-2].rstrip("…") + "…"
    draw.text((size, size * 0.7), title, fill=INK, font=big, anchor="la")
    draw.text((size, strip.height - size * 0.6), detail, fill=FAINT, font=font, anchor="ld")
    return strip


def _stack(strips: Sequence[Image.Image], width: int) -> Image.Image:
    """Strips one below the other, centred, with a thin rule between them."""
    height = sum(strip.height for strip in strips) + len(strips) - 1
    sheet = Image.new("RGB", (width, height), RULE)
    top = 0
    for strip in strips:
        sheet.paste(PAPER, (0, top, width, top + strip.height))
        sheet.paste(strip, ((width - strip.width) // 2, top))
        top += strip.height + 1
    return sheet


def draw_overview(thumbnail: NDArray[np.uint8], scale: float, table: CellTable) -> Image.Image:
    """The picture of a slide with its cells, and the outline of its ROI, between a title and a legend.

    Args:
        thumbnail: (H, W, 3) uint8 RGB of the whole slide.
        scale: pixels of the thumbnail per level-0 pixel.
        table: the cells; without an mpp there is no scale bar.
    """
    shades = list(table.colours.values())
    picture, outlined = draw_cells(thumbnail, scale, table, shades)
    draw_roi(picture, scale, table.run)
    failed = table.run.get("failed_tiles", ())
    for tile in failed:
        hatch(picture, tuple(tile[edge] * scale for edge in BOX))
    width = max(picture.width, SHORT_SIDE)
    size = int(np.clip(width / 70, 13, 34))  # of text, px
    if table.mpp_xy is not None:
        _draw_scale_bar(picture, table.mpp_xy[0] / scale, size)
    detail = "no cells found"
    if table.count:
        mark = ("an outline" if has_outlines(table) else "a box") if outlined else "a dot"
        detail = f"{table.count:,} cells, {mark} each"
    if failed:
        detail += "; hatched: could not be decoded"
    legend = _legend(width, table.types, count_types(table), shades, size)
    return _stack([_title(width, table.slide, detail, size), picture, legend], width)


def write_overview(run_dir: Path, reader: SlideReader) -> Path:
    """Write ``overview.png`` into the directory of a finished run of a slide, replacing an older one; returns its path.

    Raises:
        InputError: there is no table, or the slide cannot be read any more.
    """
    table = by_taught(open_table(run_dir))
    width, height, scale = picture_size(reader.width, reader.height)
    thumbnail, _ = read_around(reader, 0, 0, reader.width, reader.height, width, height)
    target = run_dir / OVERVIEW_NAME
    with replacing(target) as temporary:
        draw_overview(thumbnail, scale, table).save(temporary, format="PNG")
    return target
