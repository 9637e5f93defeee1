"""JSON, YAML, NumPy arrays and tables from strangers: bounded, never unpickled, and never writing where they say."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from celldetr.cells.export import FORMATS, export_cells
from celldetr.cells.reader import read_cells
from celldetr.cells.schema import CELLS, RUN
from celldetr.data.card import load_card
from celldetr.data.readers.instance_maps import read_map
from celldetr.data.sources import load_samples
from celldetr.io.safe_io import YAML_BYTES, read_yaml
from celldetr.slide.roi import read_roi
from helpers.cell_tables import random_cells, random_embeddings, write_run
from helpers.hostile import in_little_memory, refused

# JSON and YAML


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "x: !!python/object/apply:os.system [exit]",
        "x: '" + "y" * YAML_BYTES + "'",
    ],
    ids=["nested", "an object", "large"],
)
def test_yaml_that_is_meant_to_hurt(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    assert in_little_memory(lambda: read_yaml(path)) is not None


@pytest.mark.slow
def test_geojson_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.geojson.gz"
    path.write_bytes(gzip.compress(b'["') + gzip.compress(b" " * 2**25) * 160)  # 5 GB in 5 MB
    assert in_little_memory(lambda: read_roi(path)) is not None


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"type": "Polygon", "coordinates": ' + "[" * 5000 + "]" * 5000 + "}"]
)
def test_geojson_that_is_nested_without_end(content: str, tmp_path: Path) -> None:
    (tmp_path / "roi.geojson").write_text(content)
    assert refused(lambda: read_roi(tmp_path / "roi.geojson")) is not None


# Data sets

COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
    "categories": [{"id": 1, "name": "r"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 10, 12]}],
}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for path in (tmp_path / "images" / "a.png", tmp_path / "secret.png"):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(90, 255, (40, 60, 3), np.uint8)).save(path)
    return tmp_path


def read(folder: Path, content: Any, **changes: Any) -> str | None:
    (folder / "train.json").write_text(content if isinstance(content, str) else json.dumps(content))
    values = {
        "name": "toy", "title": "Toy", "format": "coco", "mpp": 0.5, "types": {"round": ["r"]},
        "splits": {"train": "train.json"}, "licence": "CC0-1.0", "citation": "none",
    }  # fmt: skip
    (folder / "toy.yaml").write_text(yaml.safe_dump(values | changes))
    return refused(lambda: load_samples(load_card(folder / "toy.yaml"), "train"))


def test_coco_that_is_nested_without_end(coco: Path) -> None:
    assert read(coco, "[" * 100_000) is not None


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npy(np.array([{"a": 1}], dtype=object)),
        npy(np.zeros((1, 16), np.int32)).replace(b"(1, 16), }         ", b"(1099511627776, 8)}"),
    ],
    ids=["a pickle", "terabytes"],
)
def test_arrays_that_are_meant_to_hurt(content: bytes, coco: Path) -> None:
    (coco / "map.npy").write_bytes(content)
    assert in_little_memory(lambda: read_map(coco / "map.npy")) is not None
    (coco / "i.npy").write_bytes(content)
    (coco / "m.npy").write_bytes(npy(np.zeros((2, 16, 16, 3))))
    options = {"images": "i.npy", "masks": "m.npy", "tissues": ""}
    fold = {"format": "pannuke", "splits": {"train": 1}, "types": {"round": ["0"]}, "options": options}
    assert in_little_memory(lambda: read(coco, COCO, **fold)) is None  # refused inside, in bounded memory
    assert read(coco, COCO, **fold) is not None


# Tables


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a\nb", "x" * 500])
def test_names_of_types_write_nowhere_else(name: str, tmp_path: Path) -> None:
    cells = random_cells(40)
    inside = write_run(tmp_path / "deep" / "inside" / "run", cells, random_embeddings(cells))
    table = pq.read_table(inside / CELLS)
    first = next(column for column in table.schema.names if column.startswith("p_"))
    types = [name if kind == first[2:] else kind for kind in table["type"].cast(pa.string()).to_pylist()]
    table = table.rename_columns([f"p_{name}" if column == first else column for column in table.schema.names])
    table = table.set_column(table.schema.names.index("type"), "type", pa.array(types))
    pq.write_table(table, inside / CELLS)
    (inside / RUN).write_text(json.dumps({"slide": name, "status": "complete"}))
    out = tmp_path / "deep" / "inside" / "out"
    out.mkdir()
    for form in ("geojson", "csv", "anndata"):
        target = out / f"cells{FORMATS[form].suffixes[0]}"
        refused(lambda form=form, target=target: export_cells(inside, form, target))
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["inside"]
    assert {path.name for path in (tmp_path / "deep" / "inside").iterdir()} == {"run", "out"}


def test_a_table_that_was_cut_off(tmp_path: Path) -> None:
    cells = random_cells(40)
    run = write_run(tmp_path / "run", cells, random_embeddings(cells))
    (run / CELLS).write_bytes((run / CELLS).read_bytes()[:-100])
    assert refused(lambda: read_cells(run)) is not None
