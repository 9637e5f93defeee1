"""What a case comes to: the cells that are read from it, or the refusal, and what was said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.data.autocard import SPLIT, find_card
from celldetr.data.sources import load_samples
from celldetr.errors import InputError
from corpus.scene import MPP, Case

ALIKE = 10.0  # of 255, that pictures may differ by, of JPEG and two colours for many
NEAR = 1.1  # px that a place may be off, of resampling and JPEG


@dataclass
class Reading:
    """Of a case: places and types of the cells, or the refusal; and notes."""

    cells: dict[str, list[tuple[float, float, str]]] = field(default_factory=dict)
    looks: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # of the pictures, in a few pixels
    refusal: str = ""
    notes: list[str] = field(default_factory=list)


def reading(path: Path, mpp: float | None = MPP) -> Reading:
    found = Reading()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            samples = load_samples(find_card(path, mpp), SPLIT)
        except InputError as error:
            found.refusal = str(error)
        else:
            for sample in samples:
                names = (*sample.type_names, "?")
                rows = [(float(x), float(y), names[t]) for (x, y), t in zip(sample.points, sample.types, strict=True)]
                name = Path(sample.name).name
                found.cells[name] = sorted(rows)
                small = Image.fromarray(sample.image).convert("L").resize((30, 20), Image.Resampling.BOX)
                found.looks[name] = np.asarray(small, dtype=np.float64)
            assert all(abs(sample.mpp - MPP) < 1e-6 for sample in samples) or mpp != MPP
    found.notes = [str(each.message) for each in said if "celldetr" in type(each.message).__module__]
    return found


def difference(got: Reading, expected: Reading) -> str:
    """What differs between the cells of two readings; "" for nothing."""
    if len(got.cells) != len(expected.cells):
        return f"images {sorted(got.cells)} instead of {sorted(expected.cells)}"
    for (name, cells), other in zip(
        sorted(got.cells.items()), dict(sorted(expected.cells.items())).values(), strict=True
    ):
        if len(cells) != len(other):
            return f"{name}: {len(cells)} cells instead of {len(other)}"
        theirs = np.array([cell[:2] for cell in other])
        used = set()
        for x, y, kind in cells:
            distance = np.hypot(*(theirs - (x, y)).T)
            nearest = int(distance.argmin())
            if distance[nearest] > NEAR or nearest in used:
                return f"{name}: a cell at ({x:.1f}, {y:.1f}), the nearest of the twin {distance[nearest]:.1f} px away"
            used.add(nearest)
            if other[nearest][2] != kind:
                return f"{name}: type {kind!r} instead of {other[nearest][2]!r}"
    for (name, look), other in zip(
        sorted(got.looks.items()), dict(sorted(expected.looks.items())).values(), strict=True
    ):
        if np.abs(look - other).mean() > ALIKE:
            return f"{name}: another picture, by {np.abs(look - other).mean():.0f} in the mean"
    return ""


def run(case: Case, folder: Path) -> tuple[Reading, str]:
    """What came of a case, and how it differs from its twin."""
    (folder / "case").mkdir(parents=True)
    got = reading(case.make(folder / "case"), case.mpp)
    if got.refusal or case.twin is None:
        return got, ""
    return got, difference(got, expected(case.twin))


@cache
def expected(twin: Callable[[Path], Path]) -> Reading:
    """What comes of a twin, which several cases have."""
    with TemporaryDirectory() as folder:
        return reading(twin(Path(folder)))
