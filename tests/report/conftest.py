"""A slide and its run, small enough to draw in a blink."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.cell_tables import ArraySlide, random_cells, random_embeddings, write_run


@pytest.fixture
def slide() -> ArraySlide:
    """Pale pink, 600 x 400 px."""
    return ArraySlide(np.full((400, 600, 3), (240, 210, 225), dtype=np.uint8))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Directory of that slide with 200 cells of three types."""
    cells = random_cells(200, size=(600, 400))
    return write_run(tmp_path / "slide-1", cells, random_embeddings(cells), row_group=70)


@pytest.fixture
def empty_run(tmp_path: Path) -> Path:
    """Directory of a slide on which nothing was found."""
    cells = random_cells(0)
    return write_run(tmp_path / "white", cells, random_embeddings(cells))
