"""Items of large JSON files: the same as ``json.loads`` gives, wherever chunks end; and within bounds."""

from __future__ import annotations

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celldetr.errors import InputError
from celldetr.io import json_items
from celldetr.io.json_items import read_items

SMALL_CHUNKS = (1, 2, 7, 64)
KEYS = ("type", "features", "cells", "properties", "", '\\"}{', "é\U0001f52c")
keys = st.sampled_from(KEYS) | st.text(max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.text('{}[]",:\\ \n\té\U0001f52c\ud83d', max_size=9)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)
layouts = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.none() | st.just(3)})
anywhere = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
feature = st.fixed_dictionaries({"type": st.just("Feature")}, optional={"properties": values, "features": values})
collection = st.fixed_dictionaries(
    {"features": st.lists(feature, max_size=4), "type": st.just("FeatureCollection")},
    optional={"cells": values, "name": values},
)


def items(path: Path) -> list[tuple[str | None, bool, Any]]:
    return list(read_items(path, "not JSON", "write it again"))


def put_together(path: Path) -> Any:
    """The content of a file again, from its items."""
    (_, _, top), *rest = items(path)
    for key, item, value in rest:
        if item:
            (top if key is None else top[key]).append(value)
        else:
            top[key] = value
    return top


def text_of(value: Any, layout: dict[str, Any]) -> bytes:
    return json.dumps(value, **layout).encode("utf-8", "surrogatepass")


@pytest.fixture(params=SMALL_CHUNKS)
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "CHUNK", request.param)
    monkeypatch.setattr(json_items, "SETTLED", 16)


@given(value=values | collection, layout=layouts, packed=st.booleans())
@anywhere
@pytest.mark.usefixtures("small_chunks")
def test_what_comes_is_what_json_loads_gives(
    value: Any, layout: dict[str, Any], packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, content = tmp_path_factory.getbasetemp() / "items.json", text_of(value, layout)
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    assert put_together(path) == json.loads(content)


def test_a_string_longer_than_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its end has not been read it looks like damage at its beginning."""
    monkeypatch.setattr(json_items, "CHUNK", 64)
    monkeypatch.setattr(json_items, "SETTLED", 16)
    value = ["x" * 5000, {"key" * 500: "é" * 300}]
    (tmp_path / "a.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert put_together(tmp_path / "a.json") == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
def test_encodings_are_those_of_json_loads(tmp_path: Path, encoding: str) -> None:
    content = '[{"name": "é\U0001f52c"}]'.encode(encoding)
    (tmp_path / "a.json").write_bytes(content)
    assert put_together(tmp_path / "a.json") == json.loads(content)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b'["a", "\xff\xfe"]')
    with pytest.raises(InputError, match=r"a\.json: not JSON .*; write it again"):
        items(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps([1, "x" * 1000]), "an object in it holds more than"),
        (json.dumps([1, [[2] * 500]]), "an object in it holds more than"),
        ("[1," + " " * 1000 + "2]", "an object in it holds more than"),
        (json.dumps({str(i): "x" * 20 for i in range(40)}), "an object in it holds more than"),
        (json.dumps({"cells": [0] * 31, "features": [0] * 31}), "holds more than 60 objects"),
    ],
)
def test_what_is_kept_has_a_limit(content: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "CHUNK", 64)
    monkeypatch.setattr(json_items, "LARGEST", 500)
    monkeypatch.setattr(json_items, "MOST_ITEMS", 60)
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=f"a.json: {says}.*; is it the right file"):
        items(path)


def test_a_file_may_be_many_times_the_limit_of_an_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "CHUNK", 64)
    monkeypatch.setattr(json_items, "LARGEST", 500)
    value = {"type": "x" * 100, "features": ["y" * 480] * 50, "last": "z" * 100}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert put_together(tmp_path / "a.json") == value


def test_no_more_is_held_than_the_item_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault at the end is found after all items before it have come."""
    monkeypatch.setattr(json_items, "CHUNK", 64)
    (tmp_path / "a.json").write_text(json.dumps(list(range(10_000)))[:-1])
    found = read_items(tmp_path / "a.json", "not JSON", "write it again")
    assert [value for _, _, value in (next(found) for _ in range(10_000))] == [[], *range(9999)]
    with pytest.raises(InputError, match="cut off"):
        list(found)
