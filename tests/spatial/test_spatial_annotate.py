"""Typing cells: the reference that is read, TACCO, CellTypist's plug-in, and labels that exist."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from celldetr.errors import DataWarning, InputError
from celldetr.spatial.annotate.classifier import classify
from celldetr.spatial.annotate.labels import existing_labels
from celldetr.spatial.annotate.reference import read_reference, shared_genes
from celldetr.spatial.annotate.transport import TransportOptions, random_tiles, transport

anndata = pytest.importorskip("anndata")
pd = pytest.importorskip("pandas")
KINDS = ("A", "B", "C")
GENES = [f"GENE{i}" for i in range(60)]


def cells(each: int, depth: float, seed: int, prefix: str = "c") -> Any:
    """``each`` cells of A, B and C in turn; 60 genes, of which each type has 20 to itself."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    kind = np.tile(np.arange(3), each)
    rates = np.where(np.arange(60) // 20 == kind[:, None], 1.0, 0.1) * depth
    obs = pd.DataFrame({"kind": np.array(KINDS)[kind]}, index=[f"{prefix}{i}" for i in range(3 * each)])
    return anndata.AnnData(csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))


def write(path: Path, data: Any) -> Path:
    data.write_h5ad(path)
    return path


# The reference


@pytest.mark.parametrize("where", ["X", "counts", "raw_counts", "raw"])
def test_whole_counts_are_found_wherever_they_are(where: str, tmp_path: Path) -> None:
    data = cells(5, 2, 0)
    counts = data.X.copy()
    logs = counts.copy()
    logs.data = np.log1p(logs.data * 1.7)
    if where == "raw":
        data.raw = data.copy()
    elif where != "X":
        data.layers[where] = counts
    if where != "X":
        data.X = logs
    out = read_reference(write(tmp_path / "r.h5ad", data), "kind")
    assert out.uns["reference"]["counts"] == where
    np.testing.assert_array_equal(out.X.toarray(), counts.toarray())
    assert out.obs["kind"].cat.categories.tolist() == list(KINDS)


def test_logarithms_are_refused_unless_allowed_and_then_undone(tmp_path: Path) -> None:
    data = cells(5, 2, 0)
    counts = data.X.toarray()
    total = counts.sum(axis=1, keepdims=True)
    data.X = np.log1p(counts / total * 1e4).astype(np.float32)
    path = write(tmp_path / "r.h5ad", data)
    with pytest.raises(InputError, match=r"holds no whole counts \(looked at X.*layer 'counts'.*allow_normalised"):
        read_reference(path, "kind")
    out = read_reference(path, "kind", allow_normalised=True)
    exact = (np.where(counts > 0, counts, 99).min(axis=1) == 1) & (counts.sum(axis=1) > 0)
    assert exact.sum() > 10
    np.testing.assert_array_equal(out.X.toarray()[exact], counts[exact])
    assert out.uns["reference"]["counts"] == "X, normalisation undone"


def test_scaled_values_are_refused_even_then(tmp_path: Path) -> None:
    data = cells(5, 2, 0)
    data.X = data.X.toarray() - 0.5
    with pytest.raises(InputError, match="holds no whole counts"):
        read_reference(write(tmp_path / "r.h5ad", data), "kind", allow_normalised=True)


def test_rare_types_are_reported_and_left_out_on_request(tmp_path: Path) -> None:
    data = cells(12, 2, 0)
    data.obs["kind"] = ["D"] * 3 + data.obs["kind"].tolist()[3:]
    data.obs.loc[data.obs_names[:1], "kind"] = None
    path = write(tmp_path / "r.h5ad", data)
    kept, left_out = read_reference(path, "kind"), read_reference(path, "kind", keep_rare=False)
    assert kept.uns["reference"]["rare"] == ["D"]
    assert kept.uns["reference"]["without_type"] == 1
    assert (kept.n_obs, left_out.n_obs) == (35, 33)
    assert left_out.obs["kind"].cat.categories.tolist() == list(KINDS)


def test_wrong_references_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.h5ad", cells(5, 2, 0))
    with pytest.raises(InputError, match="no column 'kindd'; did you mean 'kind'"):
        read_reference(path, "kindd")
    with pytest.raises(InputError, match="has no matrix of counts 'rawcounts'"):
        read_reference(path, "kind", "rawcounts")
    with pytest.raises(InputError, match="no such file"):
        read_reference(tmp_path / "none.h5ad", "kind")
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with pytest.raises(InputError, match="cannot be read"):
        read_reference(tmp_path / "text.h5ad", "kind")


def test_the_mini_reference_is_read(shared_data: Path) -> None:
    path = shared_data / "singlecell_ref_mini" / "10x_pbmc68k_reduced.h5ad"
    with pytest.raises(InputError, match="holds no whole counts"):
        read_reference(path, "bulk_labels")
    out = read_reference(path, "bulk_labels", allow_normalised=True)
    assert out.shape == (700, 765)
    assert len(out.obs["bulk_labels"].cat.categories) == 10
    assert 100 < np.median(np.asarray(out.X.sum(axis=1))) < 5000


def test_genes_match_by_symbols_or_ids() -> None:
    section, reference = cells(2, 2, 0), cells(2, 2, 1)
    reference = reference[:, ::-1].copy()
    reference.var["feature_name"] = reference.var_names
    reference.var_names = [f"ENSG{i:011d}.3" for i in range(60)]
    shared = shared_genes(section, reference)
    assert shared.key == "feature_name"
    assert shared.facts["shared_genes"] == 60
    for mine, theirs in zip(shared.section, shared.reference, strict=True):
        assert section.var_names[mine] == reference.var["feature_name"].iloc[theirs]


def test_too_few_shared_genes_and_another_species_are_told() -> None:
    section, reference = cells(2, 2, 0), cells(2, 2, 1)
    reference.var_names = [name.capitalize() for name in GENES]
    with pytest.raises(InputError, match=r"share 0 genes, fewer than 6: .*GENE0.*Gene0.*upper and lower case.*mouse"):
        shared_genes(section, reference)
    reference.var_names = GENES[:10] + [f"X{i}" for i in range(50)]
    assert shared_genes(section, reference).missing == tuple(GENES[10:])
    with pytest.raises(InputError, match="share 10 genes, fewer than 11"):
        shared_genes(section, reference, 11)


# Transport


@pytest.mark.slow
def test_tacco_types_cells_and_tells_those_without_genes() -> None:
    pytest.importorskip("tacco")
    section = cells(60, 1.5, 0)
    section.X[5] = 0
    section = section[:, :50].copy()
    section.X.eliminate_zeros()
    told: list[float] = []
    out = transport(section, cells(40, 3, 1, "r"), "kind", progress=told.append)
    rows = out.table(section.obs_names)
    known = rows["type"] != ""
    assert not known[5]
    assert out.facts["cells_without_genes"] == (~known).sum() >= 1
    np.testing.assert_allclose(out.probabilities[5], 1 / 3)
    np.testing.assert_allclose(out.probabilities.sum(axis=1), 1, atol=1e-5)
    assert (rows["type"] == section.obs["kind"].to_numpy())[known].mean() > 0.95
    assert out.facts["shared_genes"] == 50
    assert told == [1.0]


@pytest.mark.slow
def test_tiles_agree_with_the_whole() -> None:
    pytest.importorskip("tacco")
    section, reference = cells(100, 1.0, 0), cells(40, 3, 1, "r")
    whole = transport(section, reference, "kind")
    tiled = transport(section, reference, "kind", TransportOptions(tile=100))
    assert (whole.facts["tiles"], tiled.facts["tiles"]) == (1, 3)
    assert np.abs(whole.probabilities - tiled.probabilities).mean() < 0.02
    agree = whole.probabilities.argmax(axis=1) == tiled.probabilities.argmax(axis=1)
    assert agree.mean() > 0.98
    again = transport(section, reference, "kind", TransportOptions(tile=100))
    np.testing.assert_array_equal(again.probabilities, tiled.probabilities)


@pytest.mark.slow
def test_the_section_may_be_composed_unlike_the_reference() -> None:
    pytest.importorskip("tacco")
    section = cells(100, 1.5, 0)
    section = section[(section.obs["kind"] != "C").to_numpy() | (np.arange(300) < 30)].copy()
    reference = cells(40, 3, 1, "r")
    reference = reference[(reference.obs["kind"] != "A").to_numpy() | (np.arange(120) < 24)].copy()
    out = transport(section, reference, "kind").table(section.obs_names)
    assert (out["type"].to_numpy() == section.obs["kind"].to_numpy()).mean() > 0.95


def test_tiles_are_all_rows_once() -> None:
    rows = np.arange(5, 1008)
    tiles = random_tiles(rows, 100, 3)
    assert sorted(np.concatenate(tiles)) == rows.tolist()
    assert {len(tile) for tile in tiles} <= {91, 92}
    assert np.abs(np.array([tile.mean() for tile in tiles]) - rows.mean()).max() < 150  # not stretches of the section


# CellTypist: the plug-in against a stand-in of its interface


class Stand:
    """``celltypist.annotate`` that calls each cell by the third of its genes with most transcripts."""

    def __init__(self) -> None:
        self.trained: Any = None

    def train(self, data: Any, labels: str, **_: Any) -> Any:
        self.trained = data.obs[labels].tolist()
        return SimpleNamespace()

    def annotate(self, data: Any, model: Any, majority_voting: bool) -> Any:
        assert not majority_voting
        np.testing.assert_allclose(np.expm1(data.X.toarray()).sum(axis=1), 1e4, rtol=1e-4)
        thirds = data.X.toarray().reshape(-1, 3, 20).sum(axis=2)
        return SimpleNamespace(probability_matrix=pd.DataFrame(thirds / 1e3, columns=list(KINDS)))


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    module = Stand()
    monkeypatch.setitem(sys.modules, "celltypist", module)  # type: ignore[arg-type]
    return module


def test_celltypist_trains_on_the_reference(stand: Stand) -> None:
    section, reference = cells(20, 2, 0), cells(10, 3, 1)
    section.X[4] = 0
    out = classify(section, reference, "kind")
    assert stand.trained == reference.obs["kind"].tolist()
    np.testing.assert_allclose(out.probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.flatnonzero(~out.known).tolist() == [4]
    right = out.table(section.obs_names)["type"].to_numpy() == section.obs["kind"].to_numpy()
    assert right[out.known].mean() > 0.95


def test_without_celltypist_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celltypist", None)
    with pytest.raises(InputError, match="pip install celltypist"):
        classify(cells(2, 2, 0), cells(2, 2, 0), "kind")


# Labels


def test_labels_of_a_column_and_of_files_are_the_same(tmp_path: Path) -> None:
    section = cells(4, 2, 0)
    section.obs["confidence"] = np.linspace(0.5, 1, 12)
    rows = pd.DataFrame({"Barcode": section.obs_names, "Cluster": section.obs["kind"].to_numpy()})
    rows["confidence"] = section.obs["confidence"].to_numpy()
    rows.sample(frac=1, random_state=1).to_csv(tmp_path / "clusters.csv", index=False)
    rows.to_parquet(tmp_path / "clusters.parquet")
    outs = [
        existing_labels(section, "kind"),
        existing_labels(section, file=tmp_path / "clusters.csv"),
        existing_labels(section, "Cluster", tmp_path / "clusters.parquet"),
    ]
    for out in outs:
        assert out.types == KINDS
        np.testing.assert_allclose(out.probabilities, outs[0].probabilities, atol=1e-6)
    assert outs[0].probabilities[0].tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_cells_without_a_label_are_unknown_and_numbers_are_in_order(tmp_path: Path) -> None:
    section = cells(4, 2, 0)
    (tmp_path / "clusters.csv").write_text("Barcode,Cluster\nc0,10\nc2,2\nc3,\nother,3\n", encoding="utf-8")
    out = existing_labels(section, file=tmp_path / "clusters.csv")
    assert out.types == ("2", "10")
    assert out.table(section.obs_names)["type"].tolist() == ["10", "", "2", *[""] * 9]
    assert out.facts["cells_without_label"] == 10
    (tmp_path / "clusters.csv").write_text("Barcode,Cluster\nc0,1\nc0,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="cell 'c0' is in two rows"):
        existing_labels(section, file=tmp_path / "clusters.csv")
    (tmp_path / "clusters.csv").write_text("Barcode,Cluster\nx0,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"none of the section's cells \(such as c0, c1\)"):
        existing_labels(section, file=tmp_path / "clusters.csv")
    with pytest.raises(InputError, match="no column 'Clusters'; did you mean 'Cluster'"):
        existing_labels(section, "Clusters", tmp_path / "clusters.csv")


def test_spellings_of_a_label_are_one_type(tmp_path: Path) -> None:
    section = cells(4, 2, 0)
    text = "cell_id,type\nc0, T cell\nc1,t_cell\nc2,B\nc3,Unassigned\nc4,B \n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.warns(DataWarning, match="'T cell', 't_cell' are taken for one type"):
        out = existing_labels(section, file=tmp_path / "labels.csv")
    assert out.table(section.obs_names)["type"].tolist()[:5] == ["T cell", "T cell", "B", "", "B"]


def test_real_clusters_are_labels(shared_data: Path) -> None:
    path = shared_data / "xenium_hbonemarrow" / "cells.parquet"
    ids = pd.read_parquet(path, columns=["cell_id"])["cell_id"][:500]
    section = anndata.AnnData(np.ones((500, 1), dtype=np.float32), obs=pd.DataFrame(index=ids.to_numpy()))
    out = existing_labels(section, "cluster", path)
    values = pd.read_parquet(path)["cluster"][:500]
    missing = values.isna() | (values.astype(str) == "")  # some cells of the source have no cluster
    assert (~out.known).tolist() == missing.tolist()
    assert out.table(section.obs_names)["type"].tolist() == values.astype(str).mask(missing, "").tolist()


# What is kept of it


def test_the_table_has_all_of_it() -> None:
    section = cells(4, 2, 0)
    section.obs["kind"] = ["A", None, *section.obs["kind"].tolist()[2:]]
    out = existing_labels(section, "kind")
    kept = out.table(section.obs_names)
    np.testing.assert_array_equal(kept["type"] != "", out.known)
    np.testing.assert_array_equal(kept[[f"p: {name}" for name in out.types]], out.probabilities)
