"""Where to run, and in which arithmetic: what may run decides, not what the processor has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from celldetr.errors import InputError
from celldetr.model import device
from celldetr.model.device import has_bf16, in_bf16, pick_device

CPU = torch.device("cpu")


def test_devices() -> None:
    assert pick_device("cpu") == pick_device("cpu:0") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "cuda:99"])
def test_devices_that_do_not_exist(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'"):
        pick_device(name)


def test_without_capabilities_of_torch_there_is_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bf16(CPU)


@pytest.mark.parametrize(
    ("limits", "native"),
    [
        ({}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"DNNL_MAX_CPU_ISA": "avx512_core_vnni"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX512_CORE"}, True),
    ],
)
def test_with_avx512_and_bfloat16_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(device, "onednn_runs", lambda *_: True)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    assert has_bf16(CPU) == in_bf16("auto", CPU) == native
    assert in_bf16("bf16", CPU)
    assert not in_bf16("32", CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_onednn_held_to_avx2_means_float32(name: str) -> None:
    ask = """
import torch
from celldetr.model.device import in_bf16, onednn_runs
cpu = torch.device("cpu")
print(in_bf16("auto", cpu), onednn_runs(cpu, torch.bfloat16), onednn_runs(cpu, torch.float32))
"""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("MAX_CPU_ISA")}
    done = subprocess.run(
        [sys.executable, "-c", ask], env=environment | {name: "AVX2"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", str(torch.backends.mkldnn.is_available())]
