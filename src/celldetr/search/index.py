"""Nearest-neighbour index of a cohort on disk: ``manifest.json``, ``centroids.npy`` and one file of lists a slide.

The manifest is the record of a run folder, in which each slide is a step. It names its table by its stamp, so an
index knows which version of which table it is of, whatever folder that lies in. What it lists is whole, an interrupted
build continues after the last slide, and slides that have not changed are not read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, parse
from celldetr.errors import InputError
from celldetr.io.files import read_json, replacing
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.progress import Progress
from celldetr.search import ivf
from celldetr.search.collection import Collection, Rows, find_cells, gather, sample_rows, unit
from celldetr.search.nearest import Best, Excluded
from celldetr.slide.provenance import now, package_version

INDEX = "neighbours"  # folder of a cohort's or a slide's index in its own
MANIFEST = "manifest.json"
CENTROIDS = "centroids.npy"
SEGMENTS = "*.faiss"
LAYOUT = Layout(
    MANIFEST, outputs=(CENTROIDS, SEGMENTS), noun="index", remedy="make it anew (celldetr index, `overwrite=True`)"
)
FORMAT = 3  # 2: another manifest
GROWTH = 4  # more or fewer cells by this factor than the centroids were made for: they are made anew
NPY_HEADER = 4096


class Segment(Config):
    """One slide of an index."""

    slide: str  # name of the folder of its results
    stamp: str  # of its table, see celldetr.cells.clusters.table_stamp
    rows: Annotated[int, Field(ge=0, lt=2**40)]  # cells

    @property
    def file(self) -> str:
        """Name in the folder of the index; not there if there are no cells."""
        return _segment_file(self.slide, self.stamp)


class Manifest(Config):
    """What ``manifest.json`` says, beside its status."""

    format: Literal[3]
    metric: Literal["cosine"]
    version: str | None  # of celldetr
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
        progress: called with the number of cells done, and of all.

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
    folder = RunFolder(
        out, LAYOUT, {"format": FORMAT, "metric": "cosine", "model": collection.model, "dim": collection.dim}
    )
    overwrite = overwrite or not _is_usable(folder, collection)
    with folder.open(resume=not overwrite, overwrite=overwrite):
        if not folder.record:
            _make_centroids(folder, collection, seed)
        folder.begin(made=now())
        quantizer = ivf.quantizer_of(_read_centroids(out, read_manifest(out)))
        before, added, done = set(folder.steps), 0, 0
        for name in before - {slide.name for slide in collection.slides}:
            del folder.steps[name]
        for slide in collection.slides:
            file = _segment_file(slide.name, slide.stamp)
            step = folder.step(slide.name, {"stamp": slide.stamp}, (file,) if slide.table.count else ())
            if not step.is_done:
                added += 1
                with step as facts:
                    facts["rows"] = slide.table.count
                    if slide.table.count:
                        index = ivf.make_lists(
                            quantizer, _with_progress(slide.blocks(), done, collection.count, progress)
                        )
                        with replacing(out / file) as temporary:
                            ivf.write_lists(index, temporary)
            done += slide.table.count
            if progress:
                progress(done, collection.count)
        folder.finish()
        known = {segment.file for segment in read_manifest(out).segments}
        for path in out.glob(SEGMENTS):
            if path.name not in known:
                path.unlink()
    slides = len(collection.slides)
    return Built(out, collection.count, slides, added, slides - added, len(before - set(folder.steps)))


def _with_progress(blocks: Any, done: int, total: int, progress: Progress | None) -> Any:
    for start, vectors in blocks:
        yield start, vectors
        if progress:
            progress(done + start + len(vectors), total)


def _is_usable(folder: RunFolder, collection: Collection) -> bool:
    """Whether there is an index, and its centroids do for this collection."""
    record = read_json(folder.path / MANIFEST) or {}
    if folder.changes(record) or not (folder.path / CENTROIDS).is_file():
        return False
    grown = collection.count / max(read_manifest(folder.path).trained_for, 1)
    return 1 / GROWTH <= grown <= GROWTH


def _make_centroids(folder: RunFolder, collection: Collection, seed: int) -> None:
    """Begin an index: its centroids, and a manifest without slides."""
    lists = ivf.lists_for(collection.count)
    sample = gather(collection, sample_rows(collection, lists * ivf.POINTS_A_LIST, seed))
    centroids = ivf.train(sample, lists, seed)
    folder.begin(
        version=package_version("celldetr"),
        lists=lists,
        centroids=_digest(centroids),
        trained_for=collection.count,
        seed=seed,
    )
    with replacing(folder.path / CENTROIDS) as temporary, temporary.open("wb") as file:
        np.save(file, centroids)


def _digest(centroids: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(centroids).tobytes()).hexdigest()


def _segment_file(name: str, stamp: str) -> str:
    return hashlib.sha256(f"{name}\n{stamp}".encode()).hexdigest()[:32] + ".faiss"


def read_manifest(path: Path) -> Manifest:
    """What an index says of itself.

    Raises:
        InputError: there is none, or it is not as we write it.
    """
    values = read_json(path / MANIFEST)
    if values is None:
        raise InputError(f"{path}: no index here; make one with celldetr index")
    if values.get("format") != FORMAT:
        raise InputError(f"{path}: index of another version; make it anew with celldetr index")
    try:
        segments = [
            {"slide": name, "stamp": step["settings"]["stamp"], "rows": step["facts"]["rows"]}
            for name, step in values.get("steps", {}).items()
        ]
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{path / MANIFEST}: not as celldetr index writes it; {LAYOUT.remedy}") from None
    known = {key: values[key] for key in Manifest.model_fields if key in values}
    return parse(Manifest, known | {"segments": segments}, str(path / MANIFEST))


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
