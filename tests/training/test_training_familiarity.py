"""What of a training is summed up: nuclei that are labelled and found, image by image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np

from celldetr.data.sample import Sample
from celldetr.model.inference import TilePredictor
from celldetr.model.output import TileCells
from celldetr.training import familiarity as module
from celldetr.training.familiarity import measure

DIM, NUCLEI = 8, 20


def a_sample(number: int) -> Sample:
    points = np.array([[10 + 10 * (i % 5), 10 + 10 * (i // 5)] for i in range(NUCLEI)], np.float32)
    image = np.full((64, 64, 3), number, np.uint8)
    types = np.zeros(NUCLEI, np.int64)
    return Sample(f"image {number}", image, 0.5, np.tile(points, 2) + np.float32([-3, -3, 3, 3]), types, ("a",), points)


class Finds:
    """Finds the first 15 nuclei a little aside, and five things far from any."""

    def predict_tiles(self, tiles: list[np.ndarray]) -> list[TileCells]:
        sample, rng = a_sample(int(tiles[0][0, 0, 0])), np.random.default_rng(int(tiles[0][0, 0, 0]))
        boxes = np.concatenate([sample.boxes[:15] + 1, [[0, 0, 2, 2]] * 5])
        values = rng.normal(size=(NUCLEI, DIM))
        values[15:] = 1000
        ones = np.ones(NUCLEI, np.float32)
        return [TileCells(boxes, ones, ones[:, None], values.astype(np.float16))]


def test_only_nuclei_with_a_label_count(monkeypatch) -> None:
    samples = [a_sample(i) for i in range(100)]
    predictor = cast(TilePredictor, Finds())
    seen = []
    found = measure(predictor, samples, [1.0] * 100, progress=lambda done, total: seen.append((done, total)))
    assert found is not None
    assert np.abs(found.mean).max() < 0.2
    assert seen[-1] == (100, 100)
    assert measure(predictor, samples[:50], [1.0] * 50) is None  # 750 nuclei

    monkeypatch.setattr(module, "MOST_IMAGES", 70)
    names = SimpleNamespace(images=[])
    measure(predictor, samples, [0.0] * 20 + [1.0] * 80, progress=lambda done, total: names.images.append(total))
    assert names.images == [70] * 70
