"""The numbers in docs/evaluation.md are what its code prints."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from celldetr.evaluation.evaluate import score_images
from celldetr.evaluation.report import write_metrics
from helpers.scenes import TYPES, random_image

DOCS = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_the_warning_about_pairing_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    (code, shown), *_ = re.findall(r"```python\n([^`]*pair_cells[^`]*)```\s+```text\n(.*?)```", text, re.DOTALL)
    exec(compile(code, str(DOCS), "exec"), {})
    assert capsys.readouterr().out == shown


def test_every_protocol_is_described() -> None:
    from celldetr.evaluation.protocols import PROTOCOLS

    section = DOCS.read_text(encoding="utf-8").split("\n## Protocols\n")[1]
    described = re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)
    assert sorted(described) == sorted([*PROTOCOLS])


def test_every_key_of_the_file_is_described(tmp_path: Path) -> None:
    report = score_images([replace(random_image(3), tissue="Colon")], TYPES, threshold=0.3, resamples=0)
    write_metrics(report, tmp_path / "m.json", others=[report], context={"dataset": "tiny"})
    content = json.loads((tmp_path / "m.json").read_text())
    kind = content["types"]["neoplastic"]
    keys = {*content, *kind, *content["tissues"]["Colon"], *content["images"][0], *content["curve"]}
    keys |= {*content["calibration"]["types"], *content["intervals_95"], *content["confusion"]}
    table = DOCS.read_text(encoding="utf-8").split("\n## metrics.json\n")[1].split("\n## ")[0]
    # "`a`, `b.c.NAME`" names a, b and c.
    named = {part for quoted in re.findall(r"`([^`]+)`", table) for part in quoted.split(".")}
    assert keys <= named, f"not described: {sorted(keys - named)}"
