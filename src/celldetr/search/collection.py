"""Cell tables that are looked at together: the slides of a cohort, in one fixed order, streamed.

Embeddings are compared by cosine similarity, so they travel as unit vectors, at most ``BLOCK`` numbers of them at a
time. An embedding that is zero or not finite becomes zero: it is like nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.clusters import table_stamp
from celldetr.cells.reader import BATCH_ROWS, CellTable, batch_embeddings, open_table
from celldetr.cells.schema import CELLS, RUN, embedding_matrix
from celldetr.errors import InputError, near
from celldetr.io.safe_io import is_dir, is_file

BLOCK = 2**22  # numbers of embeddings in memory at once: 16 MB as float32
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class SlideCells:
    """The cells of one slide.

    Attributes:
        name: of the folder of its results, which identifies it in a cohort.
        table: its cells.
        stamp: of the table's content, see ``table_stamp``.
    """

    name: str
    table: CellTable
    stamp: str

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Index of the first row and (n, d) unit vectors, block by block."""
        start = 0
        for batch in self.table.batches(("embedding",), _rows_a_block(self.table.embedding_dim)):
            yield start, unit(batch_embeddings(batch))
            start += len(batch)

    def rows_of(self, ids: Sequence[int]) -> Rows:
        """Rows of the cells with these ``cell_id``.

        Raises:
            InputError: there is no such cell.
        """
        known = self.table.read(["cell_id"])["cell_id"].to_numpy()
        order = np.argsort(known, kind="stable")
        low, high = (int(known.min()), int(known.max())) if len(known) else (0, -1)
        rows = np.empty(0, np.int64)
        absent = [number for number in ids if not low <= number <= high]  # before the cast: they may be no int64
        if not absent:
            rows = order[np.searchsorted(known, np.asarray(ids, np.int64), sorter=order)].astype(np.int64)
            absent = [number for number, found in zip(ids, known[rows].tolist(), strict=True) if found != number]
        if absent:
            reach = f"cell_id goes from {low} to {high}" if len(known) else "it has no cells"
            raise InputError(f"`cell={absent[0]}`: there is no such cell on slide {self.name!r}; {reach}")
        return rows


@dataclass(frozen=True)
class Collection:
    """Slides whose cells are compared.

    Attributes:
        slides: sorted by name, all of one model.
        home: folder in which what is made from all of them goes by default: the cohort's, or the slide's.
    """

    slides: tuple[SlideCells, ...]
    home: Path

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.slides[0].table.embedding_dim

    @property
    def count(self) -> int:
        """Number of cells."""
        return sum(slide.table.count for slide in self.slides)

    @property
    def model(self) -> str | None:
        """Hash of the model that made the embeddings; None where no run says."""
        return next((found for slide in self.slides if (found := _model(slide.table))), None)

    def position(self, name: str) -> int:
        """Place of a slide in ``slides``.

        Raises:
            InputError: there is no such slide.
        """
        for i, slide in enumerate(self.slides):
            if name in (slide.name, slide.table.slide):
                return i
        raise InputError(f"`slide={name!r}`: no such slide; {near(name, (slide.name for slide in self.slides))}")


def _rows_a_block(dim: int) -> int:
    return max(1, min(BATCH_ROWS, BLOCK // dim))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d) scaled to length 1 each; zero where that cannot be."""
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    fits = np.isfinite(largest) & (largest > 0)
    scaled = np.where(fits, vectors, 0) / np.where(fits, largest, 1)
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(norm > 0, norm, 1), dtype=np.float32)


def _model(table: CellTable) -> str | None:
    model = table.run.get("model")
    found = model.get("sha256") if isinstance(model, dict) else None
    return str(found) if found else None


def _tables_in(source: Path) -> list[Path]:
    """The table of a slide's folder or of a file; those of all slides in a cohort's folder."""
    if not is_dir(source) or is_file(source / CELLS) or is_file(source / RUN):
        return [source]
    found = sorted(path.parent for path in source.glob(f"*/{CELLS}") if is_file(path))
    if not found:
        raise InputError(
            f"{source}: no cells here; give cells.parquet, the folder that predict wrote for a slide, or a folder of "
            "such folders"
        )
    return found


def find_cells(sources: Sequence[Path | str], *, clusters: bool = True) -> Collection:
    """Open the cells of slides and cohorts.

    Args:
        sources: ``cells.parquet`` files, folders of results of a slide, or folders of these.
        clusters: with the clusters that ``celldetr cluster`` has found; without, it does not matter if these fit.

    Raises:
        InputError: no table, an unfinished run, tables of different models, or two slides of one name.
    """
    paths = [Path(source) for source in sources]
    slides: dict[Path, SlideCells] = {}
    for path in (table for source in paths for table in _tables_in(source)):
        table = open_table(path, clusters=clusters)
        slides.setdefault(table.path.resolve(), SlideCells(_name(table.path), table, table_stamp(table.path)))
    if not slides:
        raise InputError("no cells given; give cells.parquet, or the folder that predict wrote")
    ordered = sorted(slides.values(), key=lambda slide: slide.name)
    first = ordered[0]
    for one, two in pairwise(ordered):
        if one.name == two.name:
            raise InputError(
                f"two slides are called {one.name!r}: {one.table.path} and {two.table.path}; rename a folder"
            )
    for slide in ordered:
        if slide.table.embedding_dim != first.table.embedding_dim:
            raise InputError(
                f"{slide.table.path}: embeddings of {slide.table.embedding_dim} numbers, those of "
                f"{first.table.path} have "
                f"{first.table.embedding_dim}; compare cells of one model"
            )
        if None not in (hashes := {_model(slide.table), _model(first.table)}) and len(hashes) > 1:
            raise InputError(
                f"{slide.table.path}: made by another model than {first.table.path}; compare cells of one model"
            )
    home = paths[0] if len(paths) == 1 and is_dir(paths[0]) else first.table.path.parent
    return Collection(tuple(ordered), home if len(paths) == 1 else first.table.path.parent.parent)


def _name(path: Path) -> str:
    """Of the folder of a slide's results, as text."""
    return path.resolve().parent.name.encode(errors="replace").decode()


def sample_rows(collection: Collection, size: int, seed: int) -> list[Rows]:
    """Rows of ``size`` random cells of all slides together, sorted, an array a slide; all if there are no more."""
    total = collection.count
    if size >= total:
        return [np.arange(slide.table.count) for slide in collection.slides]
    chosen = np.sort(np.random.default_rng(seed).choice(total, size, replace=False))
    edges = np.concatenate([[0], np.cumsum([slide.table.count for slide in collection.slides])])
    parts = np.split(chosen, np.searchsorted(chosen, edges[1:-1]))
    return [part - start for part, start in zip(parts, edges[:-1], strict=True)]


def unit_embeddings(table: CellTable, rows: Rows) -> NDArray[np.float32]:
    """(n, d) unit vectors of some rows of a table."""
    return unit(embedding_matrix(table.take(rows, ["embedding"])["embedding"]).astype(np.float32))


def gather(collection: Collection, rows: Sequence[Rows]) -> NDArray[np.float32]:
    """(n, d) unit vectors of rows (an array a slide), slide by slide."""
    return np.concatenate(
        [unit_embeddings(slide.table, mine) for slide, mine in zip(collection.slides, rows, strict=True)]
    )
