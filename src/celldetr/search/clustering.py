"""Cluster the cells of slides by embedding (``celldetr cluster``) and write the clusters beside their tables.

A sample of the cells of all slides is clustered, the others join the cluster of the sampled cells nearest to them. The
sample and each slide (its clusters and exports) are steps of a run folder.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER, CLUSTERS, MOST, cluster_summary, write_clusters
from celldetr.cells.export import FORMATS, check_formats, find_format, write_format
from celldetr.cells.export.geojson import write_geojson
from celldetr.cells.reader import open_table
from celldetr.config.cells import SAMPLED_CELLS, ClusterOptions
from celldetr.errors import InputError, SlowWarning
from celldetr.io.files import replacing
from celldetr.io.lock import RunLock
from celldetr.io.parquet import parquet_errors
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.io.safe_io import is_file
from celldetr.progress import Progress
from celldetr.search.collection import Collection, Rows, SlideCells, Sources, find_cells, gather, sample_rows
from celldetr.search.grouping import Assigner, Grouping, group, scanpy_module
from celldetr.slide.provenance import environment, now, package_version

FOLDER = "clusters"  # of what is made of all slides, in the cohort's or the slide's
SAMPLE = "sample.parquet"
PICTURES = ("embedding.png", "types.png", "types.csv", "examples.png", "map-*.png")
LAYOUT = Layout("clusters.json", outputs=(SAMPLE, *PICTURES), noun="clustering", shared=True)
GEOJSON = "clusters.geojson.gz"
MANY = 100_000  # cells clustered themselves; above, a warning
LIBRARIES = ("scanpy", "igraph", "faiss-cpu", "umap-learn")


@dataclass(frozen=True)
class Clustered:
    """What ``cluster_cells`` did.

    Attributes:
        out: folder of what is made of all slides.
        collection: the cells, their tables opened with the clusters.
        by_type: (C, K) cells of each cluster and type of the collection.
        sampled: how many cells were clustered themselves.
        written: slides whose clusters were written; the others were kept.
        agreement: mean share of voters that agree, over the cells that joined; NaN if all were sampled.
    """

    out: Path
    collection: Collection
    by_type: NDArray[np.int64]
    sampled: int
    written: int
    agreement: float

    @property
    def counts(self) -> NDArray[np.int64]:
        """(C,) cells of each cluster."""
        return self.by_type.sum(axis=1)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.collection.count


def cluster_cells(
    cells: Sources,
    out: Path | str | None = None,
    options: ClusterOptions | None = None,
    *,
    formats: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Clustered:
    """Group cells by their embeddings.

    Every slide gets ``clusters.parquet`` beside its ``cells.parquet`` (``celldetr.cells.clusters``); exports that lie
    there (``cells.geojson.gz``, ``cells.h5ad``, ``cells.csv``, ``cells.zarr``) are written again, with the cluster.

    Args:
        cells: ``cells.parquet`` files, folders of results, or folders of these.
        out: folder of ``clusters.json``, ``sample.parquet`` and pictures; default ``clusters`` in the cells' own.
        options: resolution, sample, seed and the like.
        formats: exports to write: ``geojson`` makes ``clusters.geojson.gz``, classified by cluster; others as in
            ``export_cells``.
        resume, overwrite: continue an interrupted clustering of the same cells, or replace an earlier one.
        progress: called with the number of cells done, and of all.

    Raises:
        InputError: an extra is not installed, no cells, earlier clusters, or a place that cannot be written to.

    Warns:
        SlowWarning: more than ``MANY`` cells are clustered themselves.

    Returns:
        how many clusters there are, and where they are described.

    Examples:
        >>> import celldetr
        >>> options = celldetr.PredictOptions(region=(950, 900, 300, 300))
        >>> run = celldetr.predict_slide(celldetr.sample_slide(), "out", model="small-20x", options=options).directory
        >>> clustered = celldetr.cluster_cells(run, options=celldetr.ClusterOptions(resolution=0.3))
        >>> "cluster" in celldetr.read_cells(run)
        True
    """
    options = options or ClusterOptions()
    check_formats(formats)
    scanpy_module()
    collection = find_cells(cells, clusters=False)  # earlier clusters, which need not fit, are replaced
    if not collection.count:
        raise InputError(f"{collection.home}: there are no cells to group")
    out = collection.home / FOLDER if out is None else Path(out)
    if out.resolve() in {slide.table.path.resolve().parent for slide in collection.slides}:
        raise InputError(f"{out}: is the folder of a slide's results; choose another with -o, e.g. {out / FOLDER}")
    request = {
        "options": options.model_dump(),
        "tables": {slide.name: slide.stamp for slide in collection.slides},
        "version": package_version("celldetr"),
    }
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    folder = RunFolder(out, LAYOUT, request)
    folder.check(resume=resume, overwrite=overwrite)
    if not overwrite:
        _check_slides(collection, digest, resume)
    with folder.open(resume=resume, overwrite=overwrite):
        folder.begin(started=now())
        rows = sample_rows(collection, options.sample, options.seed)
        vectors = gather(collection, rows)
        grouping = _group_sample(folder, collection, rows, vectors, options)
        about: dict[str, Any] = {
            "digest": digest,
            "count": int(grouping.labels.max()) + 1,
            "options": options.model_dump(),
            "model": collection.model,
            "version": package_version("celldetr"),
            "cells": collection.count,
            "sampled": len(vectors),
        }
        # What is there from here on is of this run: one that is cut short leaves nothing of another beside it.
        for slide in collection.slides:
            if not _is_of(slide.table.path, digest):
                with RunLock(slide.table.path.parent):
                    slide.table.path.with_name(CLUSTERS).unlink(missing_ok=True)
        assign = None
        if len(vectors) < collection.count:
            assign = Assigner(vectors, grouping.labels, options.neighbours, options.seed)
        labels = np.split(grouping.labels, np.cumsum([len(some) for some in rows])[:-1])
        written = done = 0
        for slide, sampled, known in zip(collection.slides, rows, labels, strict=True):
            path = slide.table.path
            step = folder.step(f"slide {slide.name}", {}, after=("sample",))
            with RunLock(path.parent):
                if step.is_done and _is_of(path, digest):
                    _export(path.parent, formats, again=False)
                else:
                    with step:
                        blocks = slide.blocks(progress, done, collection.count)
                        _write_slide(slide, blocks, sampled, known, assign, about)
                        _export(path.parent, formats, again=True)
                    written += 1
            done += slide.table.count
            if progress:
                progress(done, collection.count)
        result = _summarise(out, collection, about, written)
        folder.finish(
            **about,
            slides=[slide.name for slide in collection.slides],
            counts=result.counts.tolist(),
            by_type={name: result.by_type[:, i].tolist() for i, name in enumerate(collection.types)},
            agreement=None if np.isnan(result.agreement) else round(result.agreement, 4),
            ended=now(),
            **environment(),
            libraries={name: package_version(name) for name in LIBRARIES},
        )
    return result


def _check_slides(collection: Collection, digest: str, resume: bool) -> None:
    """Refuse to replace clusters of slides that another clustering has made."""
    for slide in collection.slides:
        path = slide.table.path.with_name(CLUSTERS)
        if not is_file(path):
            continue
        if not resume:
            raise InputError(f"{path}: exists already; pass `overwrite=True` to replace it, or `resume=True` to go on")
        about = cluster_summary(slide.table.path)
        if about is not None and about.get("digest") != digest:
            raise InputError(
                f"{path}: was made from other cells or with other options ({json.dumps(about.get('options'))[:200]});"
                " pass `overwrite=True` to replace it"
            )


def _is_of(table: Path, digest: str) -> bool:
    """Whether the clusters beside a table are there and of this run."""
    try:
        about = cluster_summary(table)
    except InputError:  # damaged, or of an earlier table
        return False
    return about is not None and about.get("digest") == digest


def _group_sample(
    folder: RunFolder,
    collection: Collection,
    rows: Sequence[Rows],
    vectors: NDArray[np.float32],
    options: ClusterOptions,
) -> Grouping:
    """Cluster the sampled cells, unless an interrupted run has."""
    step = folder.step("sample", {}, (SAMPLE,))
    if step.is_done:
        return _read_sample(folder.path / SAMPLE)
    if len(vectors) > MANY:
        times = (len(vectors) / SAMPLED_CELLS) ** 2
        warnings.warn(
            f"{len(vectors):,} cells are clustered themselves, and each is first compared with every other: that takes "
            f"about {times:.0f} times as long as of {SAMPLED_CELLS:,}; with a smaller `sample` the other cells join the"
            " clusters of these",
            SlowWarning,
            stacklevel=3,
        )
    try:
        with step:
            grouping = group(vectors, options.resolution, options.neighbours, options.seed)
            if grouping.labels.max() >= MOST:
                raise InputError(f"`resolution={options.resolution:g}`: gives more than {MOST:,} clusters; choose less")
            _write_sample(folder.path / SAMPLE, collection, rows, grouping)
    except BaseException:
        folder.discard()  # nothing is done yet
        raise
    return grouping


def _write_sample(path: Path, collection: Collection, rows: Sequence[Rows], grouping: Grouping) -> None:
    parts, columns = [], ["slide", "row", "cell_id", "type"]
    for slide, some in zip(collection.slides, rows, strict=True):
        cells = slide.table.take(some, ["cell_id", "type"])
        name = pa.array([slide.name] * len(some), pa.string())
        parts.append(pa.table([name, some, cells["cell_id"], cells["type"].cast(pa.string())], names=columns))
    table = pa.concat_tables(parts)
    table = table.set_column(0, "slide", table["slide"].dictionary_encode())
    for name, values in (
        (CLUSTER, grouping.labels),
        ("umap_x", grouping.points[:, 0]),
        ("umap_y", grouping.points[:, 1]),
    ):
        table = table.append_column(name, pa.array(values))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _read_sample(path: Path) -> Grouping:
    with parquet_errors(path):
        table = pq.read_table(path, columns=[CLUSTER, "umap_x", "umap_y"])
    points = np.stack([table["umap_x"].to_numpy(), table["umap_y"].to_numpy()], axis=1)
    return Grouping(table[CLUSTER].to_numpy(), points)


def _write_slide(
    slide: SlideCells,
    blocks: Iterable[tuple[int, NDArray[np.float32]]],
    sampled: Rows,
    known: NDArray[np.int32],
    assign: Assigner | None,
    about: dict[str, Any],
) -> None:
    """Write the clusters of one slide: ``known`` of its ``sampled`` rows, the other cells are assigned."""
    count = slide.table.count
    labels, agreement, is_sampled = np.zeros(count, np.int32), np.ones(count, np.float32), np.zeros(count, bool)
    if assign is not None:
        for start, vectors in blocks:
            stop = start + len(vectors)
            labels[start:stop], agreement[start:stop] = assign(vectors)
    labels[sampled], agreement[sampled], is_sampled[sampled] = known, 1, True
    ids = slide.table.read(["cell_id"])["cell_id"].to_numpy()
    write_clusters(slide.table.path, ids.astype(np.int64), labels, is_sampled, agreement, about)


def _export(directory: Path, formats: Sequence[str], again: bool) -> None:
    """Write the formats asked for, and ``again`` those that are there, in a directory that the caller holds."""
    names = {find_format(name).name for name in formats}
    by_cluster = "geojson" in names or (again and (directory / GEOJSON).exists())
    names.discard("geojson")
    if again:
        names |= {name for name, exporter in FORMATS.items() if (directory / exporter.file_name).exists()}
    for name in sorted(names):
        write_format(directory, name, overwrite=True)
    if by_cluster:
        with replacing(directory / GEOJSON) as temporary:
            write_geojson(open_table(directory), temporary, classify="cluster")


def _summarise(out: Path, collection: Collection, about: dict[str, Any], written: int) -> Clustered:
    """Open the tables with their clusters, and count."""
    opened = [replace(slide, table=open_table(slide.table.path)) for slide in collection.slides]
    by_type = np.zeros((about["count"], len(collection.types)), np.int64)
    joined, agreement = 0, 0.0
    for table in (slide.table for slide in opened):
        column = np.array([collection.types.index(name) for name in table.types], dtype=np.intp)
        for batch in table.batches(("type", CLUSTER)):
            np.add.at(by_type, (np.asarray(batch.column(CLUSTER)), column[table.type_codes(batch)]), 1)
        clusters = table.path.with_name(CLUSTERS)
        with parquet_errors(clusters):
            votes = pq.read_table(clusters, columns=["sampled", "agreement"])
        has_joined = ~votes["sampled"].to_numpy()
        joined += int(has_joined.sum())
        agreement += float(votes["agreement"].to_numpy()[has_joined].sum())
    mean = agreement / joined if joined else float("nan")
    return Clustered(out, Collection(tuple(opened), collection.home), by_type, about["sampled"], written, mean)
