"""A model scored on a data set of other types: each of the model's types is one of the data set's, or is left out.

Several of the model's may be one of the data set's, whose probability is then their sum; of a cell whose type is left
out the best of the others is taken. Cells of types that the model lacks are of unknown type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, near


@dataclass(frozen=True)
class TypeMap:
    """Which type of a data set each of a model's K types is.

    Attributes:
        targets: of each of the model's types, "" where it is left out.
        names: the L types of the data set that some type of the model is, in the order of the data set.
        without: types of the data set that none is.
    """

    targets: tuple[str, ...]
    names: tuple[str, ...]
    without: tuple[str, ...]

    def merge(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K) probabilities of the model's types -> (N, L), rows summing to 1.

        A row in which only types that are left out have a probability is the same for all others.
        """
        table = np.array([[target == name for name in self.names] for target in self.targets], dtype=np.float32)
        merged = probabilities @ table.reshape(len(self.targets), len(self.names))
        total = merged.sum(axis=1, keepdims=True)
        even = np.full_like(merged, 1 / len(self.names))
        return np.divide(merged, total, out=even, where=total > 0)


def type_map(pairs: Mapping[str, str], model: Sequence[str], dataset: Sequence[str]) -> TypeMap:
    """Say of each of a model's types which of a data set's it is.

    Args:
        pairs: type -> type or "", step by step: fine to coarse to coarser, until a type of the data set is met. A type
            that the data set has itself needs no entry. Names that the model does not have are ignored, so that
            one hierarchy serves many models.
        model, dataset: their types.

    Raises:
        InputError: a type of the model has no entry, or none of the data set's at its end; no type is left.
    """
    targets = []
    for name in model:
        if name not in pairs and name not in dataset:
            raise InputError(
                f"type map: says nothing of the model's type {name!r}; which of {', '.join(dataset)} is it? {name}: for"
                " none"
            )
        current, seen = pairs.get(name, name), {name}
        while current and current not in dataset:
            if current in seen or current not in pairs:
                raise InputError(
                    f"type map: the model's type {name!r} is {current!r}, which the data set does not have;"
                    f" {near(current, dataset)}"
                )
            seen.add(current)
            current = pairs[current]
        targets.append(current)
    names = tuple(name for name in dataset if name in targets)
    if not names:
        raise InputError(f"type map: none of the model's types ({', '.join(model)}) is one of {', '.join(dataset)}")
    return TypeMap(tuple(targets), names, tuple(name for name in dataset if name not in targets))
