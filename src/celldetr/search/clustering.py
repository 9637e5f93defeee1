"""Cluster the cells of slides by embedding (``celldetr cluster``) and write the clusters beside their tables.

All slides are clustered together: a sample of all their cells is clustered, the others join the cluster of the sampled
cells nearest to them. The sample (``sample.parquet``) and each slide (its clusters and exports) are steps of a run
folder, so that an interrupted run continues with the slide it was at.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER, CLUSTERS, MOST, cluster_summary, read_clusters, write_clusters
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
from celldetr.search.collection import Collection, Rows, SlideCells, find_cells, gather, sample_rows
from celldetr.search.grouping import Assigner, Grouping, group, scanpy_module
from celldetr.slide.provenance import environment, now, package_version

FOLDER = "clusters"  # of what is made of all slides, in the cohort's or the slide's
SAMPLE = "sample.parquet"
PICTURES = ("embedding.png", "types.png", "types.csv", "examples.png", "map-*.png")
LAYOUT = Layout("clusters.json", outputs=(SAMPLE, *PICTURES), noun="clustering", shared=True)
GEOJSON = "clusters.geojson.gz"
MANY = 100_000  # more are warned of


@dataclass(frozen=True)
class Clustered:
    """What ``cluster_cells`` did.

    Attributes:
        out: folder of what is made of all slides.
        collection: the cells, their tables opened with the clusters.
        counts: (C,) cells of each cluster.
        by_type: (C, K) cells of each cluster and type.
        types: names of the K types.
        cells, sampled: how many; how many of them were clustered themselves.
        written: slides whose clusters were written; the others were kept.
        agreement: mean share of voters that agree, over the cells that joined; NaN if all were sampled.
    """

    out: Path
    collection: Collection
    counts: NDArray[np.int64]
    by_type: NDArray[np.int64]
    types: tuple[str, ...]
    cells: int
    sampled: int
    written: int
    agreement: float


def cluster_cells(
    cells: Path | str | Sequence[Path | str] | Collection,
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
        resume: continue an interrupted clustering of the same cells with the same options; keep a finished one.
        overwrite: replace earlier clusters.
        progress: called with the number of cells done, and of all.

    Raises:
        InputError: an extra is not installed, no cells, earlier clusters and neither was asked for, or a place that
            cannot be written to.

    Warns:
        SlowWarning: more than ``MANY`` cells are clustered themselves.
    """
    options = options or ClusterOptions()
    check_formats(formats)
    scanpy_module()
    if not isinstance(cells, Collection):
        # Earlier clusters are about to be replaced: they need not fit.
        cells = find_cells([cells] if isinstance(cells, str | Path) else cells, clusters=False)
    if not cells.count:
        raise InputError(f"{cells.home}: there are no cells to group")
    out = cells.home / FOLDER if out is None else Path(out)
    if out.resolve() in {slide.table.path.resolve().parent for slide in cells.slides}:
        raise InputError(f"{out}: is the folder of a slide's results; choose another with -o, e.g. {out / FOLDER}")
    request = {
        "options": options.model_dump(),
        "tables": {slide.name: slide.stamp for slide in cells.slides},
        "version": package_version("celldetr"),
    }
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    folder = RunFolder(out, LAYOUT, request)
    folder.check(resume=resume, overwrite=overwrite)
    if not overwrite:
        _check_slides(cells, digest, resume)
    with folder.open(resume=resume, overwrite=overwrite):
        folder.begin(started=now())
        rows = sample_rows(cells, options.sample, options.seed)
        vectors = gather(cells, rows)
        grouping = _group_sample(folder, cells, rows, vectors, options)
        about: dict[str, Any] = {
            "digest": digest,
            "count": int(grouping.labels.max(initial=0)) + 1,
            "options": options.model_dump(),
            "model": cells.model,
            "version": package_version("celldetr"),
            "cells": cells.count,
            "sampled": len(vectors),
        }
        # From here on what is there is of this run: one that is cut short leaves nothing of another beside it.
        for slide in cells.slides:
            if not _is_of(slide.table.path, digest):
                with RunLock(slide.table.path.parent):
                    slide.table.path.with_name(CLUSTERS).unlink(missing_ok=True)
        opened, sums, written = _write_slides(cells, rows, vectors, grouping, about, formats, folder, progress)
        counts, by_type, types, joined, agreement = sums
        mean = agreement / joined if joined else float("nan")
        folder.finish(
            **about,
            slides=[slide.name for slide in cells.slides],
            counts=counts.tolist(),
            by_type={name: by_type[:, i].tolist() for i, name in enumerate(types)},
            agreement=round(mean, 4) if joined else None,
            ended=now(),
            **environment(),
            libraries={name: package_version(name) for name in ("scanpy", "igraph", "faiss-cpu", "umap-learn")},
        )
    return Clustered(out, opened, counts, by_type, types, cells.count, len(vectors), written, mean)


def _group_sample(
    folder: RunFolder, cells: Collection, rows: Sequence[Rows], vectors: NDArray[np.float32], options: ClusterOptions
) -> Grouping:
    """Cluster the sampled cells, unless an interrupted run has."""
    step = folder.step("sample", {}, (SAMPLE,))
    if step.is_done:
        return _read_sample(folder.path / SAMPLE)
    if len(vectors) > MANY:
        warnings.warn(_slow_warning(len(vectors)), SlowWarning, stacklevel=3)
    try:
        with step:
            grouping = group(vectors, options.resolution, options.neighbours, options.seed)
            if grouping.labels.max(initial=0) >= MOST:
                raise InputError(f"`resolution={options.resolution:g}`: gives more than {MOST:,} clusters; choose less")
            _write_sample(folder.path / SAMPLE, cells, rows, grouping)
    except BaseException:
        folder.discard()  # nothing is done yet
        raise
    return grouping


def _slow_warning(count: int) -> str:
    """Warning of a sample so large that its neighbour graph takes long."""
    return (
        f"{count:,} cells are clustered themselves, and each is first compared with every other: that takes about "
        f"{(count / SAMPLED_CELLS) ** 2:.0f} times as long as of {SAMPLED_CELLS:,}; with a smaller `sample` the"
        " other cells join the clusters of these"
    )


def _check_slides(cells: Collection, digest: str, resume: bool) -> None:
    """Refuse to replace clusters of slides that another clustering has made."""
    for slide in cells.slides:
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


def _write_slides(
    cells: Collection,
    rows: Sequence[Rows],
    vectors: NDArray[np.float32],
    grouping: Grouping,
    about: dict[str, Any],
    formats: Sequence[str],
    folder: RunFolder,
    progress: Progress | None,
) -> tuple[Collection, tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...], int, float], int]:
    """Write the clusters of every slide; returns the tables opened anew, sums for the report, and how many were
    written."""
    types = tuple(dict.fromkeys(name for slide in cells.slides for name in slide.table.types))
    by_type = np.zeros((about["count"], len(types)), np.int64)
    counts = np.zeros(about["count"], np.int64)
    voters = about["options"]["neighbours"]
    everything = len(vectors) == cells.count
    assign = None if everything else Assigner(vectors, grouping.labels, voters, about["options"]["seed"])
    labels = np.split(grouping.labels, np.cumsum([len(some) for some in rows])[:-1])
    slides, joined, agreed, written, done = [], 0, 0.0, 0, 0
    for slide, mine, known in zip(cells.slides, rows, labels, strict=True):
        path = slide.table.path
        with RunLock(path.parent):
            step = folder.step(f"slide {slide.name}", {}, after=("sample",))
            kept = step.is_done and _is_of(path, about["digest"])
            if kept:
                table = open_table(path)
                _export(path.parent, formats, fresh=False)
            else:
                with step:
                    _assign(slide, mine, known, assign, about, done, cells.count, progress)
                    table = open_table(path)
                    _export(path.parent, formats, fresh=True)
                written += 1
        slides.append(SlideCells(slide.name, table, slide.stamp))
        with parquet_errors(path):
            side = pq.read_table(path.with_name(CLUSTERS), columns=["sampled", "agreement"])
        apart = ~np.asarray(side["sampled"])
        joined += int(apart.sum())
        agreed += float(np.asarray(side["agreement"])[apart].sum())
        place = np.array([types.index(name) for name in table.types], dtype=np.intp)
        for batch in table.batches(("type", CLUSTER)):
            np.add.at(by_type, (np.asarray(batch.column(CLUSTER)), place[table.type_codes(batch)]), 1)
        counts += np.bincount(read_clusters(path), minlength=len(counts))
        done += slide.table.count
        if progress:
            progress(done, cells.count)
    return Collection(tuple(slides), cells.home), (counts, by_type, types, joined, agreed), written


def _is_of(path: Path, digest: str) -> bool:
    """Whether the clusters that are there are those of this run, or of another one."""
    try:
        there = cluster_summary(path)
    except InputError:  # damaged, or of an earlier table
        return False
    return there is not None and there.get("digest") == digest


def _assign(
    slide: SlideCells,
    mine: Rows,
    known: NDArray[np.int32],
    assign: Assigner | None,
    about: dict[str, Any],
    done: int,
    total: int,
    progress: Progress | None,
) -> None:
    n = slide.table.count
    labels, agreement = np.zeros(n, np.int32), np.ones(n, np.float32)
    sampled = np.zeros(n, bool)
    if assign is not None:
        for start, vectors in slide.blocks():
            at = slice(start, start + len(vectors))
            labels[at], agreement[at] = assign(vectors)
            if progress:
                progress(done + at.stop, total)
    labels[mine], agreement[mine], sampled[mine] = known, 1, True
    ids = slide.table.read(["cell_id"])["cell_id"].to_numpy()
    write_clusters(slide.table.path, ids.astype(np.int64), labels, sampled, agreement, about)


def _export(directory: Path, formats: Sequence[str], fresh: bool) -> None:
    """Write what was asked for, and again what is there, in a directory that the caller holds."""
    wanted = {find_format(name).name for name in formats}
    there = {name for name, exporter in FORMATS.items() if (directory / f"cells{exporter.suffixes[0]}").exists()}
    for name in sorted((wanted - {"geojson"}) | (there if fresh else set())):
        write_format(directory, name, overwrite=True)
    if "geojson" in wanted or (fresh and (directory / GEOJSON).exists()):
        with replacing(directory / GEOJSON) as temporary:
            write_geojson(open_table(directory), temporary, classify="cluster")


def _write_sample(path: Path, cells: Collection, rows: Sequence[Rows], grouping: Grouping) -> None:
    names, parts = [], []
    for slide, mine in zip(cells.slides, rows, strict=True):
        names += [slide.name] * len(mine)
        parts.append(slide.table.take(mine, ["cell_id", "type"]) if len(mine) else None)
    table = pa.table(
        {
            "slide": pa.array(names, pa.string()).dictionary_encode(),
            "row": np.concatenate(rows),
            "cell_id": np.concatenate([part["cell_id"].to_numpy() for part in parts if part is not None]),
            "type": pa.chunked_array(
                [c for part in parts if part is not None for c in part["type"].cast(pa.string()).chunks], pa.string()
            ),
            CLUSTER: grouping.labels,
            "umap_x": grouping.points[:, 0],
            "umap_y": grouping.points[:, 1],
        }
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _read_sample(path: Path) -> Grouping:
    with parquet_errors(path):
        table = pq.read_table(path, columns=[CLUSTER, "umap_x", "umap_y"])
        labels = np.asarray(table[CLUSTER].to_numpy(), np.int32)
        points = np.stack([table["umap_x"].to_numpy(), table["umap_y"].to_numpy()], 1).astype(np.float32)
    return Grouping(labels, points)
