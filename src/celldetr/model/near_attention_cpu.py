"""The Numba kernel of ``near_attention``: for each block of queries, the keys of the blocks around it and no others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.model.kernels import run_in_pieces, specialise
from celldetr.model.simd import WIDE, add, clear, columns_dot, copy, exp, maximum, registers


@dataclass(frozen=True)
class Order:
    """Queries sorted by block, row of blocks by row, so that the near blocks of a row lie together.

    Attributes:
        rank: (B * Q,) where each sorted query stands in the flattened input.
        block: (B, Q) number of the block of each sorted query, row * columns + column.
        items: (N, 2) image and first sorted query of each block that has any.
        columns, rows: of blocks.
    """

    rank: NDArray[np.int64]
    block: NDArray[np.int64]
    items: NDArray[np.int64]
    columns: int
    rows: int


def order_by_block(blocks: NDArray[np.int64]) -> Order:
    """(B, Q, 2) column and row of each query's block, not negative; Q > 0."""
    columns, rows = (int(side) + 1 for side in blocks.reshape(-1, 2).max(0))
    block = blocks[..., 1] * columns + blocks[..., 0]
    order = np.argsort(block, axis=1, kind="stable")
    block = np.take_along_axis(block, order, 1)
    changed = np.ones(block.shape, dtype=bool)
    changed[:, 1:] = block[:, 1:] != block[:, :-1]
    rank = order + np.arange(len(order))[:, None] * order.shape[1]
    return Order(rank.reshape(-1), block, np.argwhere(changed), columns, rows)


def attend(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    order: Order,
    heads: int,
    reach: int,
    threads: int,
) -> NDArray[np.float32]:
    """Attention within ``reach`` blocks.

    Args:
        q, k, v: (B, Q, d), Q > 0.
        order: of the B x Q queries.
        heads: H, a divisor of d.
        reach: in blocks, along both axes.
        threads: how many may work at once.

    Returns:
        (B, Q, d)
    """
    batch, queries, width = q.shape
    channels = width // heads
    q, k, v = (x.reshape(-1, width)[order.rank].reshape(batch, queries, heads, channels) for x in (q, k, v))
    keys = np.zeros((batch, heads, channels, queries + WIDE), np.float32)  # a vector may reach beyond the last
    keys[..., :queries] = k.transpose(0, 2, 3, 1)
    values = np.ascontiguousarray(v.transpose(0, 2, 1, 3))
    out = np.empty((batch * queries, heads, channels), np.float32)
    compiled = _specialised(channels)
    limits = order.columns, order.rows, reach
    arguments = ((0,) * channels, q, keys, values, order.block, order.items, order.rank, *limits, out)
    compiled(*arguments, 0, 0)
    run_in_pieces(lambda start, stop: compiled(*arguments, start, stop), len(order.items), threads)
    return out.reshape(batch, queries, width)


def attend_kernel(  # type: ignore[no-untyped-def]
    lanes, q, k, v, block, items, rank, columns, rows, reach, out, start, stop
):
    """Write the results of the blocks start <= number < stop; all but ``out`` are sorted by block.

    Shapes: q (B, Q, H, D), k (B, H, D, Q + WIDE), v (B, H, Q, D), out (B * Q, H, D).
    """
    queries, heads, channels = q.shape[1:]
    scale = np.float32(1 / math.sqrt(channels))
    total, other = registers(q, lanes), registers(q, lanes)
    row, one = np.empty(channels, np.float32), np.float32(1)
    spans = np.empty((2 * reach + 1, 2), np.int64)  # of keys: one a row of blocks
    scores = np.empty(queries + WIDE, np.float32)
    stride = queries + WIDE
    for item in range(start, stop):
        b, first = items[item, 0], items[item, 1]
        mine = block[b, first]
        last = first + 1
        while last < queries and block[b, last] == mine:
            last += 1
        column, line = mine % columns, mine // columns
        for i in range(2 * reach + 1):
            near = line + i - reach
            spans[i, 0] = spans[i, 1] = 0
            if 0 <= near < rows:
                spans[i, 0] = np.searchsorted(block[b], near * columns + max(column - reach, 0))
                spans[i, 1] = np.searchsorted(block[b], near * columns + min(column + reach, columns - 1) + 1)
        for h in range(heads):
            keys, values = (b * heads + h) * channels * stride, (b * heads + h) * queries * channels
            for query in range(first, last):
                for c in range(channels):
                    row[c] = q[b, query, h, c] * scale
                count = 0
                for i in range(2 * reach + 1):
                    span = spans[i, 1] - spans[i, 0]
                    columns_dot(scores, count, row, k, keys + spans[i, 0], stride, span, lanes)
                    count += span
                for j in range(count, count + WIDE):
                    scores[j] = -np.inf
                highest = maximum(scores, count)
                weight = np.float32(0)
                for j in range(count):
                    scores[j] = exp(scores[j] - highest)
                    weight += scores[j]
                clear(total, q, lanes)
                clear(other, q, lanes)
                n = 0
                for i in range(2 * reach + 1):
                    place, end = values + spans[i, 0] * channels, values + spans[i, 1] * channels
                    while place + channels < end:  # two at a time: one addition need not wait for the other
                        add(total, 0, scores[n], v, place, lanes)
                        add(other, 0, scores[n + 1], v, place + channels, lanes)
                        place += 2 * channels
                        n += 2
                    if place < end:
                        add(total, 0, scores[n], v, place, lanes)
                        n += 1
                copy(row, 0, other, lanes)
                add(total, 0, one, row, 0, lanes)
                copy(row, 0, total, lanes)
                for c in range(channels):
                    out[rank[b * queries + query], h, c] = row[c] / weight


@cache
def _specialised(channels: int) -> Any:
    return specialise(attend_kernel, str(channels))
