"""The slide files that cells are from, to show them.

The user says where they are, never a table: a file from a stranger does not decide what is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celldetr.cells.rings import Ring
from celldetr.errors import InputError
from celldetr.io.safe_io import slide_name
from celldetr.report.crops import PIXELS, CellCrop, cell_pixels
from celldetr.search.collection import Collection, SlideCells
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.find import slides_below
from celldetr.slide.reader import IMAGES, open_slide


@dataclass(frozen=True)
class OpenSlides:
    """Slides that could be opened, and their files, by the name of the folder of their cells; why others could not."""

    readers: Mapping[str, SlideReader]
    files: Mapping[str, Path]
    missing: tuple[str, ...]

    def crop(
        self, slide: SlideCells, cell: Mapping[Any, Any], ring: Ring, title: str, *, is_query: bool = False
    ) -> CellCrop:
        """A cell (its columns by name, its border) for a figure; without pixels where its slide is not open."""
        reader = self.readers.get(slide.name)
        pixels = None
        if reader is not None:
            pixels = cell_pixels(reader, cell["x_px"], cell["y_px"], (reader.mpp_x, reader.mpp_y), PIXELS)
        border = (ring - (cell["x_px"], cell["y_px"])) * (slide.table.mpp_xy or (1.0, 1.0))
        return CellCrop(title, pixels, border, str(cell["type"]), is_query)


def check_slides(sources: Sequence[Path]) -> None:
    """Raise ``InputError`` for a source that does not exist."""
    for source in sources:
        if not source.exists():
            raise InputError(f"`slides={source}`: no such file or folder; give slide files, or folders that hold them")


def _candidates(sources: Sequence[Path]) -> dict[str, list[Path]]:
    """Name of a slide's results -> its file, of the files given and of all below the folders given; the first source
    that has one counts. Several files where a source has several slides of that name."""
    check_slides(sources)
    files_of: dict[str, list[Path]] = {}
    for source in sources:
        below: dict[str, list[Path]] = {}
        for file in slides_below(source) if source.is_dir() else [source]:
            below.setdefault(slide_name(file), []).append(file)
        for name, files in below.items():
            # Thumbnails are often named as their slides and lie in a folder of their own.
            files_of.setdefault(name, [file for file in files if file.suffix.lower() not in IMAGES] or files)
    return files_of


@contextmanager
def open_slides(collection: Collection, sources: Sequence[Path], names: Sequence[str]) -> Iterator[OpenSlides]:
    """Open the files of some slides.

    Args:
        collection: the cells.
        sources: slide files, or folders that hold them, searched as ``celldetr predict`` does.
        names: of the slides that are wanted.

    Raises:
        InputError: a source does not exist.
    """
    candidates = _candidates(sources)
    readers: dict[str, SlideReader] = {}
    opened: dict[str, Path] = {}
    missing = []
    with ExitStack() as stack:
        for name in names:
            cells = collection.slides[collection.position(name)]
            files = candidates.get(name) or candidates.get(slide_name(Path(cells.table.slide)), [])
            try:
                file = _only(files, cells, sources)
                reader = stack.enter_context(open_slide(file, cells.table.mpp))
                _check_size(cells, reader)
            except InputError as error:
                missing.append(f"{name}: {error}")
            else:
                readers[name], opened[name] = reader, file
        yield OpenSlides(readers, opened, tuple(missing))


def _only(files: Sequence[Path], cells: SlideCells, sources: Sequence[Path]) -> Path:
    if not files:
        where = "not among `slides`" if sources else "none given with `slides`"
        raise InputError(f"no slide file {cells.table.slide!r} ({where})")
    if len(files) > 1:
        raise InputError(f"may be {files[0]} or {files[1]}; give the file itself before the folder")
    return files[0]


def _check_size(cells: SlideCells, reader: SlideReader) -> None:
    for key, actual in (("width", reader.width), ("height", reader.height)):
        expected = cells.table.run.get(key, actual)
        if expected != actual:
            raise InputError(f"{reader.file}: has a {key} of {actual} px, the slide of the cells {expected}")
