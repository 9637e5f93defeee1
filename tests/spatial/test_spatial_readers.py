"""Sections as they are read: against what bundles were written from, spatialdata-io, scanpy, and genuine files."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy import sparse

from celldetr.errors import InputError
from celldetr.spatial.counts import is_whole, undo_log_provably
from celldetr.spatial.readers import ReadOptions, read_section
from celldetr.spatial.readers.boundaries import read_boundaries, split_rings
from celldetr.spatial.readers.common import split_genes
from celldetr.spatial.readers.tables import cell_ids_as_text, check_zarr_zip, read_matrix
from helpers.xenium_files import (
    CONTROLS,
    GENES,
    VERSIONS,
    Truth,
    boundaries,
    write_bundle,
    write_matrix,
    write_mex,
    write_zarr_matrix,
)


def hold_to_truth(section: object, truth: Truth) -> None:
    cells = section.cells
    assert cells.obs_names.tolist() == truth.ids
    assert cells.var_names.tolist() == [f"GENE{i}" for i in range(GENES)]
    assert (cells.X.toarray() == truth.counts).all()
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    largest = truth.largest()
    centres = [truth.centroids[i] if n is None else n.centroid.coords[0] for i, n in enumerate(largest)]
    assert np.allclose(section.points, centres, atol=1e-4)
    for ours, theirs in ((section.nuclei, largest), (section.outlines, truth.outlines)):
        assert [a is None for a in ours] == [b is None for b in theirs]
        assert all(a.equals_exact(b, 1e-4) for a, b in zip(ours, theirs, strict=True) if b is not None)
    assert np.allclose(cells.obs["cell_area_um2"], [each.area for each in truth.outlines])
    assert section.source["features_left_out"] == CONTROLS


@pytest.mark.parametrize("version", VERSIONS)
def test_bundles_of_all_versions(version: str, tmp_path: Path) -> None:
    truth = write_bundle(tmp_path / "out", version)
    section = read_section(tmp_path / "out")
    hold_to_truth(section, truth)
    assert section.source["version"] == f"xenium-{version}"
    assert section.name == "run region 1"
    several = sum(len(each) > 1 for each in truth.nuclei)
    assert section.source.get("polygons", {}) == ({"nuclei": {"several": several}} if several else {})
    assert (several > 0) == (version >= "2")


def test_as_spatialdata_io_reads_it(tmp_path: Path) -> None:
    sdio = pytest.importorskip("spatialdata_io")
    write_bundle(tmp_path)
    data = sdio.xenium(
        tmp_path, cells_labels=False, nucleus_labels=False, transcripts=False, morphology_mip=False,
        morphology_focus=False, aligned_images=False,
    )  # fmt: skip
    table, ours = data["table"], read_section(tmp_path)
    assert table.obs_names.tolist() == ours.cells.obs_names.tolist()
    assert (table.X != ours.cells.X).nnz == 0
    outlines = data["cell_boundaries"].geometry.reindex(ours.cells.obs_names)
    assert all(a.equals(b) for a, b in zip(outlines, ours.outlines, strict=True))
    nuclei = data["nucleus_boundaries"]
    best = nuclei.loc[nuclei.area.groupby(nuclei["cell_id"]).idxmax()].set_index("cell_id").geometry
    for cell, nucleus in zip(ours.cells.obs_names, ours.nuclei, strict=True):
        assert (nucleus is None) == (cell not in best.index)
        assert nucleus is None or best[cell].equals(nucleus)


@pytest.mark.parametrize("kind", ["mex", "zarr", "zarr by cell"])
def test_matrix_in_other_formats(kind: str, tmp_path: Path) -> None:
    truth = write_bundle(tmp_path / "h5")
    whole_matrix = read_matrix(tmp_path / "h5" / "cell_feature_matrix.h5")
    counts = whole_matrix.X.toarray().astype(int)
    if kind == "mex":
        path = tmp_path / "cell_feature_matrix"
        write_mex(path, counts, truth.ids)
    else:
        path = tmp_path / "cell_feature_matrix.zarr.zip"
        write_zarr_matrix(path, counts, truth.ids, by_feature=kind == "zarr")
    other = read_matrix(path)
    assert other.obs_names.tolist() == whole_matrix.obs_names.tolist()
    assert other.var["gene_ids"].tolist() == whole_matrix.var["gene_ids"].tolist()
    assert (other.X.toarray() == counts).all()
    gene, left_out = split_genes(other.var["feature_types"].to_numpy(dtype=object))
    assert other.var_names[gene].tolist() == [f"GENE{i}" for i in range(GENES)]
    assert sum(left_out.values()) == sum(CONTROLS.values())


def test_genuine_parts_of_bundles(shared_data: Path) -> None:
    section = read_section(shared_data / "xenium_mousebrain_subset")
    cells = pd.read_csv(shared_data / "xenium_mousebrain_subset" / "cells.csv.gz")
    assert section.cells.shape == (36602, 248)
    assert np.array_equal(section.points, cells[["x_centroid", "y_centroid"]])
    assert np.array_equal(section.cells.obs["nucleus_area_um2"], cells["nucleus_area"])
    assert section.cells.X.sum() == cells["transcript_counts"].sum()
    assert section.nuclei is None
    small = read_section(shared_data / "xenium_small_hbreast")
    assert small.cells.var_names.tolist() == ["ABCC11", "ACTA2", "ACTG2", "ADAM9"] or small.cells.shape == (6, 4)
    assert "Unnamed: 0" not in small.cells.obs


def test_bone_marrow_matrix(shared_data: Path) -> None:
    matrix = read_matrix(shared_data / "xenium_hbonemarrow" / "cell_feature_matrix.h5")
    gene, left_out = split_genes(matrix.var["feature_types"].to_numpy(dtype=object))
    assert matrix.shape == (84518, 541)
    assert (gene.sum(), sum(left_out.values())) == (477, 64)
    with pytest.raises(InputError, match=r"cells\.parquet: has no column x_centroid, y_centroid .it has cell_id, x_px"):
        read_section(shared_data / "xenium_hbonemarrow")


def test_tables_in_csv(tmp_path: Path) -> None:
    truth = write_bundle(tmp_path)
    for name in ("cells", "cell_boundaries", "nucleus_boundaries"):
        frame = pd.read_parquet(tmp_path / f"{name}.parquet")
        frame.to_csv(tmp_path / f"{name}.csv.gz", index=False)
        (tmp_path / f"{name}.parquet").unlink()
    section = read_section(tmp_path)
    hold_to_truth(section, truth)


def test_polygons_of_other_cells_are_refused(tmp_path: Path) -> None:
    """As where ids were written anew in one of the files: without polygons there would be other points, and no word."""
    write_bundle(tmp_path)
    frame = pd.read_parquet(tmp_path / "nucleus_boundaries.parquet")
    frame["cell_id"] = "region-" + frame["cell_id"].astype(str)
    frame.to_parquet(tmp_path / "nucleus_boundaries.parquet")
    with pytest.raises(InputError, match=r"nucleus_boundaries\.parquet: \d+ of its \d+ polygons are of no cell"):
        read_section(tmp_path)


def test_a_matrix_in_another_order_than_its_cells_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    with h5py.File(tmp_path / "cell_feature_matrix.h5", "r+") as file:
        barcodes = file["matrix/barcodes"]
        barcodes[...] = barcodes[:][::-1]
    with pytest.raises(InputError, match=r"more transcripts than the table of cells says for \d+ of 30 cells"):
        read_section(tmp_path)


@pytest.mark.parametrize("change", [lambda xy: xy / 0.2125, lambda xy: xy[:, ::-1], lambda xy: xy * 1000])
def test_polygons_that_lie_elsewhere_are_refused(change: Any, tmp_path: Path) -> None:
    write_bundle(tmp_path)
    for name in ("nucleus", "cell"):
        path = tmp_path / f"{name}_boundaries.parquet"
        table = pd.read_parquet(path)
        table[["vertex_x", "vertex_y"]] = change(table[["vertex_x", "vertex_y"]].to_numpy())
        table.to_parquet(path, index=False)
        with pytest.raises(InputError, match="um from the centres of their cells"):
            read_section(tmp_path)


def test_rows_joined_by_id(tmp_path: Path) -> None:
    truth = write_bundle(tmp_path)
    frame = pd.read_parquet(tmp_path / "cells.parquet").sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "cells.parquet")
    section = read_section(tmp_path)
    hold_to_truth(section, truth)
    frame.iloc[:-10].to_parquet(tmp_path / "cells.parquet")
    part = read_section(tmp_path)
    assert part.cells.n_obs == 20
    assert part.source["left_out"] == {"cells of cell_feature_matrix.h5 that are not in cells.parquet": 10}
    assert part.source["polygons"]["outlines"]["foreign"] == 10
    frame.iloc[:14].to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(InputError, match=r"16 of the 30 cells of cell_feature_matrix\.h5 are not in cells\.parquet"):
        read_section(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "name", ["cells.parquet", "nucleus_boundaries.parquet", "cell_boundaries.parquet", "cell_feature_matrix.h5"]
)
def test_truncated_files_are_named(name: str, tmp_path: Path) -> None:
    write_bundle(tmp_path)
    truncate(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: cannot be read .*; the file is damaged or incomplete"):
        read_section(tmp_path)


def test_truncated_csv_and_manifest(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    frame = pd.read_parquet(tmp_path / "cells.parquet")
    (tmp_path / "cells.parquet").unlink()
    frame.to_csv(tmp_path / "cells.csv.gz", index=False)
    truncate(tmp_path / "cells.csv.gz")
    with pytest.raises(InputError, match=r"cells\.csv\.gz: cannot be read"):
        read_section(tmp_path)
    truncate(tmp_path / "experiment.xenium")
    with pytest.raises(InputError, match=r"experiment\.xenium: cannot be read as JSON"):
        read_section(tmp_path)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such section"):
        read_section(tmp_path / "none")
    with pytest.raises(InputError, match=r"not a Xenium bundle, it holds nothing; expected one of cells\.parquet"):
        read_section(tmp_path)
    (tmp_path / "spam.txt").write_text("x")
    with pytest.raises(InputError, match=r"it holds spam\.txt; .* and one of cell_feature_matrix\.h5"):
        read_section(tmp_path)
    with pytest.raises(InputError, match=r"spam\.txt: no such section; expected a Xenium output folder"):
        read_section(tmp_path / "spam.txt")
    with pytest.raises(InputError, match="kind 'xenum': did you mean 'xenium'"):
        read_section(tmp_path, kind="xenum")
    write_bundle(tmp_path)
    (tmp_path / "cells.parquet").unlink()
    with pytest.raises(InputError, match=r"not a Xenium bundle, .*expected one of cells\.parquet, cells\.csv\.gz"):
        read_section(tmp_path)


def test_tables_that_are_wrong(tmp_path: Path) -> None:
    truth = write_bundle(tmp_path)
    frame = pd.read_parquet(tmp_path / "cells.parquet")
    frame.rename(columns={"x_centroid": "x"}).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(InputError, match=r"has no column x_centroid .it has cell_id, x, y_centroid"):
        read_section(tmp_path)
    pd.concat([frame, frame[:2]]).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(InputError, match=r"2 cell ids occur more than once \('aaaaaaah-1', say\)"):
        read_section(tmp_path)
    frame[:0].to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(InputError, match="holds no cells"):
        read_section(tmp_path)
    bad = frame.assign(x_centroid=np.where(np.arange(30) < 8, np.nan, frame["x_centroid"]))
    bad.to_parquet(tmp_path / "cells.parquet")
    hidden = [i for i in range(8) if not truth.nuclei[i]]  # the others have the centre of their nucleus
    with pytest.raises(InputError, match=rf"{len(hidden)} of 30 cells have no finite coordinates; .*drop_unplaced"):
        read_section(tmp_path)
    section = read_section(tmp_path, options=ReadOptions(drop_unplaced=True))
    assert section.cells.obs_names.tolist() == [name for i, name in enumerate(truth.ids) if i not in hidden]
    assert section.source["left_out"] == {"cells without coordinates": len(hidden)}
    assert len(section.nuclei) == len(section.outlines) == section.cells.n_obs
    frame.to_parquet(tmp_path / "cells.parquet")
    table = pd.read_parquet(tmp_path / "cell_boundaries.parquet").drop(columns="vertex_x")
    table.to_parquet(tmp_path / "cell_boundaries.parquet")
    with pytest.raises(InputError, match=r"cell_boundaries\.parquet: has no column vertex_x"):
        read_section(tmp_path)


def test_matrices_that_are_wrong(tmp_path: Path) -> None:
    truth = write_bundle(tmp_path)
    path = tmp_path / "cell_feature_matrix.h5"
    counts = read_matrix(path).X.toarray().astype(int)
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][0] = 999
    with pytest.raises(InputError, match=r"cell_feature_matrix\.h5: cannot be read"):
        read_section(tmp_path)
    write_matrix(path, counts, truth.ids)
    with h5py.File(path, "r+") as file:
        del file["matrix/data"]
        file["matrix/data"] = np.full((counts > 0).sum(), 0.5)
    with pytest.raises(InputError, match="numbers that are no counts"):
        read_section(tmp_path)
    write_matrix(path, counts, truth.ids)
    with h5py.File(path, "r+") as file:
        file["matrix/features/feature_type"][...] = b"Protein Expression"
    with pytest.raises(InputError, match="none of its features is of type 'Gene Expression'"):
        read_section(tmp_path)
    with h5py.File(path, "w") as file:
        file["spam"] = 1
    with pytest.raises(InputError, match=r"cell_feature_matrix\.h5: cannot be read"):
        read_section(tmp_path)


def test_alignment_in_the_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    (tmp_path / "run_he_imagealignment.csv").write_text("1,0,100\n0,1,50\n0,0,1\n")
    (tmp_path / "run_if_imagealignment.csv").write_text("no")
    section = read_section(tmp_path)
    assert section.source["alignment"] == "run_he_imagealignment.csv"
    assert np.allclose(section.to_image @ [100 * 0.2125, 50 * 0.2125, 1], [0, 0, 1])
    (tmp_path / "run_he_imagealignment.csv").write_text("1,0\n0,1\n")
    section = read_section(tmp_path)
    assert section.to_image is None
    assert section.source["alignment"].startswith("not used: run_he_imagealignment.csv: holds 2 x 2 numbers")
    json.dumps(section.source)


@pytest.mark.parametrize(
    "name", ["matrix.csv", "he_image_matrix.csv", "he_alignment_files/matrix.csv", "alignment.zip"]
)
def test_alignments_of_xenium_explorer_in_the_bundle(name: str, tmp_path: Path) -> None:
    write_bundle(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    text = '"1","0","100"\n"0","1","50"\n"0","0","1"\n'
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("matrix.csv", text)
    else:
        (tmp_path / name).write_text(text)
    (tmp_path / "cell_feature_matrix.csv").write_text("a,b\n")
    section = read_section(tmp_path)
    assert np.allclose(section.to_image @ [100 * 0.2125, 50 * 0.2125, 1], [0, 0, 1])
    (tmp_path / "run_he_imagealignment.csv").write_text("1,0,0\n0,1,0\n0,0,1\n")
    section = read_section(tmp_path)
    assert section.to_image is None
    assert (
        section.source["alignment"]
        == f"not used, there are 2: {', '.join(sorted([name, 'run_he_imagealignment.csv']))}"
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("version", ["1.0.2", "2.0.0", "3.1.0"])
def test_quoted_tables_and_an_unknown_version_are_read(packed: bool, version: str, tmp_path: Path) -> None:
    truth = write_bundle(tmp_path, version)
    for stem in ("cells", "nucleus_boundaries", "cell_boundaries"):
        table = pd.read_parquet(tmp_path / f"{stem}.parquet")
        for file in [*tmp_path.glob(f"{stem}.parquet"), *tmp_path.glob(f"{stem}.csv*")]:
            file.unlink()
        path = tmp_path / f"{stem}.csv{'.gz' if packed else ''}"
        table.to_csv(path, index=False, quoting=csv.QUOTE_ALL, encoding="utf-8-sig", lineterminator="\r\n")
    about = json.loads((tmp_path / "experiment.xenium").read_text())
    text = json.dumps(about | {"analysis_sw_version": "R&D"})
    (tmp_path / "experiment.xenium").write_text(text, encoding="utf-8-sig")
    section = read_section(tmp_path)
    assert section.source["version"] == "R&D"
    hold_to_truth(section, truth)


def test_rings_of_several_nuclei_are_told_apart() -> None:
    a = np.array([[0, 0], [2, 0], [2, 2], [0, 0]], float)
    b = np.array([[5, 5], [7, 5], [7, 7], [5, 7], [5, 5]], float)
    open_ = np.array([[9, 9], [10, 9], [10, 10]], float)
    starts = split_rings(np.concatenate([a, b, b + 9, a + 30, a, open_]), np.array([0, 9, 18]))
    # Runs of two rings each, the last of which is not closed.
    assert starts.tolist() == [0, 4, 9, 14, 18, 22]


def test_boundaries_with_damage(tmp_path: Path) -> None:
    good = shapely.box(0, 0, 1, 1)
    frame = boundaries(list("abcd"), [[good]] * 4, labels=True)
    frame.loc[frame["cell_id"] == "b", "vertex_x"] = np.nan
    frame = frame.drop(frame.index[frame["cell_id"] == "c"][2:])  # two vertices are left
    frame = frame.drop(frame.index[frame["cell_id"] == "d"][-1:])  # not closed
    frame.to_parquet(tmp_path / "b.parquet")
    ids, polygons = read_boundaries(tmp_path / "b.parquet")
    assert ids.tolist() == ["a", "b", "c", "d"]
    assert polygons[0].equals(good)
    assert polygons[1:].tolist() == [None, None, None]
    frame[:0].to_parquet(tmp_path / "b.parquet")
    assert len(read_boundaries(tmp_path / "b.parquet")[0]) == 0


def test_ids_of_zarr() -> None:
    # 10x's example: prefix 1437536272, suffix 1 is ffkpbaba-1.
    assert cell_ids_as_text(np.array([[1437536272, 1], [7, 12]], np.uint32)).tolist() == ["ffkpbaba-1", "aaaaaaah-12"]
    assert cell_ids_as_text(np.array([3, 4])).tolist() == ["3", "4"]


def test_codecs_that_run_code_are_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.zarr.zip", "w") as archive:
        archive.writestr("data/.zarray", json.dumps({"filters": [{"id": "pickle", "protocol": 5}]}))
    with pytest.raises(InputError, match=r"data/\.zarray asks for a codec that runs code"):
        check_zarr_zip(tmp_path / "m.zarr.zip")


# AnnData and HEST-1k


def a_file(path: Path, counts: np.ndarray | None = None, **columns: np.ndarray) -> anndata.AnnData:
    counts = np.random.default_rng(0).poisson(2, (30, 8)) if counts is None else counts
    data = anndata.AnnData(
        counts.astype(np.float32), obs=pd.DataFrame(columns, index=[f"c{i}" for i in range(len(counts))])
    )
    data.var_names = [f"G{i}" for i in range(counts.shape[1])]
    data.write_h5ad(path)
    return data


XY = np.random.default_rng(1).uniform(0, 1000, (30, 2))


def test_anndata_units(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    data = a_file(path, x_centroid=XY[:, 0], y_centroid=XY[:, 1], cell_area=np.full(30, 50.0), donor=["d"] * 30)
    section = read_section(path)
    assert np.allclose(section.points, XY)
    assert (section.name, section.source["format"], section.to_image) == ("a", "anndata", None)
    assert (section.cells.X.toarray() == data.X).all()
    assert {"cell_area_um2", "donor"} <= set(section.cells.obs)
    data.obsm["spatial"] = XY
    data.obs = data.obs[["donor"]]
    data.write_h5ad(path)
    with pytest.raises(InputError, match="nothing says what the coordinates in obsm 'spatial' are measured in"):
        read_section(path)
    assert np.allclose(read_section(path, options=ReadOptions(unit="um")).points, XY)
    with pytest.raises(InputError, match="are pixels; pass mpp"):
        read_section(path, options=ReadOptions(unit="px"))
    pixels = read_section(path, options=ReadOptions(unit="px", mpp=0.25, swap_xy=True))
    assert np.allclose(pixels.points, XY[:, ::-1] / 4)
    assert np.allclose(pixels.to_image, np.diag([4, 4, 1]))
    with pytest.raises(InputError, match="obs has no columns a and b for x and y; it has donor"):
        read_section(path, options=ReadOptions(x="a", y="b"))
    with pytest.raises(InputError, match="has no coordinates"):
        read_section(path, options=ReadOptions(obsm="spam"))


def test_counts_are_looked_for(tmp_path: Path) -> None:
    path, options = tmp_path / "a.h5ad", ReadOptions(unit="um")
    counts = np.random.default_rng(0).poisson(2, (30, 8))
    counts[:, 0] += 1
    normalised = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    data = a_file(path, normalised)
    data.obsm["spatial"] = XY
    data.write_h5ad(path)
    with pytest.raises(InputError, match=r"holds no whole counts \(looked at X\); save them as X or as layer 'counts'"):
        read_section(path, options=options)
    undone = read_section(path, options=ReadOptions(unit="um", undo_log=True))
    assert (undone.cells.X.toarray() == counts / np.gcd.reduce(counts, axis=1, keepdims=True)).all()
    assert "normalisation undone" in undone.source["counts"]
    data.raw = anndata.AnnData(
        np.hstack([counts, counts]).astype(np.float32), var=pd.DataFrame(index=list("abcdefghijklmnop"))
    )
    data.write_h5ad(path)
    section = read_section(path, options=options)
    assert (section.source["counts"], section.cells.n_vars) == ("raw", 16)
    data.layers["counts"] = sparse.csr_matrix(counts)
    data.layers["mine"] = counts * 2
    data.write_h5ad(path)
    assert read_section(path, options=options).source["counts"] == "counts"
    mine = read_section(path, options=ReadOptions(unit="um", layer="mine"))
    assert (mine.cells.X.toarray() == counts * 2).all()
    with pytest.raises(InputError, match="has no matrix of counts 'spam'; expected one of"):
        read_section(path, options=ReadOptions(unit="um", layer="spam"))


def test_undoing_is_proved_or_refused() -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson(1.5, (200, 30))
    counts[:, 0] = 1  # a cell's smallest is one transcript
    scaled = counts / counts.sum(axis=1, keepdims=True) * 1e4
    for values in (np.log1p(scaled), scaled):
        assert (undo_log_provably(values.astype(np.float32)).toarray() == counts).all()
    assert undo_log_provably(np.log1p(counts)) is None  # totals differ: nothing was divided by them
    assert undo_log_provably(np.log1p(scaled)[:, 5:]) is None  # genes were taken away afterwards
    assert undo_log_provably(np.log1p(scaled * rng.uniform(1, 1.3, (1, 30)))) is None
    assert undo_log_provably(scaled - 1) is None
    assert undo_log_provably(np.zeros((3, 3))) is None
    assert not is_whole(np.array([0.5]))
    assert not is_whole(np.array([-1.0]))
    assert not is_whole(np.array([np.nan]))
    assert is_whole(sparse.csr_matrix(counts.astype(float)))


def test_genes_and_ids_of_anndata(tmp_path: Path) -> None:
    path, options = tmp_path / "a.h5ad", ReadOptions(unit="um")
    data = a_file(path)
    data.obsm["spatial"] = XY
    data.var_names = [f"ENSG{i:011d}" for i in range(6)] + ["NegControlProbe_1", "BLANK_2"]
    data.var_names = [f"ENSG{i:011d}" for i in range(8)]
    data.var["gene_symbol"] = ["A", "A", *"CDEF", "NegControlProbe_1", "BLANK_2"]
    data.write_h5ad(path)
    section = read_section(path, options=options)
    assert section.cells.var_names.tolist() == ["A", "A-1", "C", "D", "E", "F"]
    assert section.cells.var["gene_ids"].iloc[0] == "ENSG00000000000"
    assert section.source["features_left_out"] == {"controls, by their names": 2}
    data.obs_names = ["c"] * 2 + [f"c{i}" for i in range(28)]
    data.write_h5ad(path)
    with pytest.raises(InputError, match=r"1 cell ids occur more than once \('c', say\)"):
        read_section(path, options=options)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"a\.h5ad: cannot be read"):
        read_section(path, options=options)
    with gzip.open(path, "wb") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"a\.h5ad: cannot be read"):
        read_section(path, kind="anndata")


def test_hest_sample(tmp_path: Path) -> None:
    (tmp_path / "st").mkdir()
    (tmp_path / "metadata").mkdir()
    path = tmp_path / "st" / "TENX1.h5ad"
    data = a_file(path)
    data.obsm["spatial"] = XY
    data.write_h5ad(path)
    with pytest.raises(InputError, match=r"nothing says what a pixel measures .*metadata/TENX1\.json"):
        read_section(path, kind="hest")
    (tmp_path / "metadata" / "TENX1.json").write_text(
        '{"pixel_size_um_estimated": 0.3, "pixel_size_um_embedded": null}'
    )
    section = read_section(path)
    assert section.source["mpp_from"] == "TENX1.json pixel_size_um_estimated"
    assert np.allclose(section.points, XY * 0.3)
    assert np.allclose(section.points @ section.to_image[:2, :2], XY)
    assert read_section(path, options=ReadOptions(mpp=0.5)).source["mpp"] == 0.5
    # The pseudo-spots that HEST-1k itself has for Xenium samples.
    data.obsm["spatial"] = np.stack(np.meshgrid(np.arange(6), np.arange(5)), -1).reshape(30, 2) * 333.3
    data.write_h5ad(path)
    with pytest.raises(InputError, match="its rows are spots of a grid, not cells"):
        read_section(path)


def test_genuine_hest_cells(shared_data: Path) -> None:
    path = shared_data / "xenium_he_mini_ncbi858" / "NCBI858.h5ad"
    with pytest.raises(
        InputError, match="x_pixel and y_pixel are column and row in some files, row and column in others"
    ):
        read_section(path)
    with pytest.raises(InputError, match="pass mpp"):
        read_section(path, options=ReadOptions(swap_xy=True))
    section = read_section(path, options=ReadOptions(swap_xy=True, mpp=0.5))
    data = anndata.read_h5ad(path)
    assert section.source["format"] == "hest"
    assert section.cells.shape == (200, 338)
    assert np.allclose(section.points[:, 0] * 2, data.obs["y_pixel"])  # the README: x_pixel is the row
    from celldetr.spatial.affine import check_affine

    assert check_affine(section.to_image, section.points, (1431, 1249), mpp=0.5)[0] > 0.99


def test_reference_without_counts(shared_data: Path) -> None:
    path = shared_data / "singlecell_ref_mini" / "10x_pbmc68k_reduced.h5ad"
    options = ReadOptions(unit="um", obsm="X_umap")
    with pytest.raises(InputError, match=r"holds no whole counts \(looked at X, raw\).*try `undo_log=True`"):
        read_section(path, options=options)
    with pytest.raises(InputError, match="what they were cannot be proved"):
        read_section(path, options=options.model_copy(update={"undo_log": True}))
