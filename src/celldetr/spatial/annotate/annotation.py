"""Annotation: a probability for each cell and type, which every method of typing cells returns; and its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.section import PROBABILITY

if TYPE_CHECKING:
    import anndata
    import pandas as pd

Progress = Callable[[float], None]  # called with the share that is done, 0 to 1


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

    def __len__(self) -> int:
        return len(self.probabilities)


class Annotator(Protocol):
    """A method of typing cells. To add one: a class with this method, and a line in ``annotate.cells``."""

    def annotate(self, section: anndata.AnnData, progress: Progress | None = None) -> Annotation:
        """Type the cells of a section.

        Args:
            section: cells by genes, whole counts in ``X``; ``obs_names`` are the cell ids.
            progress: called now and then.

        Raises:
            InputError: it cannot be done with these inputs; the message says what to do.
        """
        ...


def uniform(n: int, k: int) -> NDArray[np.float32]:
    """(n, k) of equal probabilities."""
    return np.full((n, k), 1 / k, dtype=np.float32)


def types_table(annotation: Annotation, cell_ids: Sequence[str]) -> pd.DataFrame:
    """The table ``TYPES`` of N cells, with a float32 column "p: NAME" for each type.

    A cell of which nothing is known has type and second "" and margin 0. With a single type, second is "" and the
    margin is its probability.
    """
    import pandas as pd

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
    return pd.DataFrame(columns | {f"{PROBABILITY}{name}": p[:, k] for k, name in enumerate(annotation.types)})
