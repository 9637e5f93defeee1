"""The nearest-neighbour index of a cohort on disk: ``manifest.json``, ``centroids.npy`` and one file of lists a slide.

The manifest names each slide's table by its stamp, so an index knows which version of which table it is of, whatever
folder that lies in; the path in it, relative to the index, is for people and messages only and never opened. The
manifest is written anew after each slide: what it lists is whole, an interrupted build goes on after the last slide,
and slides that have not changed are not read again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, parse
from celldetr.errors import InputError
from celldetr.io.files import output_errors, read_json, replacing, write_json
from celldetr.io.lock import LOCK, RunLock
from celldetr.search import ivf
from celldetr.search.collection import Collection, Rows, find_cells, gather, sample_rows, unit
from celldetr.search.nearest import Best, Excluded
from celldetr.slide.provenance import now, package_version

INDEX = "neighbours"  # folder of a cohort's or a slide's index in its own
MANIFEST = "manifest.json"
CENTROIDS = "centroids.npy"
BEGUN = (f"{LOCK}*", f"{MANIFEST}.tmp", f"{CENTROIDS}*")  # what a run that was killed may leave and no manifest
GROWTH = 4  # more or fewer cells by this factor than the centroids were made for: they are made anew
NPY_HEADER = 4096

Progress = Callable[[int, int], None]


class Segment(Config):
    """One slide of an index."""

    slide: str  # name of the folder of its results
    path: str  # of its table, relative to the index; for people
    stamp: str  # of its table, see celldetr.cells.clusters.table_stamp
    rows: Annotated[int, Field(ge=0, lt=2**40)]  # cells
    file: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.faiss$")]  # in the index; not there if there are no cells


class Manifest(Config):
    """``manifest.json``."""

    format: Literal[2] = 2  # 1: every segment had all centroids
    metric: Literal["cosine"] = "cosine"
    version: str  # of celldetr
    made: str  # UTC
    model: str | None  # hash of the model whose embeddings they are
    dim: Annotated[int, Field(ge=1)]
    lists: Annotated[int, Field(ge=1, le=ivf.MOST_LISTS)]
    centroids: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # SHA-256 of those that the lists belong to
    trained_for: Annotated[int, Field(ge=0)]  # cells that the number of lists was chosen for
    seed: Annotated[int, Field(ge=0)]
    segments: Annotated[tuple[Segment, ...], Field(max_length=1_000_000)] = ()


@dataclass(frozen=True)
class Built:
    """What ``build_index`` did.

    Attributes:
        path: folder of the index.
        cells, slides: in it.
        added, kept, dropped: slides that were read, that were in it already, that are no longer in it.
    """

    path: Path
    cells: int
    slides: int
    added: int
    kept: int
    dropped: int


def build_index(
    cells: Path | str | Sequence[Path | str] | Collection,
    out: Path | str | None = None,
    *,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Built:
    """Make an index of the cells of a collection, or bring one up to date: slides that are new or have changed are
    read, those that are not among the collection's are dropped.

    Args:
        cells: ``cells.parquet`` files, folders of results, or folders of these (a cohort).
        out: folder of the index; default ``neighbours`` in the cells' own.
        overwrite: make all of it anew.
        seed: of the sample from which the lists' centroids are made.
        progress: told how many cells are done, of how many.

    Raises:
        InputError: faiss is not installed; no cells; ``out`` holds something else, is in use, or cannot be written.
    """
    ivf.faiss_module()
    if isinstance(cells, Collection):
        collection = cells
    else:
        collection = find_cells([cells] if isinstance(cells, str | Path) else cells, clusters=False)
    out = collection.home / INDEX if out is None else Path(out)
    if not collection.count:
        raise InputError(f"{collection.home}: there are no cells to make an index of")
    _check_place(out)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with RunLock(out):
        old = None if overwrite else _usable(out, collection)
        if old is None:
            manifest, centroids = _begin(out, collection, seed)
        else:
            manifest, centroids = old, _read_centroids(out, old)
        quantizer = ivf.quantizer_of(centroids)
        before = {(segment.slide, segment.stamp): segment for segment in manifest.segments}
        kept = {key: segment for key, segment in before.items() if _is_whole(out, segment, manifest)}
        segments: list[Segment] = []
        done = 0
        for slide in collection.slides:
            segment = kept.get((slide.name, slide.stamp))
            if segment is None:
                segment = _segment(out, slide.name, slide.table.path, slide.stamp, slide.table.count)
                if segment.rows:
                    index = ivf.make_lists(quantizer, _told(slide.blocks(), done, collection.count, progress))
                    with replacing(out / segment.file) as temporary:
                        ivf.write_lists(index, temporary)
                later = [s for key, s in kept.items() if key > (slide.name, slide.stamp)]
                _write(out, manifest, [*segments, segment, *later])
            segments.append(segment)
            done += slide.table.count
            if progress:
                progress(done, collection.count)
        _write(out, manifest, segments)
        _sweep(out, segments)
    added = [segment for segment in segments if (segment.slide, segment.stamp) not in kept]
    names = {segment.slide for segment in segments}
    return Built(
        out,
        collection.count,
        len(segments),
        len(added),
        len(segments) - len(added),
        len({segment.slide for segment in before.values()} - names),
    )


def _check_place(out: Path) -> None:
    if not out.exists() or (out / MANIFEST).is_file():
        return
    if not out.is_dir() or set(out.iterdir()) - {path for pattern in BEGUN for path in out.glob(pattern)}:
        raise InputError(f"{out}: holds something that is no index; choose another folder with -o")


def _told(blocks: Any, done: int, total: int, progress: Progress | None) -> Any:
    for start, vectors in blocks:
        yield start, vectors
        if progress:
            progress(done + start + len(vectors), total)


def _usable(out: Path, collection: Collection) -> Manifest | None:
    """The manifest that is there, if its centroids do for this collection."""
    if not (out / MANIFEST).is_file():
        return None
    manifest = read_manifest(out)
    grown = collection.count / max(manifest.trained_for, 1)
    same = manifest.dim == collection.dim and manifest.model == collection.model
    return manifest if same and 1 / GROWTH <= grown <= GROWTH and (out / CENTROIDS).is_file() else None


def _begin(out: Path, collection: Collection, seed: int) -> tuple[Manifest, NDArray[np.float32]]:
    """Make the centroids, and an index without slides."""
    lists = ivf.lists_for(collection.count)
    sample = gather(collection, sample_rows(collection, lists * ivf.POINTS_A_LIST, seed))
    centroids = ivf.train(sample, lists, seed)
    manifest = Manifest(
        version=package_version("celldetr") or "",
        made=now(),
        model=collection.model,
        dim=collection.dim,
        lists=lists,
        centroids=_digest(centroids),
        trained_for=collection.count,
        seed=seed,
    )
    _write(out, manifest, [])  # what was listed belongs to other centroids
    with replacing(out / CENTROIDS) as temporary, temporary.open("wb") as file:
        np.save(file, centroids)
    return manifest, centroids


def _digest(centroids: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(centroids).tobytes()).hexdigest()


def _segment(out: Path, name: str, table: Path, stamp: str, rows: int) -> Segment:
    file = hashlib.sha256(f"{name}\n{stamp}".encode()).hexdigest()[:32] + ".faiss"
    return Segment(slide=name, path=_relative(table, out), stamp=stamp, rows=rows, file=file)


def _relative(table: Path, out: Path) -> str:
    try:
        found = os.path.relpath(table.resolve(), out.resolve())
    except ValueError:  # on another drive
        found = str(table)
    return Path(found).as_posix().encode(errors="replace").decode()


def _write(out: Path, manifest: Manifest, segments: Sequence[Segment]) -> None:
    write_json(out / MANIFEST, manifest.model_copy(update={"segments": tuple(segments), "made": now()}).model_dump())


def _is_whole(out: Path, segment: Segment, manifest: Manifest) -> bool:
    """Whether a segment can be kept: it is there, of the right size."""
    least = segment.rows * (ivf.FLOAT16 * manifest.dim + ivf.ROW)
    return not segment.rows or ((out / segment.file).is_file() and (out / segment.file).stat().st_size >= least)


def _sweep(out: Path, segments: Sequence[Segment]) -> None:
    """Remove segments that no longer belong to the index, and what was not finished."""
    known = {segment.file for segment in segments}
    for path in (*out.glob("*.faiss"), *out.glob("*.faiss.tmp")):
        if path.name not in known:
            path.unlink(missing_ok=True)


def read_manifest(path: Path) -> Manifest:
    """What an index says of itself.

    Raises:
        InputError: there is none, or it is not as we write it.
    """
    values = read_json(path / MANIFEST)
    if values is None:
        raise InputError(f"{path}: no index here; make one with celldetr index")
    return parse(Manifest, values, str(path / MANIFEST))


def _read_centroids(path: Path, manifest: Manifest) -> NDArray[np.float32]:
    file = path / CENTROIDS
    needed = 4 * manifest.lists * manifest.dim
    try:
        size = file.stat().st_size
        if not needed < size <= needed + NPY_HEADER:
            raise ValueError(f"of {size:,} bytes, needs {needed:,}")
        found = np.load(file, allow_pickle=False)
        if found.shape != (manifest.lists, manifest.dim) or found.dtype != np.float32 or not np.isfinite(found).all():
            raise ValueError("of other lists")
        if _digest(found) != manifest.centroids:
            raise ValueError("not those that the lists were made with")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise InputError(
            f"{file}: is damaged or not of this index ({error}); make it anew (celldetr index, `overwrite=True`)"
        ) from None
    return np.asarray(found)


class NeighbourIndex:
    """An index, opened for the slides of a collection.

    Args:
        path: folder of the index.
        collection: the cells that are searched; slides of the index that are not among them are left alone.

    Raises:
        InputError: no index; it does not know a slide, or another version of it; it is damaged; faiss is not installed.
    """

    def __init__(self, path: Path, collection: Collection) -> None:
        ivf.faiss_module()
        self._path, self._collection = path, collection
        manifest = read_manifest(path)
        models = {manifest.model, collection.model}
        if manifest.dim != collection.dim or (None not in models and len(models) > 1):
            raise InputError(f"{path}: holds another model's cells; make it anew (celldetr index, `overwrite=True`)")
        self._quantizer = ivf.quantizer_of(_read_centroids(path, manifest))
        known = {(segment.slide, segment.stamp): segment for segment in manifest.segments}
        names = {segment.slide for segment in manifest.segments}
        self._segments: list[Segment] = []
        for slide in collection.slides:
            segment = known.get((slide.name, slide.stamp))
            if segment is None:
                what = "has changed since then" if slide.name in names else "is not in the index"
                raise InputError(
                    f"{path}: is stale, slide {slide.name!r} {what}; run celldetr index again, or use `exact=True`"
                )
            if segment.rows != slide.table.count:
                raise InputError(f"{path / MANIFEST}: gives slide {slide.name!r} other cells; make the index anew")
            self._segments.append(segment)
        self._open: dict[int, Any] = {}

    def search(
        self, queries: NDArray[np.float32], k: int, excluded: Excluded | None = None, skipped: Sequence[set[int]] = ()
    ) -> Best:
        """As ``nearest.search_all``, but approximately and fast. It finds as many cells: a query that the lists nearest
        to it hold too few for, as of a small slide in an index of many, is put again to twice as many lists.

        Raises:
            InputError: a segment is missing, damaged, or of something else.
        """
        queries = unit(np.asarray(queries, dtype=np.float32))
        excluded = [{} for _ in queries] if excluded is None else excluded
        skipped = skipped or [set() for _ in queries]
        best = Best(len(queries), k)
        lists = self._quantizer.ntotal
        probes, asking = ivf.probes_for(lists), list(range(len(queries)))
        while asking:
            best.forget(asking)
            self._offer(best, queries, asking, probes, excluded, skipped)
            short = [i for i in asking if best.count(i) < min(k, self._allowed(excluded[i], skipped[i]))]
            asking = short if probes < lists else []
            probes = min(2 * probes, lists)
        return best

    def _allowed(self, excluded: Mapping[int, Rows], skipped: set[int]) -> int:
        """How many cells a query may have."""
        searched = (place for place in range(len(self._segments)) if place not in skipped)
        return sum(self._segments[place].rows - len(excluded.get(place, ())) for place in searched)

    def _offer(
        self,
        best: Best,
        queries: NDArray[np.float32],
        asking: Sequence[int],
        probes: int,
        excluded: Excluded,
        skipped: Sequence[set[int]],
    ) -> None:
        """Offer the cells in the ``probes`` lists nearest to each query that is ``asking``."""
        nearest = dict(zip(asking, ivf.nearest_lists(self._quantizer, queries[asking], probes), strict=True))
        for place, segment in enumerate(self._segments):
            here = [i for i in asking if place not in skipped[i]]
            if not here or not segment.rows:
                continue
            # What is excluded is found too and dropped, so as many more are looked for.
            more = max(len(excluded[i].get(place, ())) for i in here)
            path, index = self._path / segment.file, self._lists(place)
            lists = np.stack([nearest[i] for i in here])
            similarity, rows = ivf.search_lists(index, path, segment.rows, queries[here], best.k + more, lists)
            for i, query in enumerate(here):
                # Most slides of a large cohort have nothing better.
                keep = (rows[i] >= 0) & (similarity[i] >= best.similarity[query, -1])
                if len(out := excluded[query].get(place, ())):
                    keep &= ~np.isin(rows[i], out)
                if keep.any():
                    best.offer(query, place, rows[i][keep], similarity[i][keep])

    def _lists(self, place: int) -> Any:
        if place not in self._open:
            segment = self._segments[place]
            self._open[place] = ivf.read_lists(
                self._path / segment.file, segment.rows, self._collection.dim, self._quantizer.ntotal
            )
        return self._open[place]
