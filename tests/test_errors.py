"""What a message about a missing extra tells to type: the command must reach this Python, and keep a clone a clone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celldetr import errors

ROOT = Path(errors.__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        ({"url": "file:///elsewhere", "dir_info": {"editable": True}}, f"-e '{ROOT}[view]'"),
        ({"url": "file:///clone", "dir_info": {}}, "'celldetr[view] @ file:///clone'"),
        ({"url": "file:///a/celldetr.whl", "archive_info": {}}, "'celldetr[view] @ file:///a/celldetr.whl'"),
        (None, "'celldetr[view]'"),
    ],
    ids=["editable", "folder", "wheel", "index"],
)
def test_extras_are_installed_from_where_the_package_came(
    origin: dict[str, Any] | None, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if origin is None else json.dumps(origin)
    monkeypatch.setattr(errors, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    assert errors.install("view") == f"{sys.executable} -m pip install {what}"


def test_what_an_extra_brings_is_imported_or_named() -> None:
    assert errors.optional("json", "view") is json
    with pytest.raises(errors.InputError, match=r"needs no_such_module.*\[view\]"):
        errors.optional("no_such_module", "view")
