"""GeoJSON as QuPath and geopandas read it."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import geopandas
import jsonschema
import numpy as np
import pytest
import shapely

from celldetr.cells.export import export_cells
from celldetr.cells.palette import type_colours
from celldetr.errors import InputError
from helpers.cell_tables import TYPES, random_cells, random_embeddings, write_run

SCHEMA = json.loads((Path(__file__).parent / "qupath_feature.schema.json").read_text())


def strict_json(text: str) -> Any:
    """Parse JSON, refusing the NaN and Infinity that Python alone accepts."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def exported(run: Path, **options: Any) -> dict[str, Any]:
    path = export_cells(run, "geojson", overwrite=True, **options)
    return strict_json(gzip.decompress(path.read_bytes()).decode())


@pytest.mark.parametrize("shape", ["outline", "box", "ellipse"])
def test_features_have_the_form_that_qupath_imports(run: Path, shape: str) -> None:
    collection = exported(run, shape=shape)
    jsonschema.Draft202012Validator(SCHEMA).validate(collection)
    assert len(collection["features"]) == 300


def test_values_are_those_of_the_table(run: Path) -> None:
    cells = random_cells(300)
    colours = type_colours(TYPES)
    for feature, cell in zip(exported(run)["features"], cells.itertuples(), strict=True):
        properties = feature["properties"]
        assert properties["classification"] == {"name": cell.type, "color": list(colours[cell.type])}
        assert properties["name"] == f"slide-1:{cell.cell_id}"
        expected = {"cell_id": cell.cell_id, "score": cell.score, "type score": cell.type_score}
        expected |= {f"p {name}": getattr(cell, f"p_{name}") for name in TYPES}
        assert properties["measurements"] == pytest.approx(expected, rel=1e-3)


def test_boxes_are_the_cells_boxes(run: Path) -> None:
    cells = random_cells(300)
    frame = geopandas.read_file(export_cells(run, "geojson", run / "cells.geojson"))
    x, y, w, h = (cells[name].to_numpy() for name in ("x_px", "y_px", "w_px", "h_px"))
    corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    assert np.abs(frame.bounds.to_numpy() - corners).max() <= 0.0051  # two decimals
    assert np.allclose(shapely.area(frame.geometry.to_numpy()), w * h, rtol=0.01)
    assert frame.is_valid.all()


def test_ellipses_fill_their_boxes(run: Path) -> None:
    cells = random_cells(300)
    polygons = shapely.from_geojson([json.dumps(f["geometry"]) for f in exported(run, shape="ellipse")["features"]])
    ratio = shapely.area(polygons) / (cells["w_px"] * cells["h_px"])
    assert np.all(np.abs(ratio - np.pi / 4) < 0.01 * np.pi / 4 + 0.01)
    assert shapely.is_valid(polygons).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


def test_an_origin_moves_every_cell(run: Path) -> None:
    at_zero, moved = exported(run), exported(run, origin=(15756, -20.5))
    for here, there in zip(at_zero["features"], moved["features"], strict=True):
        shift = np.array(here["geometry"]["coordinates"]) - np.array(there["geometry"]["coordinates"])
        assert np.allclose(shift, [15756, -20.5], atol=0.011)
        assert here["properties"] == there["properties"]
    with pytest.raises(InputError, match="expected two numbers"):
        export_cells(run, "geojson", overwrite=True, origin=(1, float("nan")))
    with pytest.raises(InputError, match=r"origin 'bound' is unknown; did you mean 'bounds'\?"):
        export_cells(run, "geojson", overwrite=True, origin="bound")


def test_ids_are_unique_stable_and_of_the_slide(run: Path, tmp_path: Path) -> None:
    ids = [feature["id"] for feature in exported(run)["features"]]
    assert len(set(ids)) == 300
    assert {uuid.UUID(text).version for text in ids} == {5}
    assert [feature["id"] for feature in exported(run, shape="ellipse")["features"]] == ids
    # The same slide in another folder has the same cells; another slide with equal numbers has not.
    cells = random_cells(300)
    moved = write_run(tmp_path / "moved", cells, random_embeddings(cells), {"slide": "/elsewhere/slide-1.svs"})
    other = write_run(tmp_path / "other", cells, random_embeddings(cells), {"slide": "slide-2.svs"})
    assert [feature["id"] for feature in exported(moved)["features"]] == ids
    assert not {feature["id"] for feature in exported(other)["features"]} & set(ids)


def test_the_same_cells_give_the_same_bytes(run: Path) -> None:
    first = export_cells(run, "geojson").read_bytes()
    assert export_cells(run, "geojson", overwrite=True).read_bytes() == first


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    cells = random_cells(4)
    cells.loc[1, "p_stromal"] = np.nan
    cells.loc[2, ["score", "type_score", "p_lymphocyte", "p_epithelial", "p_stromal"]] = np.inf
    collection = exported(write_run(tmp_path / "s", cells, random_embeddings(cells)))
    jsonschema.Draft202012Validator(SCHEMA).validate(collection)
    names = [set(feature["properties"]["measurements"]) for feature in collection["features"]]
    assert names[0] - names[1] == {"p stromal"}
    assert names[2] == {"cell_id"}


def test_names_that_json_and_formatting_treat_specially(tmp_path: Path) -> None:
    types = ('100 % "odd"', "tab\tand {brace}", "Größe µ")
    cells = random_cells(30, types)
    collection = exported(write_run(tmp_path / "s", cells, random_embeddings(cells, types)))
    assert {f["properties"]["classification"]["name"] for f in collection["features"]} == set(types)
    assert all(f"p {name}" in collection["features"][0]["properties"]["measurements"] for name in types)


def test_no_cells_give_an_empty_collection(empty_run: Path) -> None:
    assert exported(empty_run) == {"type": "FeatureCollection", "features": []}
    assert len(geopandas.read_file(export_cells(empty_run, "geojson", empty_run / "e.geojson"))) == 0


def test_many_batches_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = random_cells(100)
    run = write_run(tmp_path / "s", cells, random_embeddings(cells), row_group=7)
    assert len(exported(run)["features"]) == 100


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    cells = random_cells(5)
    run = write_run(tmp_path / "s", cells, random_embeddings(cells))
    with pytest.raises(InputError, match=r"'elipse'.*'ellipse'"):
        export_cells(run, "geojson", shape="elipse")
    assert sorted(path.name for path in run.iterdir()) == ["cells.parquet", "run.json"]
