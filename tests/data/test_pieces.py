"""Pieces of an image hold all of it, and each nucleus once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from celldetr.data.pieces import pieces
from celldetr.data.sample import Sample


@given(st.integers(20, 90), st.integers(20, 90), st.integers(16, 64), st.integers(0, 2**32 - 1))
def test_pieces_put_together_are_the_image(height: int, width: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    points = (rng.uniform(0.001, 0.999, (12, 2)) * [width, height]).astype(np.float32)
    boxes = np.concatenate([np.maximum(points - 3, 0), np.minimum(points + 3, [width, height])], axis=1)
    sample = Sample("s", image, 0.5, boxes.astype(np.float32), np.arange(12), tuple("abcdefghijkl"), points)
    whole = np.zeros_like(image)
    found: dict[int, np.ndarray] = {}
    for piece in pieces(sample, size):
        left, top = (int(part) for part in piece.name.split("_")[1:])
        assert piece.image.shape == (size, size, 3)
        part = whole[top : top + size, left : left + size]
        part[:] = piece.image[: part.shape[0], : part.shape[1]]
        for kind, point, box in zip(piece.types, piece.points, piece.boxes, strict=True):
            assert int(kind) not in found
            found[int(kind)] = point + np.array([left, top])
            assert box.min() >= 0
            assert box.max() <= size
    assert np.array_equal(whole, image)
    assert sorted(found) == list(range(12))
    np.testing.assert_allclose(np.stack([found[i] for i in range(12)]), points, atol=1e-4)
