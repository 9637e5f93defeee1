"""Best closed contour around each of many centres, by dynamic programming in polar coordinates.

A contour is one radius per ray. Its score is the sum over rays of the score at that radius, minus a cost for changes
from ray to ray.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEVER = -1e9


def best_radii(score: NDArray[np.floating], largest_step: int, step_cost: float) -> NDArray[np.int64]:
    """Choose a radius on each ray; (N, A) indices.

    Args:
        score: (N, A, R), of N centres, A rays in order of angle, R radii in rising order; higher is better.
        largest_step: by how many radii neighbouring rays may differ.
        step_cost: subtracted per radius of difference.
    """
    count, rays, radii = score.shape
    # Two and a half turns, of which the middle one counts: its first and last ray have seen each other.
    order = [ray % rays for ray in range(2 * rays + rays // 2)]
    steps = np.arange(-largest_step, largest_step + 1)
    total = score[:, order[0]]
    came_from = []
    for ray in order[1:]:
        padded = np.pad(total, ((0, 0), (largest_step, largest_step)), constant_values=NEVER)
        options = np.stack(
            [padded[:, largest_step + step : largest_step + step + radii] - step_cost * abs(step) for step in steps]
        )  # (steps, N, R): the best total of a contour that comes from radius + step
        choice = options.argmax(axis=0)
        came_from.append(steps[choice] + np.arange(radii))
        total = options.max(axis=0) + score[:, ray]
    index = np.arange(count)
    path = np.empty((count, len(order)), dtype=np.int64)
    path[:, -1] = total.argmax(axis=1)
    for position in range(len(order) - 2, -1, -1):
        path[:, position] = came_from[position][index, path[:, position + 1]]
    start = rays // 2
    return np.roll(path[:, start : start + rays], start, axis=1)
