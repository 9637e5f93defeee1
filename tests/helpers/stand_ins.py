"""Small folders laid out as the data sets that recipes and benchmarks name, so that these run where the data are not.

Pixels are parts of the sample slide, labels are what the packaged model finds there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from helpers.folders import write_csv
from helpers.sample_crop import MPP, crop, default_model, save

SIDE = 128  # px


@cache
def labelled(number: int) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """One of 28 tiles and its cells, boxes clipped to the tile."""
    tile = crop(900 + 60 * (number % 7), 850 + 70 * (number // 7), SIDE, SIDE)
    cells = default_model().predict(tile, mpp=MPP)
    for side, low, high in (("x", "x0", "x1"), ("y", "y0", "y1")):
        half = cells["w_px" if side == "x" else "h_px"] / 2
        cells[low] = (cells[f"{side}_px"] - half).clip(0, SIDE - 2).astype(int)
        cells[high] = np.maximum((cells[f"{side}_px"] + half).clip(2, SIDE), cells[low] + 2).astype(int)
    return tile, cells


def write_brca(folder: Path) -> None:
    """brca-m2c: points, two images a split."""
    kinds = {name: number for number, name in enumerate(("lymphocyte", "epithelial", "stromal"), 1)}
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"TCGA-A{i}-{split:A<4.4}-1".upper() for i in range(2)]
        for i, name in enumerate(names):
            tile, cells = labelled(2 * number + i)
            save(tile, folder / "images" / f"{name}.png")
            rows = [f"{y} {x} {kinds[kind]}" for x, y, kind in cells[["x_px", "y_px", "type"]].itertuples(index=False)]
            rows = [" ".join(str(int(float(word))) for word in row.split()) for row in rows]
            (folder / "labels" / f"{name}_gt_class_coords.txt").write_text("\n".join(rows) + "\n")
        (folder / f"brca_ds_{split}.txt").write_text("".join(f"{name}.png\n" for name in names))


def write_consep(folder: Path, train: int = 27, test: int = 2) -> None:
    """consep: instance maps, with all four types."""
    for split, count in (("train", train), ("test", test)):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for number in range(1, count + 1):
            tile, cells = labelled(number % 28)
            name = f"{split}_{number}"
            save(tile, folder / split / "images" / f"{name}.png")
            instances, types = np.zeros((SIDE, SIDE), np.uint16), {}
            for instance, (x0, x1, y0, y1) in enumerate(cells[["x0", "x1", "y0", "y1"]].to_numpy(), 1):
                instances[y0:y1, x0:x1] = instance
            for instance in np.unique(instances[instances > 0]).tolist():
                types[str(instance)] = 1 + (instance + number) % 4
            save(instances, folder / split / "labels" / f"{name}_inst.png")
            (folder / split / "labels" / f"{name}_types.json").write_text(json.dumps(types))


def write_pannuke_breast(folder: Path) -> None:
    """pannuke-breast-mini: COCO."""
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        tile, cells = labelled(number)
        save(tile, folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for x0, x1, y0, y1 in cells[["x0", "x1", "y0", "y1"]].to_numpy().tolist():
            box = [x0, y0, x1 - x0 - 1, y1 - y0 - 1]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": x0 % 2, "bbox": box})
    categories = [{"id": 0, "name": "Neoplastic"}, {"id": 1, "name": "No-neoplastic"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(content))


def write_nucls(folder: Path) -> None:
    """nucls-examples: tables of points."""
    for split in ("train", "test"):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        tile, cells = labelled(7)
        save(tile, folder / split / "images" / "a.png")
        points = cells[["x_px", "y_px"]].to_numpy().clip(0, SIDE - 2).astype(int).tolist()
        write_csv(folder / split / "labels" / "a.csv", [[x, y, x % 4] for x, y in points])


def write_dsb(folder: Path) -> None:
    """dsb2018: instance maps of one type, in groups."""
    rows: list[list[object]] = [["image", "group"]]
    for number, group in enumerate(("he_pink", "purple_on_lilac", "smear_on_white")):
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        tile, cells = labelled(number + 10)
        instances = np.zeros((SIDE, SIDE), np.uint16)
        for instance, (x0, x1, y0, y1) in enumerate(cells[["x0", "x1", "y0", "y1"]].to_numpy(), 1):
            instances[y0:y1, x0:x1] = instance
        save(tile, folder / "images" / f"{number}.png")
        save(instances, folder / "labels" / f"{number}.png")
        rows.append([f"{number}.png", group])
    write_csv(folder / "groups.csv", rows)


def write_empty_tiles(folder: Path) -> None:
    """no-nuclei: glass."""
    folder.mkdir(parents=True)
    names = ["almost-white-2", "no-tissue-green-pen", "no-tissue-line", "no-tissue-red-pen", "no-tissue2"]
    for name in [*(f"histolab_{each}" for each in names), "wsidicom_test_tile"]:
        save(np.full((260, 360, 3), 240, np.uint8), folder / f"{name}.png")


def write_stand_ins(folder: Path) -> Path:
    """All of them, as CELLDETR_DATA expects them."""
    write_brca(folder / "brca_m2c")
    write_consep(folder / "consep")
    write_pannuke_breast(folder / "pannuke_breast_mini")
    write_dsb(folder / "dsb2018_he")
    write_nucls(folder / "nucls_cellvitpp_examples" / "Example-Detection")
    write_empty_tiles(folder / "unlabelled_he_tiles")
    return folder


def write_bone_marrow(folder: Path) -> Path:
    """The re-saved Xenium section of benchmarks/bone_marrow.py: 60 cells of three clusters, 30 genes."""
    rng = np.random.default_rng(0)
    ids, cluster = [f"c{i}" for i in range(60)], np.repeat(np.arange(3), 20)
    counts = csr_matrix(rng.poisson(0.5 + 8 * (np.arange(30)[None] // 10 == cluster[:, None])))
    folder.mkdir(parents=True)
    with h5py.File(folder / "cell_feature_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name, values in (("data", counts.data), ("indices", counts.indices), ("indptr", counts.indptr)):
            group[name] = values
        group["shape"], group["barcodes"] = np.array([30, 60]), np.array(ids, "S")
        features = group.create_group("features")
        for name in ("id", "name"):
            features[name] = np.array([f"G{i}" for i in range(30)], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 30, "S")
    place = rng.uniform(0, 1500, (60, 2))
    table = {"cell_id": ids, "x_px": place[:, 0], "y_px": place[:, 1], "cluster": cluster.astype(str)}
    pd.DataFrame(table).to_parquet(folder / "cells.parquet")
    return folder


def write_reference(path: Path, column: str, types: Sequence[str]) -> Path:
    """A single-cell reference: 16 cells of each type, which has a hundred genes to itself."""
    kinds = np.repeat(np.array(types, dtype=object), 16)
    own = np.arange(100 * len(types))[None] // 100 == np.repeat(np.arange(len(types)), 16)[:, None]
    counts = csr_matrix(np.random.default_rng(0).poisson(0.2 + 2 * own).astype(np.float32))
    obs = pd.DataFrame({column: kinds}, index=[f"r{i}" for i in range(len(kinds))])
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(own.shape[1])])).write_h5ad(path)
    return path
