"""Nearest-neighbour index of a cohort on disk: ``manifest.json``, ``centroids.npy`` and one file of lists a slide.

The manifest is the record of a run folder in which each slide, named with the stamp of its table, is a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from celldetr.config import Config, parse
from celldetr.errors import InputError
from celldetr.io.files import read_json, replacing
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.progress import Progress
from celldetr.search import ivf
from celldetr.search.collection import Collection, SlideCells, Sources, find_cells, gather, same_model, sample_rows
from celldetr.search.nearest import Best, Query
from celldetr.slide.provenance import now, package_version

INDEX = "neighbours"  # folder of an index, in the cohort's or the slide's
MANIFEST = "manifest.json"
CENTROIDS = "centroids.npy"
SEGMENTS = "*.faiss"
LAYOUT = Layout(MANIFEST, outputs=(CENTROIDS, SEGMENTS), noun="index", remedy=ivf.REMEDY)
FORMAT = 3
GROWTH = 4  # more or fewer cells by this factor than the centroids were made for: they are made anew


class _Record(Config):
    """A part of the manifest; keys that are not needed to search are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Segment(_Record):
    """One slide of an index: name of the folder of its results, stamp of its table, number of its cells."""

    slide: str
    stamp: str
    rows: Annotated[int, Field(ge=0, lt=2**40)]

    @property
    def file(self) -> str:
        """Name in the folder of the index; not there if there are no cells."""
        return hashlib.sha256(f"{self.slide}\n{self.stamp}".encode()).hexdigest()[:32] + ".faiss"


class _Step(_Record):
    facts: Segment


class Manifest(_Record):
    """What ``manifest.json`` says of an index."""

    model: str | None  # hash of the model whose embeddings they are
    dim: Annotated[int, Field(ge=1)]
    lists: Annotated[int, Field(ge=1, le=ivf.MOST_LISTS)]
    centroids: str  # SHA-256
    trained_for: Annotated[int, Field(ge=1)]  # cells that the number of lists was chosen for
    steps: Annotated[dict[str, _Step], Field(default_factory=dict, max_length=1_000_000)]

    @property
    def segments(self) -> list[Segment]:
        """Those that are written."""
        return [step.facts for step in self.steps.values()]


@dataclass(frozen=True)
class Built:
    """The index at ``path``: how many cells and slides are in it, and how many slides were read, kept and dropped."""

    path: Path
    cells: int
    slides: int
    added: int
    kept: int
    dropped: int


def build_index(
    cells: Sources,
    out: Path | str | None = None,
    *,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Built:
    """Make an index of cells, or bring one up to date: slides that are new or have changed are read, those that are no
    longer among them are dropped.

    Args:
        cells: ``cells.parquet`` files, folders of results, or folders of these (a cohort).
        out: folder of the index; default ``neighbours`` in the cells' own.
        overwrite: make all of it anew.
        seed: of the sample from which the lists' centroids are made.
        progress: called with the number of cells done, and of all.

    Raises:
        InputError: faiss is not installed, no cells, or ``out`` holds something else, is in use, or cannot be written.

    Returns:
        what the index holds, and what was done.

    Examples:
        >>> import celldetr
        >>> options = celldetr.PredictOptions(region=(950, 900, 200, 200))
        >>> run = celldetr.predict_slide(celldetr.sample_slide(), "out", model="small-20x", options=options).directory
        >>> celldetr.build_index(run).path.name
        'neighbours'
    """
    ivf.faiss_module()
    collection = find_cells(cells, clusters=False)
    out = collection.home / INDEX if out is None else Path(out)
    if not collection.count:
        raise InputError(f"{collection.home}: there are no cells to make an index of")
    request = {"format": FORMAT, "metric": "cosine", "model": collection.model, "dim": collection.dim}
    folder = RunFolder(out, LAYOUT, request)
    overwrite = overwrite or not _can_be_extended(folder, collection)
    with folder.open(resume=not overwrite, overwrite=overwrite):
        if not folder.record:
            _make_centroids(folder, collection, seed)
        folder.begin(made=now())
        quantizer = ivf.quantizer_of(_read_centroids(out, read_manifest(out)))
        before, added, done = set(folder.steps), 0, 0
        for name in before - {slide.name for slide in collection.slides}:
            del folder.steps[name]
        for slide in collection.slides:
            segment = Segment(slide=slide.name, stamp=slide.stamp, rows=slide.table.count)
            step = folder.step(slide.name, {"stamp": slide.stamp}, (segment.file,) if segment.rows else ())
            if not step.is_done:
                added += 1
                with step as facts:
                    facts.update(segment.model_dump())
                    if segment.rows:
                        blocks = slide.blocks(progress, done, collection.count)
                        with replacing(out / segment.file) as temporary:
                            ivf.write_lists(quantizer, blocks, temporary)
            done += segment.rows
            if progress:
                progress(done, collection.count)
        folder.finish()
        known = {segment.file for segment in read_manifest(out).segments}
        for path in out.glob(SEGMENTS):
            if path.name not in known:
                path.unlink()
    slides = len(collection.slides)
    return Built(out, collection.count, slides, added, slides - added, len(before - set(folder.steps)))


def _can_be_extended(folder: RunFolder, collection: Collection) -> bool:
    """Whether there is an index of this model's cells, with a number of lists that suits this many."""
    if folder.changes(read_json(folder.path / MANIFEST) or {}) or not (folder.path / CENTROIDS).is_file():
        return False
    growth = collection.count / read_manifest(folder.path).trained_for
    return 1 / GROWTH <= growth <= GROWTH


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


def read_manifest(path: Path) -> Manifest:
    """The manifest in the folder of an index.

    Raises:
        InputError: there is none, or it is not as we write it.
    """
    values = read_json(path / MANIFEST)
    if values is None:
        raise InputError(f"{path}: no index here; make one with celldetr index")
    if values.get("format") != FORMAT:
        raise InputError(f"{path}: index of another version; {ivf.REMEDY}")
    return parse(Manifest, values, str(path / MANIFEST))


def _read_centroids(path: Path, manifest: Manifest) -> NDArray[np.float32]:
    file = path / CENTROIDS
    try:
        centroids = np.load(file, mmap_mode="r", allow_pickle=False)  # memory-mapped: its header alone costs no memory
        if centroids.shape != (manifest.lists, manifest.dim) or centroids.dtype != np.float32:
            raise ValueError("of other lists")
        if _digest(centroids) != manifest.centroids:
            raise ValueError("not those that the lists were made with")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        raise ivf.damaged(file, str(error)) from None
    return np.array(centroids)


class NeighbourIndex:
    """An index, opened for the slides of a collection.

    Args:
        path: folder of the index.
        collection: the cells that are searched; slides of the index that are not among them are left alone.

    Raises:
        InputError: no index; it lacks a slide, or has another version of it; it is damaged; faiss is not installed.
    """

    def __init__(self, path: Path, collection: Collection) -> None:
        ivf.faiss_module()
        self._path, self._dim = path, collection.dim
        manifest = read_manifest(path)
        if manifest.dim != collection.dim or not same_model(manifest.model, collection.model):
            raise InputError(f"{path}: holds another model's cells; {ivf.REMEDY}")
        self._quantizer = ivf.quantizer_of(_read_centroids(path, manifest))
        known = {(segment.slide, segment.stamp): segment for segment in manifest.segments}
        self._segments = [self._segment_of(slide, known) for slide in collection.slides]
        self._lists: dict[int, Any] = {}  # those that have been opened, by slide

    def _segment_of(self, slide: SlideCells, known: dict[tuple[str, str], Segment]) -> Segment:
        segment = known.get((slide.name, slide.stamp))
        if segment is None:
            changed = any(slide.name == name for name, _ in known)
            what = "has changed since then" if changed else "is not in the index"
            raise InputError(
                f"{self._path}: is stale, slide {slide.name!r} {what}; run celldetr index again, or use `exact=True`"
            )
        if segment.rows != slide.table.count:
            raise ivf.damaged(self._path / MANIFEST, f"slide {slide.name!r} has {slide.table.count:,} cells")
        return segment

    def search(self, queries: Sequence[Query], k: int) -> Best:
        """As ``nearest.search_all``, but approximately and fast. It finds as many cells: a query whose nearest lists
        hold too few, as of a small slide in an index of many, is put again to twice as many lists.

        Raises:
            InputError: a segment is missing, damaged, or of something else.
        """
        best = Best(len(queries), k)
        lists = self._quantizer.ntotal
        probes, asking = ivf.probes_for(lists), list(range(len(queries)))
        while asking:
            for i in asking:
                best.forget(i)
            self._offer(best, queries, asking, probes)
            short = [i for i in asking if best.count(i) < min(k, self._candidates(queries[i]))]
            asking = short if probes < lists else []
            probes = min(2 * probes, lists)
        return best

    def _candidates(self, query: Query) -> int:
        """How many cells are searched for a query."""
        return sum(
            segment.rows - len(query.excluded.get(place, ()))
            for place, segment in enumerate(self._segments)
            if place not in query.skipped
        )

    def _offer(self, best: Best, queries: Sequence[Query], asking: Sequence[int], probes: int) -> None:
        """Offer the cells in the ``probes`` lists nearest to each query that is ``asking``."""
        vectors = np.stack([queries[i].vector for i in asking])
        nearest = ivf.nearest_lists(self._quantizer, vectors, probes)
        for place, segment in enumerate(self._segments):
            here = [n for n, i in enumerate(asking) if place not in queries[i].skipped]
            if not here or not segment.rows:
                continue
            asked = [asking[n] for n in here]
            # Excluded cells are found too, and dropped, so as many more are searched for.
            more = max(len(queries[i].excluded.get(place, ())) for i in asked)
            if place not in self._lists:
                path = self._path / segment.file
                self._lists[place] = ivf.read_lists(path, segment.rows, self._dim, self._quantizer.ntotal)
            similarity, rows = ivf.search_lists(self._lists[place], vectors[here], best.k + more, nearest[here])
            wrong = rows[(rows < ivf.NONE) | (rows >= segment.rows)]
            if len(wrong):
                raise ivf.damaged(self._path / segment.file, "it names cells that the table does not have")
            for i, similarities, hits in zip(asked, similarity, rows, strict=True):
                # Most slides of a large cohort have nothing better.
                better = (hits != ivf.NONE) & (similarities >= best.similarity[i, -1])
                better &= ~np.isin(hits, queries[i].excluded.get(place, ()))
                if better.any():
                    best.offer(i, place, hits[better], similarities[better])
