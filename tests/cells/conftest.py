"""A run as the slide engine leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cell_tables import random_cells, random_embeddings, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Directory of a slide with 300 cells of three types."""
    cells = random_cells(300)
    return write_run(tmp_path / "slide-1", cells, random_embeddings(cells), row_group=70)


@pytest.fixture
def empty_run(tmp_path: Path) -> Path:
    """Directory of a slide on which nothing was found."""
    cells = random_cells(0)
    return write_run(tmp_path / "white", cells, random_embeddings(cells))
