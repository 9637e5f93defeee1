"""The numbers in docs/evaluation.md are what its code prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_the_warning_about_pairing_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    (code, shown), *_ = re.findall(r"```python\n([^`]*pair_cells[^`]*)```\s+```text\n(.*?)```", text, re.DOTALL)
    exec(compile(code, str(DOCS), "exec"), {})
    assert capsys.readouterr().out == shown


def test_every_protocol_is_described() -> None:
    from celldetr.evaluation.protocols import PROTOCOLS

    described = re.findall(r"^\| `([\w-]+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(described) == sorted([*PROTOCOLS])
