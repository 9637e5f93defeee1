"""Diagnostics of collapse: whether embeddings still differ between cells, or have become one vector, or few.

Alignment and uniformity are those of Wang & Isola (ICML 2020). Effective rank is RankMe (Garrido et al., ICML 2023):
the exponential of the entropy of the singular values, without taking off the mean first: vectors that are all the same
have rank 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 1024  # vectors that are compared with each other
# Fewer directions in use than this, or this part of those at the start: a collapse, and worth a warning.
LEAST_RANK, LEAST_SHARE = 2.0, 0.25


def alignment(similarity: Tensor) -> Tensor:
    """Mean squared distance of pairs of unit vectors, from their cosines (A,): 0 if they agree, 2 by chance."""
    return (2 - 2 * similarity).mean() if len(similarity) else similarity.new_zeros(())


def uniformity(vectors: Tensor) -> Tensor:
    """Logarithm of the mean of exp(-2 squared distance) over pairs of unit vectors (N, d): 0 all alike, -4 uniform."""
    x = vectors.float()[:: max(1, -(-len(vectors) // MOST))]
    if len(x) < 2:
        return vectors.new_zeros((), dtype=torch.float32)
    above = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    squared = (2 - 2 * x @ x.T)[above]
    return (-2 * squared).exp().mean().log()


def effective_rank(vectors: Tensor) -> Tensor:
    """Number of directions that vectors (N, d) use, between 1 and min(N, d); 0 for N = 0."""
    if not len(vectors):
        return vectors.new_zeros((), dtype=torch.float32)
    x = vectors.detach().double() if vectors.device.type != "mps" else vectors.detach().float().cpu().double()
    size = torch.linalg.svdvals(x)
    share = size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)
    return torch.special.entr(share).sum().exp().to(vectors.device, torch.float32)


def collapse(rank: float, start: float, share: float = LEAST_SHARE) -> str:
    """Warning about an effective rank below ``share`` of that before training; "" where nothing is wrong."""
    if rank >= max(LEAST_RANK, share * start):
        return ""
    return (
        f"the embeddings have collapsed: their effective rank is {rank:.1f}, it was {start:.1f} before training; cells"
        " cannot be distinguished by them. Try a lower training.lr, a higher training.contrastive.temperature or a"
        " larger training.batch_size"
    )
