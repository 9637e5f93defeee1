"""Which slides a run is over: files as they are, the slides in a folder, or those that a list names.

A folder is searched by the names of files, not by opening them: thousands on a share would take minutes, and a slide
that cannot be opened should be recorded as failed, not passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from celldetr.cells.schema import CELLS, RUN
from celldetr.errors import InputError, near
from celldetr.io.left_out import LeftOut
from celldetr.io.safe_io import slide_name
from celldetr.io.tables import as_number, read_table, read_text
from celldetr.slide.dicom import dicom_series
from celldetr.slide.ome_zarr import has_image, is_store
from celldetr.slide.reader import IMAGES, SLIDES, UNREADABLE

LISTS = {".txt", ".csv"}
# Last endings of files that hold a slide, but not as one (a.svs.part, a.ndpi.gz).
NOT_WHOLE = {".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".gz", ".bz2", ".xz", ".zip", ".7z"}
SLIDE_COLUMNS = ("slide", "path", "file")
SCALES = {"resolution", "pixelsize", "umperpx", "umperpixel", "micronsperpixel", "magnification", "mppx"}


@dataclass(frozen=True)
class Slide:
    """One slide of a run."""

    path: Path  # of the file
    # micrometres per pixel of its level 0, instead of what the file or the command says; None: as these say
    mpp: float | None = None

    @property
    def name(self) -> str:
        """What the folder of its results is called."""
        return slide_name(self.path)


def find_slides(sources: Sequence[Path], out: Path | None = None) -> list[Slide]:
    """The slides that files, folders and lists stand for, each once, in their order.

    Args:
        sources: slides, folders to be searched, or lists (``.txt``, ``.csv``).
        out: where results go; not searched.

    Raises:
        InputError: a folder or list without a slide, a list that cannot be read, two slides with one name, or one slide
            with two mpp.
    """
    slides: dict[Path, Slide] = {}
    paths: dict[str, Path] = {}
    for source in sources:
        for slide in _slides_of(source, out):
            known = slides.setdefault(slide.path.absolute(), slide)
            if known.mpp != slide.mpp:
                raise InputError(f"{slide.path}: is named with mpp {known.mpp} and with {slide.mpp}; name it once")
    for slide in slides.values():
        first = paths.setdefault(slide.name, slide.path)
        if first is not slide.path:
            raise InputError(f"{first} and {slide.path} would both write to OUT/{slide.name}; run them with two OUT")
    return list(slides.values())


def is_cohort(sources: Sequence[Path]) -> bool:
    """Whether these stand for many slides, even if there should be one: what is summed up then is expected."""
    return len(sources) > 1 or any(
        (source.is_dir() and not is_store(source)) or source.suffix.lower() in LISTS for source in sources
    )


def _slides_of(source: Path, out: Path | None) -> list[Slide]:
    if source.is_dir():
        slides = [Slide(path) for path in slides_below(source, out)]
        if not slides:
            raise InputError(f"{source}: no slide in this folder; looked for {', '.join(sorted(SLIDES | IMAGES))}")
        return slides
    if source.suffix.lower() in LISTS:
        return _read_list(source)
    return [Slide(source)]


def slides_below(folder: Path, out: Path | None = None, seen: set[Path] | None = None) -> Iterator[Path]:
    """Slides in a folder, or itself if it is one (OME-Zarr), and in the folders in it, sorted.

    Not in hidden folders, results (``out``), the folder that belongs to a MIRAX slide or a Deep Zoom image, or folders
    that are ``seen``.
    Links to folders are followed; what is left out is said.

    Raises:
        InputError: a folder cannot be read.
    """
    seen = set() if seen is None else seen
    real = folder.resolve()
    if real in seen or (out is not None and real == out.resolve()):
        return
    seen.add(real)
    if is_store(folder):
        yield folder
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be searched ({error.strerror or error})") from None
    names = {entry.name for entry in entries}
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    slides = _slides_among([entry for entry in shown if entry.is_file()])
    if names & {RUN, CELLS}:
        left = LeftOut(folder)
        for slide in slides:
            if slide.suffix.lower() in SLIDES:
                left.add("slides in a folder of results, or of a Xenium run", slide.name)
        left.tell()
        return
    _tell_left_out(folder, shown, slides)
    yield from slides
    for entry in entries:
        hidden = entry.name.startswith(".") or f"{entry.name}.mrxs" in names
        hidden |= f"{entry.name.removesuffix('_files')}.dzi" in names  # tiles of a Deep Zoom image
        if entry.is_dir() and not hidden and (has_image(entry) or not is_store(entry)):
            yield from slides_below(entry, out, seen)


def _tell_left_out(folder: Path, entries: Sequence[Path], slides: Sequence[Path]) -> None:
    """Say which entries of a folder look like slides and are none of ``slides``."""
    left = LeftOut(folder)
    for entry in entries:
        suffix, is_file = entry.suffix.lower(), entry.is_file()
        if entry.is_symlink() and not entry.exists() and suffix in SLIDES | IMAGES:
            left.add("links to nothing", entry.name)
        elif suffix in UNREADABLE and is_file:
            left.add(f"files {suffix}, which {UNREADABLE[suffix]}", entry.name)
        elif is_store(entry) and not has_image(entry):
            left.add("Zarr stores that are no image", entry.name)
        elif suffix in NOT_WHOLE and {each.lower() for each in entry.suffixes} & SLIDES:
            left.add("slides that are packed or not whole", entry.name)
        elif suffix in IMAGES and is_file and slides and entry not in slides:
            left.add("pictures beside slides", entry.name)
    left.tell()


def _slides_among(files: Sequence[Path]) -> list[Path]:
    """The slides among the files of a folder; images where it has no slide."""
    slides = [path for path in files if path.suffix.lower() in SLIDES]
    # All DICOM files of a series are one slide, and any of them opens it.
    series: dict[bytes, Path] = {}
    slides = [
        path for path in slides if path.suffix.lower() != ".dcm" or series.setdefault(dicom_series(path), path) is path
    ]
    # Beside slides, pictures are their labels, thumbnails, or (VMS) the parts of one.
    return slides or [path for path in files if path.suffix.lower() in IMAGES]


def _read_list(path: Path) -> list[Slide]:
    """A list: one path a line, or a CSV with a column of paths and perhaps ``mpp``; relative to the list's folder."""
    if path.suffix.lower() == ".csv":
        slides = list(_table_rows(path))
    else:
        lines = [line.strip().strip('"') for line in read_text(path).splitlines()]
        slides = [Slide(_listed(path, line)) for line in lines if line and not line.startswith("#")]
    if not slides:
        raise InputError(f"{path}: names no slide")
    return slides


def _listed(path: Path, name: str) -> Path:
    """A path of a list; Windows' separators are understood where there is no file of the name as it is written."""
    plain = path.parent / name
    return plain if "\\" not in name or plain.exists() else path.parent / name.replace("\\", "/")


def _table_rows(path: Path) -> Iterator[Slide]:
    table = read_table(path)
    columns = {name.lower(): table.column(name) for name in table.header if name}
    column = next((columns[name] for name in SLIDE_COLUMNS if name in columns), None)
    if column is None:
        raise InputError(f"{path}: has no column 'slide'; {near('slide', columns)}")
    left = LeftOut(path)
    for name in table.header:
        if "mpp" not in columns and "".join(filter(str.isalnum, name.lower())) in SCALES:
            left.add("columns of scale that are not called mpp", name)
    for line, cells in table.rows:
        text = cells[columns["mpp"]] if "mpp" in columns else ""
        mpp = as_number(text)
        if text and mpp is None:
            raise InputError(f"{path}, line {line}: mpp {text!r} is not a number")
        if cells[column]:
            yield Slide(_listed(path, cells[column]), mpp)
        else:
            left.add("rows that name no slide", f"line {line}")
    left.tell()
