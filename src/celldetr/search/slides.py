"""The slide files that cells are from, to show them. Their places are the user's to say, never a table's: a file from a
stranger does not decide what is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from celldetr.errors import InputError
from celldetr.search.collection import Collection, SlideCells
from celldetr.slide.base_reader import SlideReader, slide_name
from celldetr.slide.find import slides_below
from celldetr.slide.reader import IMAGES, open_slide


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
            raise InputError(f"`slides={source}`: no such file or folder; give slide files, or folders that hold them")


def _candidates(sources: Sequence[Path]) -> dict[str, list[Path]]:
    """Name of a slide's results -> its file, of the files given and of all below the folders given; the first source
    that has one counts. Several files where a source has several slides of that name."""
    check_slides(sources)
    found: dict[str, list[Path]] = {}
    for source in sources:
        below: dict[str, list[Path]] = {}
        for file in slides_below(source) if source.is_dir() else [source]:
            below.setdefault(slide_name(file), []).append(file)
        for name, files in below.items():
            # Thumbnails are often called as their slides and lie in a folder of their own.
            found.setdefault(name, [file for file in files if file.suffix.lower() not in IMAGES] or files)
    return found


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
    files = _candidates(sources)
    readers: dict[str, SlideReader] = {}
    missing = []
    with ExitStack() as stack:
        for name in names:
            cells = collection.slides[collection.position(name)]
            same = files.get(name) or files.get(slide_name(Path(cells.table.slide)))
            if same is None:
                where = "none given with `slides`" if not sources else "not among `slides`"
                missing.append(f"{name}: no slide file {cells.table.slide!r} ({where})")
                continue
            if len(same) > 1:
                missing.append(f"{name}: may be {same[0]} or {same[1]}; give the file itself before the folder")
                continue
            try:
                reader = stack.enter_context(open_slide(same[0], cells.table.mpp))
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
