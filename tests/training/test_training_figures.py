"""Pictures of a pretraining run: what is on the diagonal, and whether groups of vectors stay apart on the map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from celldetr.training import figures
from celldetr.training.figures import NEIGHBOURS, map_vectors, own_similarity
from celldetr.training.infonce import Contrast


def test_own_cells_are_on_the_diagonal() -> None:
    """Five anchors, of which two see another set; cells in no order, one asked for twice, one by nobody."""
    similarity = torch.arange(30, dtype=torch.float32).reshape(5, 6)
    negatives = torch.ones(5, 6, dtype=torch.bool)
    negatives[0, 5] = False  # anchor 0 is not told from the cell that is most like it, and is next most like its own
    contrast = Contrast(
        loss=torch.zeros(()),
        similarity=similarity,
        negatives=negatives,
        positive=torch.tensor([4, 1, 4, 2, 0]),
        instances=torch.zeros(6, 2),
        anchor_image=torch.tensor([0, 0, 0, 1, 1]),
        anchor_view=torch.tensor([0, 0, 0, 0, 1]),
    )
    matrix, found = own_similarity(contrast)
    rows, columns = [1, 3, 0], [1, 2, 4]  # anchors of the cells 1, 2 and 4, the first of each
    assert matrix.tolist() == similarity[rows][:, columns].tolist()
    assert found.tolist() == [False, False, True]
    matrix, found = own_similarity(contrast, 1)
    assert (matrix.tolist(), found.tolist()) == ([[float(similarity[3, 2])]], [False])


def test_groups_stay_apart_on_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 2 * NEIGHBOURS)
    vectors = (8 * np.eye(6)[group] + rng.normal(size=(len(group), 6))).astype(np.float32)
    points, how = map_vectors(vectors)
    assert "UMAP" not in how
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.diag(np.full(len(group), np.inf))
    assert (group[distance.argmin(1)] == group).mean() > 0.95
