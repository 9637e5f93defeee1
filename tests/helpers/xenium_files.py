"""Tiny Xenium bundles in the formats of versions 1 to 4, which ``spatialdata_io.xenium`` itself reads.

After the descriptions of 10x Genomics (outputs of Xenium Onboard Analysis) and what spatialdata-io asks of the files:

    1.0  integer ids, cells.zarr.zip with neither seg_mask_value nor polygon_sets
    1.4  text ids, seg_mask_value, one nucleus a cell
    2.0  polygon_sets, several nuclei a cell or none, boundaries without label_id
    3.1  with label_id
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import zarr
from scipy import io, sparse
from shapely.geometry import Polygon

VERSIONS = ("1.0.2", "1.4.0", "2.0.0", "3.1.0", "4.0.0")
GENES = 12
CONTROLS = {"Negative Control Probe": 3, "Negative Control Codeword": 2, "Unassigned Codeword": 1}


@dataclass
class Truth:
    """What a bundle was written from.

    Attributes:
        ids: of N cells.
        counts: (N, GENES) of genes.
        centroids: (N, 2) of cells, micrometres.
        nuclei: the nuclei of each cell.
        outlines: of each cell.
    """

    ids: list[str]
    counts: np.ndarray
    centroids: np.ndarray
    nuclei: list[list[Polygon]]
    outlines: list[Polygon]

    def largest(self) -> list[Polygon | None]:
        return [max(each, key=lambda nucleus: nucleus.area) if each else None for each in self.nuclei]


def ring(x: float, y: float, radius: float, vertices: int = 12, ratio: float = 0.7) -> Polygon:
    angle = np.arange(vertices) * 2 * np.pi / vertices
    # Vertices are float32 in the files.
    points = np.float32(np.column_stack([x + radius * np.cos(angle), y + ratio * radius * np.sin(angle)]))
    return Polygon(points.astype(np.float64))


def letters(prefix: int) -> str:
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{prefix:08x}")


def write_bundle(folder: Path, version: str = "3.1.0", cells: int = 30, seed: int = 0) -> Truth:
    """Write a whole bundle (without images and transcripts) and return what is in it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    major, minor = (int(part) for part in version.split(".")[:2])
    text_ids, several = (major, minor) >= (1, 3), major >= 2
    centroids = rng.uniform(20, 480, (cells, 2))
    counts = rng.poisson(3, (cells, GENES + sum(CONTROLS.values())))
    counts[:, GENES:] = rng.poisson(0.2, (cells, sum(CONTROLS.values())))
    nuclei, outlines = [], []
    for place, (x, y) in enumerate(centroids):
        outlines.append(ring(x, y, 9))
        own = [ring(x + 1.5, y - 1, rng.uniform(3, 4))]
        if several and place % 7 == 3:
            own = []
        elif several and place % 7 == 5:
            own.append(ring(x - 4, y + 2, 2))
            own = own[:: 1 if place % 2 else -1]  # the larger one first, or last
        nuclei.append(own)
    prefixes = np.sort(rng.choice(2**32 - 1, cells, replace=False)).astype(np.uint32)
    prefixes[0] = 7  # leading zeros
    ids = [f"{letters(int(prefix))}-1" for prefix in prefixes] if text_ids else [str(i + 1) for i in range(cells)]
    truth = Truth(ids, counts[:, :GENES], centroids, nuclei, outlines)

    _experiment(folder, version)
    _cells_table(folder, truth, counts, text_ids, several)
    for name, rings in (("cell", [[each] for each in outlines]), ("nucleus", nuclei)):
        boundaries(truth.ids if text_ids else list(range(1, cells + 1)), rings, (major, minor) >= (3, 0)).to_parquet(
            folder / f"{name}_boundaries.parquet", index=False
        )
    _cells_zarr(folder, truth, prefixes, version)
    write_matrix(folder / "cell_feature_matrix.h5", counts, ids)
    return truth


def feature_table() -> pd.DataFrame:
    names = [f"GENE{i}" for i in range(GENES)]
    types = ["Gene Expression"] * GENES
    for kind, number in CONTROLS.items():
        names += [f"{kind.replace(' ', '')}_{i}" for i in range(number)]
        types += [kind] * number
    ids = [f"ENSG{i:011d}" for i in range(GENES)] + names[GENES:]
    return pd.DataFrame({"id": ids, "name": names, "type": types})


def write_matrix(path: Path, counts: np.ndarray, ids: list[str]) -> None:
    """cell_feature_matrix.h5."""
    matrix, features = sparse.csr_matrix(counts), feature_table()
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(ids, dtype="S")
        group["data"] = matrix.data.astype(np.int32)
        group["indices"] = matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        group["shape"] = np.array(counts.shape[::-1], dtype=np.int32)
        inside = group.create_group("features")
        inside["_all_tag_keys"] = np.array(["genome"], dtype="S")
        for name, column in (("id", "id"), ("name", "name"), ("feature_type", "type")):
            inside[name] = features[column].to_numpy().astype("S")
        inside["genome"] = np.array(["Unknown"] * len(features), dtype="S")


def write_mex(folder: Path, counts: np.ndarray, ids: list[str]) -> None:
    """The folder cell_feature_matrix."""
    folder.mkdir(parents=True)
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        io.mmwrite(file, sparse.coo_matrix(counts.T))
    feature_table().to_csv(folder / "features.tsv.gz", sep="\t", header=False, index=False)
    pd.Series(ids).to_csv(folder / "barcodes.tsv.gz", sep="\t", header=False, index=False)


def write_zarr_matrix(path: Path, counts: np.ndarray, ids: list[str], *, by_feature: bool = True) -> None:
    """cell_feature_matrix.zarr.zip."""
    matrix, features = sparse.csr_matrix(counts.T if by_feature else counts), feature_table()
    prefixes = [int("".join(f"{ord(c) - ord('a'):x}" for c in each.split("-")[0]), 16) for each in ids]
    with zarr.storage.ZipStore(path, mode="w") as store:
        kinds = ["gene" if kind == "Gene Expression" else kind.lower().replace(" ", "_") for kind in features["type"]]
        attributes = {
            "feature_keys": features["name"].tolist(),
            "feature_ids": features["id"].tolist(),
            "feature_types": kinds,
        }
        group = zarr.create_group(store, zarr_format=2).create_group("cell_features", attributes=attributes)
        pairs = np.column_stack([prefixes, np.ones(len(ids))]).astype(np.uint32)
        for name, values in (
            ("cell_id", pairs),
            ("data", matrix.data.astype(np.uint32)),
            ("indices", matrix.indices.astype(np.uint32)),
            ("indptr", matrix.indptr.astype(np.uint32)),
        ):
            _array(group, name, values)


def boundaries(ids: list, rings: list[list[Polygon]], labels: bool) -> pd.DataFrame:
    """A boundary table: a row a vertex, the first vertex of a ring again at its end."""
    rows, label = [], 0
    for cell, own in zip(ids, rings, strict=True):
        for polygon in own:
            label += 1
            rows += [(cell, np.float32(x), np.float32(y), label) for x, y in polygon.exterior.coords]
    frame = pd.DataFrame(rows, columns=["cell_id", "vertex_x", "vertex_y", "label_id"])
    return frame if labels else frame.drop(columns="label_id")


def _experiment(folder: Path, version: str) -> None:
    values = {
        "major_version": 5,
        "run_name": "run",
        "region_name": "region 1",
        "analysis_sw_version": f"xenium-{version}",
        "pixel_size": 0.2125,
        "panel_name": "tiny",
    }
    (folder / "experiment.xenium").write_text(json.dumps(values))


def _cells_table(folder: Path, truth: Truth, counts: np.ndarray, text_ids: bool, several: bool) -> None:
    has = np.array([bool(each) for each in truth.nuclei])
    frame = pd.DataFrame(
        {
            "cell_id": truth.ids if text_ids else np.arange(1, len(truth.ids) + 1, dtype=np.int32),
            "x_centroid": truth.centroids[:, 0],
            "y_centroid": truth.centroids[:, 1],
            "transcript_counts": counts[:, :GENES].sum(axis=1),
            "control_probe_counts": counts[:, GENES:].sum(axis=1),
            "total_counts": counts.sum(axis=1),
            "cell_area": [each.area for each in truth.outlines],
            "nucleus_area": np.where(has, [sum(n.area for n in each) for each in truth.nuclei], np.nan),
        }
    )
    if several:
        frame["nucleus_count"] = [len(each) for each in truth.nuclei]
        frame["segmentation_method"] = "Segmented by nucleus expansion of 5.0µm"
    frame.to_parquet(folder / "cells.parquet", index=False)


def _array(group: zarr.Group, name: str, values: np.ndarray, attributes: dict | None = None) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, n) for n in values.shape),
        attributes=attributes,
    )
    array[...] = values


def _cells_zarr(folder: Path, truth: Truth, prefixes: np.ndarray, version: str) -> None:
    major, minor = (int(part) for part in version.split(".")[:2])
    cells = len(truth.ids)
    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        group = zarr.create_group(store, zarr_format=2)
        if (major, minor) >= (1, 3):
            _array(group, "cell_id", np.column_stack([prefixes, np.ones(cells)]).astype(np.uint32))
        else:
            _array(group, "cell_id", np.arange(1, cells + 1, dtype=np.uint32))
        columns = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
        columns += ["nucleus_area", "z_level"] + ["nucleus_count"] * (major >= 2)
        summary = np.zeros((cells, len(columns)))
        summary[:, :2] = truth.centroids
        if major >= 2:
            summary[:, -1] = [len(each) for each in truth.nuclei]
        _array(group, "cell_summary", summary, {"column_names": columns})
        if major >= 2:
            sets = group.create_group("polygon_sets")
            owners = np.repeat(np.arange(cells), [len(each) for each in truth.nuclei])
            for number, index in ((0, owners), (1, np.arange(cells))):
                _array(sets.create_group(str(number)), "cell_index", index.astype(np.uint32))
        elif minor >= 3:
            _array(group, "seg_mask_value", np.arange(1, cells + 1, dtype=np.uint32))
