"""Similarities of vectors that are held as float16."""

from __future__ import annotations

import numpy as np
import pytest

from celldetr.search.half import similarities


@pytest.mark.parametrize("dim", [1, 7, 128])
def test_products_are_those_of_float32(dim: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, dim)).astype(np.float16)
    scales, query = rng.uniform(0.1, 2, 500).astype(np.float32), rng.normal(size=dim).astype(np.float32)
    expected = (vectors.astype(np.float64) @ query) * scales
    np.testing.assert_allclose(similarities(vectors, scales, query), expected, rtol=1e-4, atol=1e-5)


def test_what_nothing_is_like_has_no_similarity() -> None:
    vectors = np.array([[np.nan, 1], [np.inf, 1], [0, 0], [6e-8, 0]], np.float16)
    out = similarities(vectors, np.array([0, 0, 0, 1], np.float32), np.ones(2, np.float32))
    np.testing.assert_allclose(out, [0, 0, 0, 6e-8], rtol=0.01)  # the last is the smallest float16
