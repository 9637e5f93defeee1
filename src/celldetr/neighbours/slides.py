"""The slide files that cells are from, to show them. Their places are the user's to say, never a table's: a file from a
stranger does not decide what is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from celldetr.errors import InputError
from celldetr.neighbours.collection import Collection, SlideCells
from celldetr.slide.find import slides_among
from celldetr.slide.reader import SlideReader, open_slide, slide_name


@dataclass(frozen=True)
class OpenSlides:
    """Slides that could be opened, by the name of the folder of their cells, and why others could not."""

    readers: Mapping[str, SlideReader]
    missing: tuple[str, ...]


def check_slides(sources: Sequence[Path]) -> None:
    """Say before the work that its pictures cannot be drawn.

    Raises:
        InputError: a source does not exist.
    """
    for source in sources:
        if not source.exists():
            raise InputError(f"--slides {source}: no such file or folder; give slide files, or folders that hold them")


def _candidates(sources: Sequence[Path]) -> dict[str, Path]:
    """Name of a slide's results -> file, of the files given and of all in the folders given."""
    check_slides(sources)
    found: dict[str, Path] = {}
    for source in sources:
        # Beside slides lie their labels, thumbnails and annotations.
        files = slides_among(sorted(filter(Path.is_file, source.iterdir()))) if source.is_dir() else [source]
        for file in files:
            found.setdefault(slide_name(file), file)
    return found


@contextmanager
def open_slides(collection: Collection, sources: Sequence[Path], names: Sequence[str]) -> Iterator[OpenSlides]:
    """Open the files of some slides.

    Args:
        collection: the cells.
        sources: slide files, or folders that hold them.
        names: of the slides that are wanted.

    Raises:
        InputError: a source does not exist.
    """
    files = _candidates(sources)
    readers: dict[str, SlideReader] = {}
    missing = []
    with ExitStack() as stack:
        for name in names:
            cells = collection.slides[collection.position(name)]
            file = files.get(name) or files.get(slide_name(Path(cells.table.slide)))
            if file is None:
                where = "none given with --slides" if not sources else "not among --slides"
                missing.append(f"{name}: no slide file {cells.table.slide!r} ({where})")
                continue
            try:
                reader = stack.enter_context(open_slide(file, cells.table.mpp))
                _check(cells, reader)
            except InputError as error:
                missing.append(f"{name}: {error}")
            else:
                readers[name] = reader
        yield OpenSlides(readers, tuple(missing))


def _check(cells: SlideCells, reader: SlideReader) -> None:
    for key, actual in (("width", reader.width), ("height", reader.height)):
        if cells.table.run.get(key, actual) != actual:
            raise InputError(
                f"{reader.file}: has a {key} of {actual} px, the slide of the cells {cells.table.run.get(key)}"
            )
