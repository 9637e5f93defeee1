"""Diagnostics of collapse: whether embeddings still differ between cells, or have become one vector, or few.

Alignment and uniformity are those of Wang & Isola (ICML 2020): how near the two views of a cell are, and how evenly
cells fill the sphere. Effective rank is RankMe (Garrido et al., ICML 2023; Roy & Vetterli 2007): the exponential of the
entropy of the singular values, which is the number of directions that are in use. The mean is not taken off before:
vectors that are all the same but for rounding have rank 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 1024  # vectors that are compared with each other
# Fewer directions in use than this, or this part of those at the start: a collapse, and worth a warning.
LEAST_RANK, LEAST_SHARE = 2.0, 0.25


def alignment(similarity: Tensor) -> Tensor:
    """Mean squared distance of the pairs' unit vectors, from their cosines (A,): 0 for pairs that agree, 2 by chance.

    0 without a pair.
    """
    return (2 - 2 * similarity).mean() if len(similarity) else similarity.new_zeros(())


def uniformity(vectors: Tensor) -> Tensor:
    """Logarithm of the mean of exp(-2 squared distance) over pairs of unit vectors (N, d).

    0 for vectors that are all the same; about -4 for many that fill a sphere of many dimensions evenly. 0 for N < 2.
    """
    x = vectors.float()[:: max(1, -(-len(vectors) // MOST))]
    if len(x) < 2:
        return vectors.new_zeros((), dtype=torch.float32)
    above = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    squared = (2 - 2 * x @ x.T)[above]
    return (-2 * squared).exp().mean().log()


def effective_rank(vectors: Tensor) -> Tensor:
    """Number of directions (N, d) vectors use, between 1 and min(N, d); 0 for N = 0."""
    if not len(vectors):
        return vectors.new_zeros((), dtype=torch.float32)
    x = vectors.detach().double() if vectors.device.type != "mps" else vectors.detach().float().cpu().double()
    size = torch.linalg.svdvals(x)
    share = size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)
    return torch.special.entr(share).sum().exp().to(vectors.device, torch.float32)


def collapse(rank: float, start: float, share: float = LEAST_SHARE) -> str:
    """Warning about an effective rank, given that before training; "" where nothing is wrong.

    ``share`` of the rank before training is the least; 0 where the two ranks are of different numbers of vectors, which
    bound them.
    """
    if rank >= max(LEAST_RANK, share * start):
        return ""
    return (
        f"the embeddings have collapsed: their effective rank is {rank:.1f}, it was {start:.1f} before training; cells"
        " cannot be distinguished by them. Try a lower training.lr, a higher training.contrastive.temperature or a"
        " larger training.batch_size"
    )
