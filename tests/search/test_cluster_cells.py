"""``celldetr cluster``: planted groups come back, in every place that the cluster is written to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from celldetr.cells.export import export_cells
from celldetr.cells.reader import open_table, read_cells
from celldetr.errors import InputError, SlowWarning
from celldetr.search import clustering
from celldetr.search.clustering import ClusterOptions, cluster_cells
from celldetr.search.grouping import by_size, group
from helpers.cell_tables import random_cells, write_run
from helpers.cli import call
from helpers.cohorts import planted, write_cohort

for name in ("scanpy", "igraph", "faiss"):
    pytest.importorskip(name, reason=f"the extra 'cluster-cells' ({name}) is not installed")

SCHEMA = Path(__file__).parents[1] / "cells" / "qupath_feature.schema.json"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two slides, clustered through the command, from a sample of a third."""
    folder = tmp_path_factory.mktemp("cohort") / "out"
    known = write_cohort(folder, {"one": 500, "two": 400})
    before = (folder / "one" / "cells.parquet").read_bytes()
    export_cells(folder / "one", "csv")
    arguments = ["cluster", folder, "--sample", 300, "-f", "geojson", "-f", "anndata", "-q"]
    assert call(*arguments) == 0
    assert (folder / "one" / "cells.parquet").read_bytes() == before
    return folder, known, arguments


@pytest.mark.slow
def test_planted_groups_come_back_also_of_cells_that_were_not_sampled(done):
    folder, known, _ = done
    cells = pd.concat([read_cells(folder / name).assign(slide=name) for name in known])
    truth = np.concatenate(list(known.values()))
    assert adjusted_rand_score(truth, cells["cluster"]) > 0.95
    side = pd.read_parquet(folder / "one" / "clusters.parquet")
    assert 0 < side["sampled"].sum() < 300
    assert side.loc[~side["sampled"], "agreement"].mean() > 0.9
    sizes = cells["cluster"].value_counts().sort_index()
    about = json.loads((folder / "clusters" / "clusters.json").read_text())
    assert about["counts"] == sizes.tolist()
    assert about["sampled"] == 300


@pytest.mark.slow
def test_the_sample_is_clustered_as_it_is_alone(done, tmp_path):
    folder, *_ = done
    sample = pd.read_parquet(folder / "clusters" / "sample.parquet")
    rows = sample.groupby("slide", observed=True)["row"].apply(np.array)
    alone = tmp_path / "alone"
    for name, some in rows.items():
        cells = read_cells(folder / name)
        embeddings = np.stack(cells["embedding"])[some]
        write_run(alone / name, random_cells(len(some)), embeddings)
    result = cluster_cells(alone)
    again = np.concatenate([read_cells(alone / name, ["cluster"])["cluster"] for name in rows.index])
    assert result.sampled == result.cells == 300
    assert again.tolist() == sample["cluster"].tolist()


@pytest.mark.slow
def test_every_export_carries_the_cluster(done):
    import anndata

    folder, *_ = done
    cluster = read_cells(folder / "one", ["cell_id", "cluster"])
    features = json.loads(gzip.decompress((folder / "one" / "clusters.geojson.gz").read_bytes()))["features"]
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator(schema).validate({"type": "FeatureCollection", "features": features})
    for feature, number in zip(features, cluster["cluster"], strict=True):
        assert feature["properties"]["classification"]["name"] == f"Cluster {number}"
        assert feature["properties"]["measurements"]["cluster"] == number
    cells = anndata.read_h5ad(folder / "one" / "cells.h5ad")
    assert cells.obs["cluster"].astype(int).tolist() == cluster["cluster"].tolist()
    assert len(cells.uns["cluster_colors"]) == len(cells.obs["cluster"].cat.categories)
    assert pd.read_csv(folder / "one" / "cells.csv")["cluster"].tolist() == cluster["cluster"].tolist()
    typed = export_cells(folder / "two", "geojson")
    first = json.loads(gzip.decompress(typed.read_bytes()))["features"][0]["properties"]
    assert first["classification"]["name"] in ("lymphocyte", "epithelial", "stromal")
    assert "cluster" in first["measurements"]


@pytest.mark.slow
def test_pictures_are_there(done):
    folder, *_ = done
    there = {path.name for path in (folder / "clusters").iterdir()}
    assert there >= {"embedding.png", "types.png", "types.csv", "map-one.png", "map-two.png", "sample.parquet"}
    table = pd.read_csv(folder / "clusters" / "types.csv")
    assert table[["lymphocyte", "epithelial", "stromal"]].to_numpy().sum() == table["cells"].sum() == 900


@pytest.mark.slow
def test_it_is_repeated_on_request_only_and_resumes(done, capsys):
    folder, _, arguments = done
    before = read_cells(folder / "one", ["cluster"])["cluster"].tolist()
    assert call(*arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert call(*arguments, "--resume", "--seed", 1) == 2
    assert "options.seed: 0, now 1" in capsys.readouterr().err
    (folder / "two" / "clusters.parquet").unlink()
    result = cluster_cells(folder, options=ClusterOptions(sample=300), resume=True)
    assert result.written == 1
    assert (folder / "two" / "clusters.parquet").exists()
    outdated = folder / "one" / "clusters.geojson.gz"
    outdated.write_bytes(b"of another clustering")
    assert cluster_cells(folder, options=ClusterOptions(sample=300), overwrite=True).written == 2
    assert json.loads(gzip.decompress(outdated.read_bytes()))["features"]
    assert read_cells(folder / "one", ["cluster"])["cluster"].tolist() == before


@pytest.mark.slow
def test_what_is_cut_short_leaves_no_two_clusterings(tmp_path, monkeypatch):
    write_cohort(tmp_path, {"one": 150, "two": 150})
    cluster_cells(tmp_path, options=ClusterOptions(resolution=0.3))
    original = clustering._write_slide

    def fails(slide, *rest):
        if slide.name == "two":
            raise KeyboardInterrupt
        original(slide, *rest)

    monkeypatch.setattr(clustering, "_write_slide", fails)
    finer = ClusterOptions(resolution=3.0)
    with pytest.raises(KeyboardInterrupt):
        cluster_cells(tmp_path, options=finer, overwrite=True)
    assert (tmp_path / "one" / "clusters.parquet").exists()
    assert not (tmp_path / "two" / "clusters.parquet").exists()
    monkeypatch.setattr(clustering, "_write_slide", original)
    assert cluster_cells(tmp_path, options=finer, resume=True).written == 1
    assert json.loads((tmp_path / "clusters" / "clusters.json").read_text())["status"] == "complete"


@pytest.mark.slow
def test_exports_that_were_cut_short_are_made_on_resuming(tmp_path, monkeypatch):
    for name in write_cohort(tmp_path, {"one": 150, "two": 150}):
        export_cells(tmp_path / name, "csv")
    original = clustering.write_format

    def fails(directory, *rest, **options):
        if directory.name == "two":
            raise KeyboardInterrupt
        original(directory, *rest, **options)

    for again in (False, True):  # also where an earlier run had finished the slide, and its clusters were deleted
        monkeypatch.setattr(clustering, "write_format", fails)
        with pytest.raises(KeyboardInterrupt):
            cluster_cells(tmp_path, resume=again)
        assert (tmp_path / "two" / "clusters.parquet").exists()
        monkeypatch.setattr(clustering, "write_format", original)
        assert cluster_cells(tmp_path, resume=True).written == 1
        for name in ("one", "two"):
            assert "cluster" in pd.read_csv(tmp_path / name / "cells.csv")
        (tmp_path / "two" / "clusters.parquet").unlink()
        export_cells(tmp_path / "two", "csv", overwrite=True)


@pytest.mark.slow
def test_slides_that_are_not_there_are_told_before_the_work(tmp_path, capsys):
    write_cohort(tmp_path / "out", {"one": 50})
    assert call("cluster", tmp_path / "out", "--slides", tmp_path / "typo", "-q") == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out" / "clusters").exists()


@pytest.mark.slow
def test_many_cells_are_warned_of_before_they_are_clustered(tmp_path, monkeypatch, capsys):
    write_cohort(tmp_path, {"one": 250})
    monkeypatch.setattr(clustering, "MANY", 200)
    monkeypatch.setattr(clustering, "SAMPLED_CELLS", 100)

    def grouping(*_):
        raise InputError("no further")

    monkeypatch.setattr(clustering, "group", grouping)
    said = "250 cells are clustered themselves, and each is first compared with every other: that takes about 6 times"
    with pytest.warns(SlowWarning, match=said), pytest.raises(InputError, match="no further"):
        cluster_cells(tmp_path)
    assert call("cluster", tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"note: {said}")
    assert len(lines) == 2  # no line of source code
    assert call("cluster", tmp_path, "--sample", 200) == 2
    assert "note" not in capsys.readouterr().err


@pytest.mark.slow
def test_clusters_of_another_version_of_the_table_are_refused(tmp_path):
    run = write_cohort(tmp_path, {"one": 120}) and tmp_path / "one"
    cluster_cells(run)
    write_run(run, random_cells(120, seed=4), planted(120, 3, seed=4)[0])
    for use in (read_cells, open_table):
        with pytest.raises(InputError, match=r"another version of cells\.parquet"):
            use(run)
    assert read_cells(run, ["cell_id"]).shape == (120, 1)
    assert cluster_cells(run, overwrite=True).cells == 120
    assert read_cells(run)["cluster"].max() >= 1
    (run / "clusters.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_cells(run)


@pytest.mark.slow
def test_groups_are_numbered_by_size():
    assert by_size(np.array([7, 7, 3, 9, 9, 9, 1])).tolist() == [1, 1, 2, 0, 0, 0, 3]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_few_cells(n):
    assert len(group(planted(n, 2)[0].astype(np.float32), 0.5, 15, 0).labels) == n
