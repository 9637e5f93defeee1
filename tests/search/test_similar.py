"""``celldetr similar`` without an index: against brute force, on tables in any order, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from celldetr.errors import InputError
from celldetr.search import similar_report as report
from celldetr.search.collection import find_cells
from celldetr.search.nearest import Best
from celldetr.search.similar import similar
from celldetr.search.similar_report import write_similar
from celldetr.search.slides import _candidates, open_slides
from helpers.cell_tables import random_cells, write_run
from helpers.cli import call
from helpers.cohorts import planted, shuffled, write_cohort

SCHEMA = Path(__file__).parents[1] / "cells" / "qupath_feature.schema.json"


def brute(embeddings: np.ndarray, row: int, k: int) -> tuple[list[int], np.ndarray]:
    vectors = embeddings.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = vectors @ vectors[row]
    likeness[row] = -2
    order = np.argsort(-likeness, kind="stable")[: min(k, len(likeness) - 1)]
    return order.tolist(), likeness[order]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(2, 400), k=st.integers(1, 30), seed=st.integers(0, 1000))
def test_neighbours_are_those_of_brute_force_in_any_order_of_the_table(tmp_path_factory, n, k, seed):
    folder = tmp_path_factory.mktemp("cells")
    cells, (embeddings, _) = random_cells(n, seed=seed), planted(n, 4, seed=seed)
    row = seed % n
    ids, likeness = brute(embeddings, row, k)
    for table in (write_run(folder / "a", cells, embeddings), shuffled(folder / "b", cells, embeddings, seed)):
        found = similar(table, row, k=k).table
        found = found[found["rank"] > 0]
        assert np.allclose(found["similarity"], likeness, atol=1e-5)
        apart = np.diff(likeness, prepend=2, append=-2)  # ties to rounding may be in either order
        sure = (np.abs(apart[:-1]) > 1e-5) & (np.abs(apart[1:]) > 1e-5)
        assert np.array_equal(found["cell_id"].to_numpy()[sure[: len(found)]], np.array(ids)[sure[: len(ids)]])
        assert row not in set(found["cell_id"])
        place = cells.set_index("cell_id").loc[found["cell_id"]]
        assert np.array_equal(found["x_px"], place["x_px"])
        assert found["type"].tolist() == place["type"].tolist()


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=60), k=st.integers(1, 12), cut=st.integers(0, 60))
def test_best_of_blocks_is_best_of_all(values, k, cut):
    likeness = np.array(values, np.float32)
    best = Best(1, k)
    for part in (slice(0, cut), slice(cut, None)):
        best.offer(0, 0, np.arange(len(likeness))[part], likeness[part])
    order = np.argsort(-likeness, kind="stable")[:k]
    assert best.row[0][: len(order)].tolist() == order.tolist()
    assert (best.slide[0][len(order) :] == -1).all()


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    write_cohort(tmp_path / "out", {"one": 300, "two": 200, "three": 0})
    return tmp_path / "out"


def test_other_slides_and_apart_leave_out_what_they_say(cohort):
    everywhere = similar(cohort, 7, slide="one", k=50).table
    assert set(everywhere["slide"]) == {"one", "two"}
    others = similar(cohort, 7, slide="one", k=50, other_slides=True).table
    assert set(others.loc[others["rank"] > 0, "slide"]) == {"two"}
    apart = similar(cohort, 7, slide="one", k=600, apart_um=200).table
    query, rest = apart.iloc[0], apart[apart["rank"] > 0]
    here = rest[rest["slide"] == "one"]
    assert np.hypot(here["x_um"] - query["x_um"], here["y_um"] - query["y_um"]).min() >= 200
    cells = random_cells(300)
    far = np.hypot(cells["x_um"] - query["x_um"], cells["y_um"] - query["y_um"]) >= 200
    assert len(rest) == far.sum() + 200


def test_mean_and_type_are_queries(cohort):
    several = similar(cohort / "one", [1, 2, 3], k=4).table
    assert several.groupby("query").size().tolist() == [5, 5, 5]
    one = similar(cohort / "one", [1, 2, 3], mean=True, k=4).table
    assert one["rank"].tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert not set(one["cell_id"][3:]) & {1, 2, 3}
    prototype = similar(cohort, type="lymphocyte", k=4).table
    assert prototype["rank"].tolist() == [1, 2, 3, 4]
    own = similar(cohort, type="lymphocyte", slide="one", k=500).table
    assert len(own) == 500  # cells of the type are not left out
    others = similar(cohort, type="lymphocyte", slide="one", k=500, other_slides=True).table
    assert others["slide"].tolist() == ["two"] * 200


def test_cells_without_a_place_are_not_near(tmp_path):
    cells = random_cells(50)
    cells["x_um"] = cells["x_um"].where(cells["cell_id"] != 5)  # null in the table
    run = write_run(tmp_path / "one", cells, planted(50, 3)[0])
    placed = cells[cells["cell_id"] != 5]
    far = np.hypot(placed["x_um"] - cells["x_um"][1], placed["y_um"] - cells["y_um"][1]) >= 200
    found = similar(run, 1, k=50, apart_um=200).table
    assert set(found["cell_id"]) == {1, 5, *placed["cell_id"][far]}
    with pytest.raises(InputError, match="cell 5 has no place"):
        similar(run, 5, apart_um=200)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cell": 7}, "3 slides"),
        ({"cell": 300, "slide": "one"}, "0 to 299"),
        ({"cell": 0, "slide": "three"}, "no cells"),
        ({"cell": 7, "slide": "on"}, "did you mean 'one'"),
        ({"type": "lymphocyte", "apart_um": 5}, "`apart_um=5`: .* give `cell`"),
        ({"type": "lymphocyte", "other_slides": True}, "`other_slides=True`: .* add `slide`"),
        ({"cell": 7, "slide": "one", "k": 0}, "k"),
        ({"cell": 7, "slide": "one", "index": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_asked_is_said(cohort, arguments, said):
    with pytest.raises(InputError, match=said):
        similar(cohort, **arguments)


def test_the_command_writes_tables_geojson_and_a_picture(cohort, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (2220, 2967), (230, 190, 210)).save(images / "one.png")
    out = tmp_path / "found"
    arguments = ["similar", cohort, "--cell", 7, "--slide", "one", "-k", 12, "-o", out, "--slides", images]
    assert call(*arguments) == 0
    told = capsys.readouterr()
    assert "two: no slide file" in told.err
    assert "compared with all 500 cells" in told.out
    table = pd.read_parquet(out / "similar.parquet")
    assert len(table) == 13
    assert pd.read_csv(out / "similar.csv")["cell_id"].tolist() == table["cell_id"].tolist()
    with Image.open(out / "similar.png") as picture:
        assert picture.width > 900
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    features = []
    for path in (out / "geojson").iterdir():
        collection = json.loads(path.read_text())
        for feature in collection["features"]:
            properties = feature["properties"]
            assert properties.pop("name").startswith("cell 7")
            assert properties.pop("objectType") == "annotation"
            properties["objectType"] = "detection"  # of which the schema is
            assert -1 <= properties["measurements"]["similarity"] <= 1
        validator.validate(collection)
        features += collection["features"]
    assert len({feature["id"] for feature in features}) == len(features) == 13
    assert call(*arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_without_the_slide_it_says_so_and_draws_nothing(cohort, tmp_path):
    told = write_similar(similar(cohort / "one", 7), tmp_path / "found")
    assert "'one.svs'" in told[0]
    assert not (tmp_path / "found" / "similar.png").exists()


def test_a_vector_that_is_not_finite_is_like_nothing(tmp_path):
    embeddings, _ = planted(50, 3)
    embeddings[5], embeddings[6] = np.nan, 0
    run = write_run(tmp_path / "one", random_cells(50), embeddings)
    table = similar(run, 1, k=49).table
    assert np.isfinite(table["similarity"]).all()
    assert table.set_index("cell_id").loc[[5, 6], "similarity"].tolist() == [0, 0]
    with pytest.raises(InputError, match="nothing is like it"):
        similar(run, 5)


def test_slides_that_are_not_there_are_told_before_the_search(cohort, tmp_path, capsys):
    arguments = ["similar", cohort, "--cell", 7, "--slide", "one", "-o", tmp_path / "found"]
    assert call(*arguments, "--slides", tmp_path / "typo") == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_slides_are_found_where_predict_finds_them(cohort, tmp_path):
    for name in ("a/b/one.png", "a/two.png", "d/two.png", "a/thumbnails/x.png", "c/x.svs", ".hidden/y.svs"):
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2220, 2967), (230, 190, 210)).save(path, format="PNG", compress_level=1)
    slides = tmp_path / "slides"
    found = _candidates([slides])
    assert found["one"] == [slides / "a" / "b" / "one.png"]
    assert found["x"] == [slides / "c" / "x.svs"]
    assert set(found) == {"one", "two", "x"}
    with open_slides(find_cells([cohort]), [slides], ["one", "two"]) as opened:
        assert opened.readers["one"].width == 2220
        assert set(opened.readers) == {"one"}
        assert "two.png or" in opened.missing[0]  # not any of the two
    with open_slides(find_cells([cohort]), [slides / "d" / "two.png", slides], ["two"]) as opened:
        assert set(opened.readers) == {"two"}


@pytest.mark.slow
def test_the_picture_has_a_bound(cohort, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (2220, 2967), (230, 190, 210)).save(tmp_path / "images" / f"{name}.png")
    drawn = []
    monkeypatch.setattr(report, "crops_figure", lambda groups, types: drawn.append(groups))
    monkeypatch.setattr(report, "save_figure", lambda figure, path: None)

    def told(cells, **options):
        drawn.clear()
        return write_similar(
            similar(cohort, cells, slide="one", **options), tmp_path / "found", [tmp_path / "images"], overwrite=True
        )

    assert told([7, 8], k=60) == []
    assert [len(crops) for crops in drawn[0].values()] == [61, 61]
    assert "30 more cells" in told([7, 8], k=75)[0]
    assert [len(crops) for crops in drawn[0].values()] == [61, 61]
    first = [crop.title.split(".")[0] for crop in drawn[0]["cell 7"]]
    assert first[1:] == [str(rank) for rank in range(1, 61)]
    assert "10 more cells" in told(range(70), mean=True, k=3)[0]
    assert [len(crops) for crops in drawn[0].values()] == [63]
    assert "1 more are" in told(range(13), k=3)[0]
    assert len(drawn[0]) == 12
