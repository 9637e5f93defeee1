"""A process that has used a model may be forked, and its child may use the model."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, sys
import numpy as np, torch
from celldetr import load_model

torch.set_num_threads(2)  # OpenMP's threads begin with the first computation, also where there is one core
model, image = load_model(), np.full((256, 256, 3), 200, np.uint8)
model.predict(image, mpp=0.4)

def child():
    model.predict(image, mpp=0.4)

process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(60)
alive = process.is_alive()
process.kill()
sys.exit(1 if alive or process.exitcode else 0)
"""


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_model_works_in_a_forked_process() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
