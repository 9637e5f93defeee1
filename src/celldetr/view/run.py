"""A run that is looked at: its slides, opened when they are first asked for, and the kin of their cells."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from celldetr.errors import InputError
from celldetr.search.collection import Collection, SlideCells, Sources, find_cells
from celldetr.search.slides import check_slides, open_slides
from celldetr.slide.base_reader import SlideReader
from celldetr.view import pixels
from celldetr.view.cells import SQUARE_UM, SlideTable
from celldetr.view.embedding_map import EmbeddingMap
from celldetr.view.embeddings import Embeddings
from celldetr.view.kin import Kin
from celldetr.view.lru import Recent
from celldetr.view.teaching import Taught

CACHE = 128 * 2**20  # bytes of JPEG tiles
MARGIN_UM = 20.0  # beyond the last cell, where nobody says how large the slide is


@dataclass(frozen=True)
class ViewedSlide:
    """One slide: its cells, and its pixels or why there are none."""

    cells: SlideTable
    reader: SlideReader | None
    missing: str | None


class ViewedRun:
    """What the server answers from; close it, or use it as a context manager."""

    def __init__(self, cells: Sources, slides: Sequence[Path] = ()) -> None:
        """Find the tables.

        Args:
            cells: as of ``find_cells``.
            slides: slide files, or folders that hold them.

        Raises:
            InputError: see ``find_cells``, or a source of slides does not exist.
        """
        check_slides(slides)
        self.collection: Collection = find_cells(cells)
        self.embeddings = Embeddings(self.collection)
        self.kin = Kin(self.collection, self.embeddings)
        self.map = EmbeddingMap(self.collection, self.embeddings)
        self.taught = Taught(self.collection, self.embeddings)
        self._sources = tuple(slides)
        self._opened: dict[int, ViewedSlide] = {}
        self._locks = [threading.Lock() for _ in self.collection.slides]
        self._stack = ExitStack()
        self._tiles: Recent[bytes] = Recent(CACHE, len)

    def __enter__(self) -> ViewedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.taught.close()
        self._stack.close()

    def describe(self) -> dict[str, Any]:
        """What the page needs to begin, as JSON values."""
        model = next((one.table.run.get("model") for one in self.collection.slides if one.table.run.get("model")), None)
        return {
            "model": model.get("name") if isinstance(model, dict) else None,
            "cells": self.collection.count,
            "slides": [_listed(slide) for slide in self.collection.slides],
        }

    def describe_slide(self, place: int) -> dict[str, Any]:
        """Size, tiles and columns of a slide, as JSON values."""
        slide = self.slide(place)
        table = slide.cells.table
        if slide.reader is not None:
            pyramid = pixels.pyramid_of(slide.reader)
        else:
            mpp_x, mpp_y = slide.cells.mpp
            corner = slide.cells.centres().max(0, initial=1.0) + MARGIN_UM
            width = table.run["width"] * mpp_x if "width" in table.run else float(corner[0])
            height = table.run["height"] * mpp_y if "height" in table.run else float(corner[1])
            pyramid = pixels.Pyramid(width, height, min(mpp_x, mpp_y))
        return {
            "name": self.collection.slides[place].name,
            "width": pyramid.width,
            "height": pyramid.height,
            "finest": pyramid.finest,
            "levels": pyramid.levels,
            "tile": pixels.TILE,
            "square": SQUARE_UM,
            "physical": table.mpp_xy is not None,
            "missing": slide.missing,
            "count": table.count,
            "columns": slide.cells.columns,
        }

    def slide(self, place: int) -> ViewedSlide:
        """A slide by its place in the list; opened the first time.

        Raises:
            InputError: there is no such slide.
        """
        if not 0 <= place < len(self.collection.slides):
            raise InputError(f"no slide {place}; there are {len(self.collection.slides)}")
        with self._locks[place]:
            if place not in self._opened:
                name = self.collection.slides[place].name
                opened = self._stack.enter_context(open_slides(self.collection, self._sources, [name]))
                missing = opened.missing[0] if opened.missing else None
                cells = SlideTable(self.collection.slides[place].table)
                self._opened[place] = ViewedSlide(cells, opened.readers.get(name), missing)
            return self._opened[place]

    def prepare(self) -> None:
        """Read what the page asks for first, while the browser opens: cells of the first slide, and it as a whole."""
        with suppress(InputError):  # the page says it
            cells = self.slide(0).cells
            cells.centres()
            cells.column()
            pyramid = pixels.pyramid_of(self.reader(0))
            for place in itertools.product(range(2), range(2), range(2)):
                if pyramid.holds(*place):
                    self.tile(0, *place)

    def reader(self, place: int) -> SlideReader:
        """The pixels of a slide. Raises InputError: there are none."""
        slide = self.slide(place)
        if slide.reader is None:
            raise InputError(slide.missing or "no pixels")
        return slide.reader

    def tile(self, place: int, level: int, column: int, row: int) -> bytes:
        """One tile as a JPEG. Raises InputError: there is none."""
        reader = self.reader(place)
        if not pixels.pyramid_of(reader).holds(level, column, row):
            raise InputError(f"no tile {level}/{column}/{row} of slide {place}")
        return self._tiles.get((place, level, column, row), lambda: pixels.tile(reader, level, column, row))

    def thumbnail(self, place: int) -> bytes:
        """The whole slide as a small JPEG."""
        reader = self.reader(place)
        return self._tiles.get((place, "thumbnail"), lambda: pixels.thumbnail(reader, 160))

    def crop(self, place: int, row: int, side: int) -> bytes:
        """The tissue around a cell as a JPEG of ``side`` px."""
        reader, cells = self.reader(place), self.slide(place).cells
        if side not in pixels.CROPS:
            raise InputError(f"side {side}: expected one of {', '.join(map(str, pixels.CROPS))}")
        if not 0 <= row < cells.table.count:
            raise InputError(f"no row {row} of slide {place}")
        x, y = (float(value) for value in cells.centres()[row] / np.array(cells.mpp))
        return self._tiles.get((place, "crop", row, side), lambda: pixels.crop(reader, x, y, side))


def _listed(slide: SlideCells) -> dict[str, Any]:
    return {"name": slide.name, "count": slide.table.count}
