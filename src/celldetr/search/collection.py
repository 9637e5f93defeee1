"""The cells of several slides, in one fixed order and streamed: what is searched, indexed and clustered.

Embeddings are compared by cosine similarity, so they travel as unit vectors. One that is zero or not finite becomes
zero: it is similar to nothing.
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
from celldetr.progress import Progress

BLOCK = 2**22  # numbers of embeddings in memory at once: 16 MB as float32
Rows = NDArray[np.int64]
Sources = Path | str | Sequence[Path | str]
"""``cells.parquet`` files, folders of results of a slide, or folders of these (a cohort)."""


@dataclass(frozen=True)
class SlideCells:
    """The cells of one slide, which the name of its folder identifies in a cohort; ``stamp`` as of ``table_stamp``."""

    name: str
    table: CellTable
    stamp: str

    def blocks(
        self, progress: Progress | None = None, done: int = 0, total: int = 0
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Index of the first row and (n, d) unit vectors, block by block; ``done`` of ``total`` cells came before."""
        rows = max(1, min(BATCH_ROWS, BLOCK // self.table.embedding_dim))
        start = 0
        for batch in self.table.batches(("embedding",), rows):
            yield start, unit(batch_embeddings(batch))
            start += len(batch)
            if progress:
                progress(done + start, total)

    def unit_embeddings(self, rows: Rows) -> NDArray[np.float32]:
        """(n, d) unit vectors of some rows."""
        return unit(embedding_matrix(self.table.take(rows, ["embedding"])["embedding"]).astype(np.float32))


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
        """Hash of the model that made the embeddings; None where no run has it on record."""
        return next((hash for slide in self.slides if (hash := model_of(slide.table))), None)

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the types of all slides."""
        return tuple(dict.fromkeys(name for slide in self.slides for name in slide.table.types))

    def position(self, name: str) -> int:
        """Index of a slide in ``slides``; ``InputError`` if there is no such slide."""
        for i, slide in enumerate(self.slides):
            if name in (slide.name, slide.table.slide):
                return i
        raise InputError(f"`slide={name!r}`: no such slide; {near(name, (slide.name for slide in self.slides))}")


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d) scaled to length 1 each; zero where that cannot be."""
    norm = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if ((norm > 1e-15) & (norm < 1e15)).all():  # nothing overflowed: two passes instead of six
        return vectors / norm[:, None]
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    fits = np.isfinite(largest) & (largest > 0)
    scaled = np.where(fits, vectors, 0) / np.where(fits, largest, 1)
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(norm > 0, norm, 1), dtype=np.float32)


def model_of(table: CellTable) -> str | None:
    """Hash of the model that made the embeddings of a table; None: not on record."""
    model = table.run.get("model")
    return model.get("sha256") if isinstance(model, dict) else None


def _tables_in(source: Path) -> list[Path]:
    """The table of a slide's folder or of a file; those of all slides in a cohort's folder."""
    if not is_dir(source) or is_file(source / CELLS) or is_file(source / RUN):
        return [source]
    folders = sorted(path.parent for path in source.glob(f"*/{CELLS}") if is_file(path))
    if not folders:
        raise InputError(
            f"{source}: no cells here; give cells.parquet, the folder that predict wrote for a slide, or a folder of "
            "such folders"
        )
    return folders


def find_cells(sources: Sources, *, clusters: bool = True) -> Collection:
    """Open the cells of slides and cohorts.

    Args:
        sources: files and folders.
        clusters: join the clusters of ``celldetr cluster``, which must fit the tables then.

    Raises:
        InputError: no table, an unfinished run, tables of different models, or two slides of one name.
    """
    paths = [Path(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    slides: dict[Path, SlideCells] = {}
    for path in (table for source in paths for table in _tables_in(source)):
        table = open_table(path, clusters=clusters)
        name = table.path.resolve().parent.name.encode(errors="replace").decode()
        slides.setdefault(table.path.resolve(), SlideCells(name, table, table_stamp(table.path)))
    if not slides:
        raise InputError("no cells given; give cells.parquet, or the folder that predict wrote")
    ordered = sorted(slides.values(), key=lambda slide: slide.name)
    first = ordered[0].table
    for one, two in pairwise(ordered):
        if one.name == two.name:
            raise InputError(
                f"two slides are called {one.name!r}: {one.table.path} and {two.table.path}; rename a folder"
            )
    for table in (slide.table for slide in ordered):
        if table.embedding_dim != first.embedding_dim:
            raise InputError(
                f"{table.path}: embeddings of {table.embedding_dim} numbers, those of {first.path} have "
                f"{first.embedding_dim}; compare cells of one model"
            )
        if not same_model(model_of(table), model_of(first)):
            raise InputError(f"{table.path}: made by another model than {first.path}; compare cells of one model")
    home = paths[0] if len(paths) == 1 and is_dir(paths[0]) else first.path.parent
    return Collection(tuple(ordered), home if len(paths) == 1 else first.path.parent.parent)


def same_model(one: str | None, two: str | None) -> bool:
    """Whether two hashes may be of one model; None is unknown."""
    return one is None or two is None or one == two


def sample_rows(collection: Collection, size: int, seed: int) -> list[Rows]:
    """Rows of ``size`` random cells of all slides together, sorted, an array a slide; all if there are no more."""
    total = collection.count
    if size >= total:
        return [np.arange(slide.table.count) for slide in collection.slides]
    chosen = np.sort(np.random.default_rng(seed).choice(total, size, replace=False))
    edges = np.concatenate([[0], np.cumsum([slide.table.count for slide in collection.slides])])
    parts = np.split(chosen, np.searchsorted(chosen, edges[1:-1]))
    return [part - start for part, start in zip(parts, edges[:-1], strict=True)]


def gather(collection: Collection, rows: Sequence[Rows]) -> NDArray[np.float32]:
    """(n, d) unit vectors of rows (an array a slide), slide by slide."""
    return np.concatenate([slide.unit_embeddings(some) for slide, some in zip(collection.slides, rows, strict=True)])
