"""Pieces of an image hold all of it, and each nucleus once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from celldetr.data.sample import Sample
from celldetr.data.tiling import LARGE_UM, PIECE_UM, cut, pieces


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


@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from([4.0, 10.0, 20.0]), st.integers(0, 2**32 - 1))
def test_a_large_image_is_cut_and_each_nucleus_kept(height: int, width: int, mpp: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    points = (rng.uniform(0, 1, (12, 2)) * [width, height]).astype(np.float32)
    points[0] = width, height  # clipped points may lie there
    boxes = np.concatenate([np.maximum(points - 3, 0), np.minimum(points + 3, [width, height])], axis=1)
    sample = Sample("s", image, mpp, boxes.astype(np.float32), np.arange(12), tuple("abcdefghijkl"), points)
    parts = list(cut(sample))
    if max(height, width) * mpp <= LARGE_UM:
        assert parts == [sample]
        return
    assert all(max(part.image.shape[:2]) * mpp <= PIECE_UM + mpp for part in parts)
    assert sum(part.image.size for part in parts) == image.size
    assert len({part.name for part in parts}) == len(parts)
    assert {part.group for part in parts} == {"s"}
    assert sorted(kind for part in parts for kind in part.types.tolist()) == list(range(12))
    for part in parts:
        x, y, w, h = (int(text[2:]) for text in part.name[3:-1].split(","))
        assert np.array_equal(part.image, image[y : y + h, x : x + w])
        np.testing.assert_allclose(part.points + np.array([x, y]), points[part.types], atol=1e-4)
        assert (part.boxes <= np.array([w, h, w, h])).all()
        assert (part.boxes >= 0).all()
