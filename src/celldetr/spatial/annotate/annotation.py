"""Annotation: a probability for each cell and type, which every method of typing cells returns; and its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.section import PROBABILITY

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[float], None]  # called with the share that is done, 0 to 1


@dataclass(frozen=True)
class Annotation:
    """Types of N cells."""

    probabilities: NDArray[np.float32]  # (N, K) rows sum to 1, or to less where a hierarchy makes part of it unknown
    types: tuple[str, ...]  # K names
    known: NDArray[np.bool_]  # (N,) whether anything is known of the cell; where not, its row is uniform
    facts: dict[str, Any] = field(default_factory=dict)  # method, version, genes shared ... JSON-able

    def table(self, cell_ids: NDArray[np.object_]) -> pd.DataFrame:
        """The table ``TYPES`` of the cells, with a float32 column "p: NAME" for each type.

        A cell of which nothing is known has type and second "" and margin 0. With a single type, second is "" and the
        margin is its probability.
        """
        import pandas as pd

        p = np.hstack([self.probabilities, np.zeros((len(self.known), 1), np.float32)])  # of no type: second to one
        names = np.array([*self.types, ""], dtype=object)
        rows = np.arange(len(p))
        first = p[:, :-1].argmax(axis=1)
        best = p[rows, first]
        p[rows, first] = -1
        second = p.argmax(axis=1)
        columns: dict[str, Any] = {
            "cell_id": cell_ids,
            "type": np.where(self.known, names[first], ""),
            "probability": best,
            "margin": np.where(self.known, best - p[rows, second], np.float32(0)),
            "second": np.where(self.known, names[second], ""),
        }
        columns |= {f"{PROBABILITY}{name}": self.probabilities[:, k] for k, name in enumerate(self.types)}
        return pd.DataFrame(columns)


def uniform(n: int, k: int) -> NDArray[np.float32]:
    """(n, k) of equal probabilities."""
    return np.full((n, k), 1 / k, dtype=np.float32)
