"""Items of large JSON files are those that ``json.loads`` gives, one at a time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from celldetr.errors import InputError
from celldetr.io import json_items
from celldetr.io.json_items import read_items

FEATURES = [{"type": "Feature", "features": [1], "properties": {"x": 1.5, "n": 2**40, "name": "é\U0001f52c"}}, None, 7]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("value", "key", "items"),
    [
        ({"type": "FeatureCollection", "features": FEATURES, "name": "x"}, "features", FEATURES),
        ({"wsi": {"features": [1], "cells": [2]}, "cells": FEATURES}, "cells", FEATURES),
        (FEATURES, "", FEATURES),
        ({"type": "Feature", "geometry": {"coordinates": [[1, 2]]}}, None, None),
        ({"features": 3}, None, None),
        ([], "", []),
        (7.5, None, None),
    ],
)
def test_items_of_lists_and_whole_values(
    value: Any, key: str | None, items: list[Any] | None, packed: bool, tmp_path: Path
) -> None:
    content = json.dumps(value, ensure_ascii=packed).encode()
    (tmp_path / "a.json").write_bytes(gzip.compress(content) if packed else content)
    found = list(read_items(tmp_path / "a.json", "JSON"))
    assert found == [(key, item) for item in ([value] if items is None else items)]


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_items_may_be_cut_anywhere(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "CHUNK", chunk)
    numbers = [12.5, -3e-7, 0, 1e20, "x" * 100, {"a": [1, {}]}, True, float("inf")]
    (tmp_path / "a.json").write_text(json.dumps({"n": 12, "features": numbers, "m": 34}, indent=3))
    assert [item for _, item in read_items(tmp_path / "a.json", "JSON")] == numbers


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]", encoding="utf-8-sig")
    assert list(read_items(tmp_path / "a.json", "JSON")) == [("", 1)]


@pytest.mark.parametrize("content", ["", '{"a":', "[1,", "[1 2]", "[1,]", "{a: 1}", "PAR1"])
def test_what_is_not_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: not GeoJSON \(.*\); export it again$"):
        list(read_items(tmp_path / "a.json", "GeoJSON"))


def test_a_value_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]\n[2]\n")
    with pytest.raises(InputError, match="holds more than one value of JSON"):
        list(read_items(tmp_path / "a.json", "GeoJSON"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_items(tmp_path / "a.json", "JSON"))
    (tmp_path / "a.json").write_bytes(gzip.compress(b"[1]")[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_items(tmp_path / "a.json", "JSON"))


@pytest.mark.slow
def test_items_come_before_what_follows_them_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(list(range(1_000_000)))[:-1])
    items = read_items(tmp_path / "a.json", "JSON")
    assert [item for _, item in (next(items) for _ in range(9_000))] == list(range(9_000))
    with pytest.raises(InputError, match="not JSON"):
        list(items)
