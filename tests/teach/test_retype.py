"""A head applied: finished tables typed again, and labels that leave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from celldetr.cells.clusters import cluster_summary, write_clusters
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
from helpers.blobs import BlobModel, blob_image, scattered
from helpers.cell_tables import TYPES
from helpers.cli import call
from helpers.view_runs import MPP, ViewRun, write_view_run


@pytest.fixture
def run(tmp_path: Path) -> ViewRun:
    """Two slides; 24 cells of each type of the first are labelled, and a head is saved."""
    run = write_view_run(tmp_path)
    with Teaching(find_cells(run.out)) as teaching:
        for number, name in enumerate(TYPES):
            teaching.define(f"my {name}", f"#00000{number}", base=teaching.state.revision, client="me")
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
