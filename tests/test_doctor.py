"""The doctor reports what is so, reports what is not, and never stops half-way."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core import caching

from celldetr import doctor
from celldetr.doctor import Finding

ROOT = Path(__file__).resolve().parents[1]


def by_name(check: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in check}


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(doctor.versions())
    assert found["torch"].value == version("torch")
    assert {found[name].state for name in doctor.ESSENTIAL} == {"ok"}

    def lacking(name: str) -> str:
        if name in ("timm", "igraph"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", lacking)
    found = by_name(doctor.versions())
    assert found["timm"] == Finding("versions", "timm", "not installed", "broken")
    found = by_name(doctor.extras())
    assert {name for name, finding in found.items() if finding.state == "note"} == {"cluster-cells", "to install them"}
    assert "igraph" in found["cluster-cells"].value
    assert found["to install them"].value.endswith("[cluster-cells]'")


def test_every_extra_for_users_is_listed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(extras) - {"test", "docs", "dev"}


def test_machine_counts_the_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    found = by_name(doctor.machine())
    assert found["cores"].value.startswith("3 of 64")
    assert found["torch threads"].state == "note"
    assert "OMP_NUM_THREADS" in found["torch threads"].value


def test_devices_have_a_cpu() -> None:
    found = by_name(doctor.devices())
    assert "cpu" in found
    assert ("cuda:0" in found) == torch.cuda.is_available()


def test_network_is_used_not_only_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.state for finding in doctor.network()} == {"ok"}

    from celldetr.model import deformable, near_attention_cpu

    honest = deformable.deformable_attention_fused
    monkeypatch.setattr(deformable, "deformable_attention_fused", lambda *arguments: honest(*arguments) + 0.01)
    attention = by_name(doctor.network())["deformable attention (Numba)"]
    assert attention.state == "broken"
    assert "0.01 from the plain one" in attention.value
    monkeypatch.setattr(near_attention_cpu, "attend", lambda q, *rest: np.zeros_like(q))
    assert by_name(doctor.network())["near attention (Numba)"].state == "broken"


def test_slides_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(doctor.readers())
    assert found["sample slide"].value == "2220 x 2967 px, read"
    assert found["sample slide"].state == "ok"

    from celldetr.slide.openslide_reader import OpenSlideReader

    white = np.full((64, 64, 3), 255, np.uint8)
    monkeypatch.setattr(OpenSlideReader, "read_level", lambda *_: white)
    assert by_name(doctor.readers())["sample slide"].state == "broken"


def test_a_damaged_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "card.json").write_text("{}")
    monkeypatch.setenv("CELLDETR_MODELS", str(tmp_path))
    odd = by_name(doctor.models())["odd"]
    assert odd.state == "broken"
    assert str(tmp_path / "odd" / "card.json") in odd.value


def test_storage_says_where_files_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    def nowhere(kernel: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(caching, "FunctionCache", nowhere)
    found = by_name(doctor.storage())
    assert found["results can be written here"].value == f"yes, {tmp_path}"
    assert found["compiled attention kept"].state == "note"
    assert "NUMBA_CACHE_DIR names another folder" in found["compiled attention kept"].value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]  # and it leaves nothing behind


def test_a_failing_check_is_a_problem_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Iterator[Finding]:
        yield Finding("first", "before", "kept")
        raise OSError("libfoo.so.1:\n cannot open shared object file")

    def works() -> Iterator[Finding]:
        yield Finding("second", "after", "reached", "note")

    monkeypatch.setattr(doctor, "CHECKS", (("first", fails), ("second", works)))
    findings = doctor.collect()
    assert [finding.name for finding in findings] == ["before", "check failed", "after"]
    assert findings[1].value == "OSError: libfoo.so.1: cannot open shared object file"
    text = doctor.report(findings)
    assert "libfoo.so.1: cannot open" in text
    assert text.splitlines()[-1] == "1 problem: see 'broken' above"


def test_report_of_a_healthy_machine() -> None:
    findings = [Finding("machine", "cores", "[red]2")]
    lines = doctor.report(findings).splitlines()
    assert lines[-1] == "All is well"
    assert lines[0].split() == ["machine", "cores", "ok", "[red]2"]  # a value is text, not markup
    assert "\x1b[" in doctor.report(findings, colour=True)
    assert "\x1b[" not in doctor.report(findings, colour=False)
