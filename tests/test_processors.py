"""What holds in both precisions holds on a processor without AVX-512, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
# The network's own: bfloat16 is emulated here, and the images of the other tests with the mark would take minutes.
FILES = ("model/test_inference.py", "model/test_orientations.py")
HELD = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # read once by a process, hence one of its own


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "AVX2",
    reason="this processor has no more: the tests have run so already",
)
def test_both_precisions_with_onednn_and_aten_held_to_avx2() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "precision", *FILES]
    done = subprocess.run(command, cwd=TESTS, env=environment | HELD, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
