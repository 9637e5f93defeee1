"""What every way of typing cells returns: a probability for each cell and type; and the table that is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.schemas import PROBABILITY, TYPES

if TYPE_CHECKING:
    import anndata
    import pandas as pd

Progress = Callable[[float], None]  # told the share that is done, 0 to 1
CONFIDENT = (0.5, 0.8, 0.95)  # probabilities from which a summary counts cells


@dataclass(frozen=True)
class Annotation:
    """Types of N cells.

    Attributes:
        probabilities: (N, K) float32; rows sum to 1, or to less where a hierarchy makes part of it unknown.
        types: (K,) names.
        known: (N,) whether anything is known of the cell; where not, its row is uniform, and the table's type is "".
        facts: method, version, seconds, genes shared ... JSON-able.
    """

    probabilities: NDArray[np.float32]
    types: tuple[str, ...]
    known: NDArray[np.bool_]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, k = self.probabilities.shape
        if k != len(self.types) or k < 1 or self.known.shape != (n,):
            shapes = f"probabilities {self.probabilities.shape}, {len(self.types)} types, known {self.known.shape}"
            raise ValueError(f"{shapes} disagree")

    def __len__(self) -> int:
        return len(self.probabilities)


class Annotator(Protocol):
    """A way of typing cells. To add one: a class with this method, and a line in ``annotate.ANNOTATORS``."""

    def annotate(self, section: anndata.AnnData, progress: Progress | None = None) -> Annotation:
        """Type the cells of a section.

        Args:
            section: cells by genes, whole counts in ``X``; ``obs_names`` are the cell ids.
            progress: told now and then how far it is.

        Raises:
            InputError: it cannot be done with these inputs; the message says what to do.
        """
        ...


def uniform(n: int, k: int) -> NDArray[np.float32]:
    """(n, k) of the probability that says nothing."""
    return np.full((n, k), 1 / k, dtype=np.float32)


def table(annotation: Annotation, cell_ids: Sequence[str]) -> pd.DataFrame:
    """The table of step 3: ``steps.TYPES``, and a float32 column "p: NAME" for each type.

    A cell of which nothing is known has type and second "" and margin 0. With a single type, second is "" and the
    margin is its probability.

    Raises:
        ValueError: as many ids as cells are needed.
    """
    import pandas as pd

    if len(cell_ids) != len(annotation):
        raise ValueError(f"{len(cell_ids)} cell ids for {len(annotation)} cells")
    p = annotation.probabilities
    rows = np.arange(len(p))
    names = np.array(annotation.types, dtype=object)
    first = p.argmax(axis=1)
    rest = p.copy()
    rest[rows, first] = -1.0
    second = rest.argmax(axis=1)
    best = p[rows, first]
    single = len(names) == 1
    margin = best if single else best - p[rows, second]
    columns: dict[str, Any] = {
        "cell_id": [str(name) for name in cell_ids],
        "type": np.where(annotation.known, names[first], ""),
        "probability": best,
        "margin": np.where(annotation.known, margin, 0).astype(np.float32),
        "second": np.where(annotation.known & (not single), names[second], ""),
    }
    assert list(columns) == list(TYPES)
    columns |= {f"{PROBABILITY}{name}": p[:, k] for k, name in enumerate(annotation.types)}
    return pd.DataFrame(columns)


def summary(annotation: Annotation) -> dict[str, Any]:
    """Numbers for a report: cells of each type, how sure of them, and how many are of no known type. JSON-able."""
    p, known = annotation.probabilities, annotation.known
    first, best = p.argmax(axis=1), p.max(axis=1)
    per_type = {}
    for k, name in enumerate(annotation.types):
        mine = best[known & (first == k)]
        per_type[name] = {
            "cells": len(mine),
            "share": float(len(mine) / max(len(p), 1)),
            "mean_probability": float(mine.mean()) if len(mine) else None,
            "confident": int((mine >= CONFIDENT[1]).sum()),
        }
    return {
        "cells": len(p),
        "unknown": int((~known).sum()),
        "confident": {str(limit): int((known & (best >= limit)).sum()) for limit in CONFIDENT},
        "median_probability": float(np.median(best[known])) if known.any() else None,
        "types": per_type,
        "facts": annotation.facts,
    }
