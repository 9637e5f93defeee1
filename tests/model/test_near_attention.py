"""Attention among near queries: the kernel, the mask and plain attention agree wherever they should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from celldetr.model import near_attention as module
from celldetr.model.near_attention import BLOCK_PX, REACH, NearQueries, near_attention


def random_queries(
    seed: int, batch: int, queries: int, width: int, side: float
) -> tuple[list[torch.Tensor], NearQueries]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, queries, width, generator=generator) * 2 for _ in range(3))
    places = torch.rand(batch, queries, 4, generator=generator) * 1.2 - 0.1
    return [q, k, v], NearQueries.of(places, torch.full((batch, 2), side))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.integers(1, 90),
    st.sampled_from([(8, 16), (3, 5)]),
    st.sampled_from([20.0, 300.0, 1500.0]),
)
def test_the_kernel_equals_the_mask(seed: int, batch: int, queries: int, shape: tuple[int, int], side: float) -> None:
    heads, channels = shape
    qkv, neighbours = random_queries(seed, batch, queries, heads * channels, side)
    slow = near_attention(*qkv, heads, neighbours)  # with gradients on: the mask
    with torch.no_grad():
        fast = near_attention(*qkv, heads, neighbours)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_on_a_small_tile_everybody_is_near() -> None:
    qkv, neighbours = random_queries(1, 2, 40, 32, (REACH + 1) * BLOCK_PX - 30.0)
    assert neighbours.mask().all()
    with torch.no_grad():
        near = near_attention(*qkv, 4, neighbours)
        q, k, v = (x.unflatten(-1, (4, -1)).transpose(1, 2) for x in qkv)
        everybody = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(near, everybody, atol=1e-5, rtol=1e-5)


def test_many_queries_are_masked_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, neighbours = random_queries(4, 2, 50, 32, 600.0)
    whole = near_attention(*qkv, 4, neighbours)
    monkeypatch.setattr(module, "MOST_ROWS", 16)  # the last part has two
    torch.testing.assert_close(near_attention(*qkv, 4, neighbours), whole, atol=1e-6, rtol=1e-6)


def test_what_is_far_away_changes_nothing() -> None:
    qkv, _ = random_queries(2, 1, 60, 32, 1.0)
    places = torch.zeros(1, 60, 2)
    places[0, 30:] = 0.9
    neighbours = NearQueries.of(places, torch.tensor([[2000.0, 2000.0]]))
    with torch.no_grad():
        before = near_attention(*qkv, 4, neighbours)
        for x in qkv:
            x[0, 30:] = 1e6
        after = near_attention(*qkv, 4, neighbours)
    torch.testing.assert_close(after[0, :30], before[0, :30], atol=0, rtol=0)


def test_threads_change_nothing() -> None:
    qkv, neighbours = random_queries(3, 2, 500, 64, 900.0)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            one = near_attention(*qkv, 4, neighbours)
            torch.set_num_threads(3)
            several = near_attention(*qkv, 4, neighbours)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(several, one, atol=0, rtol=0)


def test_places_that_are_no_numbers_do_no_harm() -> None:
    qkv, _ = random_queries(4, 1, 3, 16, 1.0)
    neighbours = NearQueries.of(
        torch.tensor([[[0.1, 0.1], [torch.nan, torch.inf], [-torch.inf, 0.5]]]), torch.ones(1, 2)
    )
    with torch.no_grad():
        assert near_attention(*qkv, 2, neighbours).isfinite().all()


def test_half_precision_comes_back_as_it_went_in() -> None:
    qkv, neighbours = random_queries(5, 1, 20, 32, 400.0)
    half = [x.bfloat16() for x in qkv]
    with torch.no_grad():
        out = near_attention(*half, 4, neighbours)
        exact = near_attention(*(x.float() for x in half), 4, neighbours)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, atol=2e-2, rtol=1e-2)
