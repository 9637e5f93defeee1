"""The cells of an image as a DataFrame that a notebook shows with their picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.schema import BOX
from celldetr.report.crops import jpeg_uri
from celldetr.report.held_table import HeldTable
from celldetr.report.overview import draw_overview, fitting
from celldetr.slide.damage import read_around

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader

LONG_SIDE = 900  # px, of the picture that is kept
DRAWN = (*BOX, "type", "geometry")
UNSHOWN = ("embedding", "geometry")  # columns that are no text


@dataclass(frozen=True)
class Ground:
    """What cells are drawn on: ``pixels`` (H, W, 3) uint8, ``scale`` of them a pixel of the image; its name and mpp."""

    pixels: NDArray[np.uint8]
    scale: float
    name: str
    mpp: float

    @classmethod
    def of(cls, reader: SlideReader) -> Ground:
        """A picture of an open image."""
        width, height, scale = fitting(reader.width, reader.height, LONG_SIDE)
        pixels, _ = read_around(reader, 0, 0, reader.width, reader.height, width, height)
        return cls(pixels, scale, reader.name, reader.mpp)


class CellFrame(pd.DataFrame):
    """Cells of an image: a pandas DataFrame, to be filtered and sorted as any other, which a notebook shows drawn.

    What is left of it after filtering is what is drawn. Results that lose ``x_px``, ``type`` or ``geometry`` are shown
    as a table alone.
    """

    _metadata = ["ground"]  # noqa: RUF012 - pandas passes these on to frames made of this one, and unpickles a list only
    ground: Ground | None = None

    @property
    def _constructor(self) -> type[CellFrame]:
        return CellFrame

    def picture(self) -> Image.Image | None:
        """The image with these cells, a legend with counts and a scale bar; None where there is nothing to draw."""
        if self.ground is None or not set(DRAWN) <= set(self.columns) or not hasattr(self["type"], "cat"):
            return None
        return draw_overview(self.ground.pixels, self.ground.scale, _as_table(self, self.ground))

    def _repr_html_(self) -> str:
        shown = pd.DataFrame(self).drop(columns=[name for name in UNSHOWN if name in self.columns])
        table = str(shown._repr_html_())  # type: ignore[operator]
        picture = self.picture()
        return table if picture is None else f'<img src="{jpeg_uri(picture)}" alt="the cells, drawn">\n{table}'

    def _repr_png_(self) -> bytes | None:
        picture = self.picture()
        if picture is None:
            return None
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        return stream.getvalue()


def _as_table(frame: pd.DataFrame, ground: Ground) -> HeldTable:
    """What is drawn of the cells."""
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in BOX}
    columns["type"] = pa.array(frame["type"].astype(str).to_numpy(), pa.string())
    columns["geometry"] = pa.array(list(frame["geometry"]), pa.binary())
    return HeldTable(
        path=Path(ground.name),
        run={},
        slide=ground.name,
        name=ground.name,
        mpp=ground.mpp,
        types=tuple(map(str, frame["type"].cat.categories)),
        columns=DRAWN,
        embedding_dim=0,
        count=len(frame),
        cells=pa.table(columns),
    )
