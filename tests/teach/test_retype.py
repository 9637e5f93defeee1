"""A head applied: finished tables typed again, and labels that leave."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from celldetr.cells.clusters import cluster_summary, write_clusters
from celldetr.cells.export import export_cells
from celldetr.cells.export.anndata import as_anndata
from celldetr.cells.palette import parse_colour
from celldetr.cells.reader import open_table, read_cells
from celldetr.cohort.predict import predict_slide
from celldetr.data.autocard import find_card
from celldetr.data.sample import UNKNOWN
from celldetr.data.sources import load_samples
from celldetr.errors import DataWarning, InputError
from celldetr.search.collection import find_cells
from celldetr.slide.options import PredictOptions
from celldetr.teach.head_file import load_head, save_head
from celldetr.teach.label_set import write_labels
from celldetr.teach.retype import retype
from celldetr.teach.session import Teaching
from celldetr.view.cells import SlideTable
from helpers.blobs import BlobModel, blob_image, scattered
from helpers.cell_tables import TYPES
from helpers.cli import call
from helpers.view_runs import MPP, ViewRun, write_view_run

COLOURS = ("#c800c8", "#00c8c8", "#c8c800")  # no colours of the model's types


@pytest.fixture
def run(tmp_path: Path) -> ViewRun:
    """Two slides; 24 cells of each type of the first are labelled, and a head is saved."""
    run = write_view_run(tmp_path)
    with Teaching(find_cells(run.out)) as teaching:
        for number, name in enumerate(TYPES):
            teaching.define(f"my {name}", COLOURS[number], base=teaching.state.revision, client="me")
            rows = np.flatnonzero(run.cells["one"]["type"] == name)[:24]
            teaching.label([(0, int(row)) for row in rows], number, base=teaching.state.revision, client="me")
        teaching.save(tmp_path / "head")
    return run


def table(run: ViewRun, name: str = "one") -> pa.Table:
    return pq.read_table(run.out / name / "cells.parquet")


def test_new_columns_stand_beside_the_old_ones_which_stay_as_they_were(run, tmp_path, capsys):
    before, groups = table(run), pq.read_metadata(run.out / "one" / "cells.parquet").num_row_groups
    cells = read_cells(run.out / "one")
    ids = cells["cell_id"].to_numpy()
    zero, one = np.zeros(len(ids), np.int32), np.ones(len(ids), np.float32)
    write_clusters(run.out / "one" / "cells.parquet", ids, zero, one > 0, one, {"count": 1})
    assert call("retype", run.out, "--head", tmp_path / "head", "-q") == 0
    assert "2 slides typed, 0 had" in capsys.readouterr().out
    after = table(run)
    assert after.select(before.column_names).equals(before)
    assert pq.read_metadata(run.out / "one" / "cells.parquet").num_row_groups == groups
    frame = read_cells(run.out / "one")
    assert (frame["taught_type"].astype(str) == "my " + run.cells["one"]["type"]).mean() > 0.9
    each = frame[[f"taught_p_my {name}" for name in TYPES]].to_numpy()
    assert np.allclose(each.sum(1), 1, atol=1e-5)
    assert np.array_equal(frame["taught_type_score"], each.max(1))
    assert open_table(run.out / "one").types == TYPES
    assert cluster_summary(run.out / "one" / "cells.parquet")["count"] == 1
    assert not list(run.out.rglob("*.tmp"))


def test_what_is_drawn_and_exported_has_the_taught_type_and_the_models_beside_it(run, tmp_path, capsys):
    folder = run.out / "one"
    for name in ("geojson", "csv"):
        export_cells(folder, name)
    assert call("retype", run.out, "--head", tmp_path / "head", "--slides", run.slides, "-q") == 0
    assert "note" not in capsys.readouterr().err
    cells = read_cells(folder)
    taught = cells["taught_type"]
    assert list(taught.cat.categories) == [f"my {name}" for name in TYPES]
    # QuPath: written again, as the table is new
    features = json.loads(gzip.decompress((folder / "cells.geojson.gz").read_bytes()))["features"]
    properties = [feature["properties"] for feature in features]
    assert [each["classification"]["name"] for each in properties] == taught.tolist()
    assert [each["metadata"]["model type"] for each in properties] == cells["type"].tolist()
    colours = dict(zip(taught.cat.categories, map(parse_colour, COLOURS), strict=True))
    assert all(tuple(each["classification"]["color"]) == colours[each["classification"]["name"]] for each in properties)
    first = properties[0]["measurements"]
    assert first["taught type score"] == pytest.approx(cells["taught_type_score"][0], rel=1e-3)
    assert {f"taught p my {name}" for name in TYPES} | {f"p {name}" for name in TYPES} <= set(first)
    theirs = json.loads(export_cells(folder, "geojson", tmp_path / "a.geojson", classify="model").read_text())
    assert [each["properties"]["classification"]["name"] for each in theirs["features"]] == cells["type"].tolist()
    assert "metadata" not in theirs["features"][0]["properties"]
    # other formats
    lines = pd.read_csv(folder / "cells.csv")
    assert lines["taught_type"].tolist() == taught.tolist()
    assert lines["type"].tolist() == cells["type"].tolist()
    data = as_anndata(open_table(folder))
    assert data.obs["taught_type"].tolist() == taught.tolist()
    assert data.uns["taught_type_colors"] == list(COLOURS)
    # pictures
    shown = np.asarray(Image.open(folder / "overview.png").convert("RGB")).reshape(-1, 3)
    assert all((shown == colour).all(1).any() for name, colour in colours.items() if (taught == name).any())
    assert not any((shown == colour).all(1).any() for colour in open_table(folder).colours.values())
    page = (folder / "summary.html").read_text()
    assert "my epithelial" in page
    assert "column taught_type" in page
    # and the viewer
    columns = SlideTable(open_table(folder)).columns
    assert [column["name"] for column in columns[:2]] == ["taught_type", "type"]
    assert columns[0]["colours"] == list(COLOURS)
    codes = np.frombuffer(SlideTable(open_table(folder)).column("taught_type"), "<u2")
    assert np.array_equal(codes, taught.cat.codes)


def test_pictures_of_the_types_before_are_told_of_and_drawn_again_by_predict(run, tmp_path, capsys):
    points = scattered(60, 200, 300)
    Image.fromarray(blob_image(points, 200, 300)).save(tmp_path / "blobs.png")
    options = PredictOptions(tile=128, overlap=32, mpp=0.5, tissue=False)
    out = predict_slide(tmp_path / "blobs.png", tmp_path / "out", BlobModel(), options).directory
    with Teaching(find_cells(out)) as teaching:
        for number, name in enumerate(("crimson", "navy")):
            teaching.define(name, COLOURS[number], base=teaching.state.revision, client="me")
            teaching.label([(0, number)], number, base=teaching.state.revision, client="me")
        teaching.save(tmp_path / "blobs_head")
    assert call("retype", out, "--head", tmp_path / "blobs_head", "-q") == 0
    assert "overview.png and summary.html show the types from before" in capsys.readouterr().err
    assert "navy" not in (out / "summary.html").read_text()
    head = tmp_path / "blobs_head"
    predict_slide(tmp_path / "blobs.png", tmp_path / "out", BlobModel(), options, head=head, resume=True)
    assert "navy" in (out / "summary.html").read_text()


def test_a_second_time_nothing_is_written_and_another_head_must_be_asked_for(run, tmp_path):
    retype(run.out, tmp_path / "head")
    first = (run.out / "one" / "cells.parquet").stat().st_mtime_ns
    again = retype(run.out, tmp_path / "head")
    assert (again.typed, again.kept, sum(again.counts.values())) == (0, 2, 600)
    assert (run.out / "one" / "cells.parquet").stat().st_mtime_ns == first
    head, card = load_head(tmp_path / "head")
    kinds = tuple(kind.model_copy(update={"name": kind.name[3:]}) for kind in card.types)
    save_head(tmp_path / "other", head, card.model_copy(update={"types": kinds}))
    with pytest.raises(InputError, match="another head"):
        retype(run.out, tmp_path / "other")
    retype(run.out, tmp_path / "other", overwrite=True)
    names = [name for name in table(run).column_names if name.startswith("taught_")]
    assert names == ["taught_type", "taught_type_score", *(f"taught_p_{name}" for name in TYPES)]


def test_embeddings_of_another_model_are_refused_and_no_table_is_touched(run, tmp_path):
    head, card = load_head(tmp_path / "head")
    save_head(tmp_path / "foreign", head, card.model_copy(update={"model": "a" * 64, "model_name": "theirs"}))
    for name in ("one", "two"):
        record = run.out / name / "run.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"model": {"sha256": "b" * 64}}))
    before = table(run)
    with pytest.raises(InputError, match="theirs"):
        retype(run.out, tmp_path / "foreign")
    assert table(run).equals(before)


def test_labels_are_read_by_training_with_struck_out_and_added_nuclei(run, tmp_path):
    with Teaching(find_cells(run.out)) as teaching:
        base = teaching.state.revision
        struck = int(np.flatnonzero(run.cells["one"]["type"] == TYPES[0])[0])
        teaching.strike([(0, struck)], base=base, client="me")
        x, y = (float(run.cells["one"].loc[struck, name]) for name in ("x_px", "y_px"))
        teaching.add(0, (x - 5, y - 4, x + 5, y + 4), 2, base=base + 1, client="me")
        labels = write_labels(run.out, tmp_path / "set", [run.slides])  # while another process teaches
    assert labels.labels == {f"my {TYPES[0]}": 23, f"my {TYPES[1]}": 24, f"my {TYPES[2]}": 25}
    with pytest.warns(DataWarning, match="no class"):
        samples = load_samples(find_card(tmp_path / "set", mpp=MPP), "all")
    types = np.concatenate([sample.types for sample in samples])
    names = samples[0].type_names
    assert {name: int((types == k).sum()) for k, name in enumerate(names)} == dict(labels.labels)
    assert len(types) == labels.nuclei
    assert (types == UNKNOWN).any()
    document = json.loads((tmp_path / "set" / "one.geojson").read_text())
    kinds = [feature["properties"]["objectType"] for feature in document["features"]]
    assert kinds.count("detection") == labels.nuclei
    with pytest.raises(InputError, match="exists already"):
        write_labels(run.out, tmp_path / "set")


def test_predicting_with_a_head_is_predicting_and_retyping(tmp_path):
    points = scattered(60, 200, 300)
    Image.fromarray(blob_image(points, 200, 300)).save(tmp_path / "blobs.png")
    options = PredictOptions(tile=128, overlap=32, mpp=0.5, tissue=False)
    predict_slide(tmp_path / "blobs.png", tmp_path / "out", BlobModel(), options)
    cells = find_cells(tmp_path / "out")
    with Teaching(cells) as teaching:
        kinds = cells.slides[0].table.type_codes(cells.slides[0].table.read(["type"]))
        for number, name in enumerate(("crimson", "navy")):
            teaching.define(name, "#102030", base=teaching.state.revision, client="me")
            rows = np.flatnonzero(kinds == number)[:10].tolist()
            teaching.label([(0, row) for row in rows], number, base=teaching.state.revision, client="me")
        card = teaching.save(tmp_path / "head")
    assert card.model == "0" * 64
    retype(tmp_path / "out", tmp_path / "head")
    predict_slide(tmp_path / "blobs.png", tmp_path / "typed", BlobModel(), options, head=tmp_path / "head")
    one, two = (pq.read_table(tmp_path / name / "blobs" / "cells.parquet") for name in ("out", "typed"))
    assert one.equals(two)
    assert set(one["taught_type"].to_pylist()) == {"crimson", "navy"}
    untyped = BlobModel(embedding_dim=5)
    with pytest.raises(InputError, match="5 numbers"):
        predict_slide(tmp_path / "blobs.png", tmp_path / "third", untyped, options, head=tmp_path / "head")
    assert not (tmp_path / "third").exists()
