"""Self-attention among near queries only: what a query has to know of others is whether they claim the same nucleus.

A tile is divided into blocks of ``BLOCK_PX``; a query sees the queries of its own block and of those up to ``REACH``
blocks away, at least 64 px each way, which is several nuclei. Attention among all queries takes a third of the time of
a tile of 512 px and grows with the square of its area; this grows with the area, and finds the same on validation
images (benchmarks/same_result.py). On a CPU without gradients a Numba kernel visits the near pairs alone, which makes a
whole tile 1.07 (256 px) to 1.17 (512 px) times as fast; elsewhere the others are masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from celldetr.model.near_attention_cpu import Order

BLOCK_PX = 32
REACH = 2  # blocks
_MOST_BLOCKS = 1 << 15  # along an axis
MOST_ROWS = 4096
ALL = slice(None)


@dataclass(frozen=True)
class NearQueries:
    """Which queries see each other.

    Attributes:
        blocks: (B, Q, 2) int64, column and row of each query's block.
    """

    blocks: Tensor

    @classmethod
    def of(cls, reference: Tensor, sizes: Tensor) -> NearQueries:
        """From the queries' first reference, (B, Q, 2 | 4) fractions, and the images' sizes, (B, 2) pixels."""
        pixels = reference[..., :2].detach().float() * sizes[:, None]
        blocks = (pixels / BLOCK_PX).nan_to_num(0.0).floor().clamp(0, _MOST_BLOCKS)
        return cls(blocks.long())

    @cached_property
    def order(self) -> Order:
        """The queries sorted by block, for the kernel."""
        # Imported at the first use: Numba takes as long to import as all the rest of the model.
        from celldetr.model.near_attention_cpu import order_by_block

        return order_by_block(self.blocks.numpy())

    def mask(self, rows: slice = ALL) -> Tensor:
        """(B, 1, R, Q) True where a query (one of the R ``rows``) sees another (column)."""
        x, y = self.blocks.int().unbind(-1)  # one axis at a time: these are the largest tensors of a tile
        near = (x[:, rows, None] - x[:, None]).abs() <= REACH
        return (near & ((y[:, rows, None] - y[:, None]).abs() <= REACH))[:, None]


def near_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, neighbours: NearQueries) -> Tensor:
    """Multi-head attention of each query to its neighbours.

    Args:
        q, k, v: (B, Q, d).
        heads: H, a divisor of d.
        neighbours: of the B x Q queries.

    Returns:
        (B, Q, d), of the dtype of ``q``.
    """
    if q.device.type == "cpu" and not torch.is_grad_enabled() and not torch.onnx.is_in_onnx_export() and q.numel():
        from celldetr.model.near_attention_cpu import attend

        queries, keys, values = (x.detach().float().contiguous().numpy() for x in (q, k, v))
        out = attend(queries, keys, values, neighbours.order, heads, REACH, torch.get_num_threads())
        return torch.from_numpy(out).to(q.dtype)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    count = q.shape[2]
    # Of a large image the masks of some queries at a time: that of all has the square of its area.
    parts = [slice(i, i + MOST_ROWS) for i in range(0, count, MOST_ROWS)] if count > MOST_ROWS else [ALL]
    some = [functional.scaled_dot_product_attention(q[:, :, p], k, v, attn_mask=neighbours.mask(p)) for p in parts]
    mixed = some[0] if len(some) == 1 else torch.cat(some, 2)
    return mixed.transpose(1, 2).flatten(2)
