"""Images and patients that a model has learned from, recorded in its card and looked for in what it is measured on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from celldetr.data.sample import Grouped, patients

# Patients have names of this kind in many data sets; other names mean somebody in their own data set alone.
SHARED_NAME = re.compile(r"TCGA-\w\w-\w{4}")


class Labelled(Grouped, Protocol):
    """A labelled image: fields of ``Sample`` of these names."""

    @property
    def digest(self) -> str:
        """Of the pixels."""


@dataclass(frozen=True)
class Overlap:
    """What is in a model's training data and in what it is measured on.

    Attributes:
        images: names of the images of equal pixels.
        patients: patients of other images as well.
        complete: whether the images and patients of all of the training data are known.
        split: name of the split.
        named: whether the card names this split, and does not say of which images and patients it was.
    """

    images: tuple[str, ...]
    patients: tuple[str, ...]
    complete: bool
    split: str
    named: bool

    def __str__(self) -> str:
        """What the model was trained on, for people; "" where nothing is known to be shared."""
        if self.named:
            return f"the split {self.split!r}"
        images = f"{len(self.images)} image{'s' * (len(self.images) != 1)}" if self.images else ""
        patients = f"patient{'s' * (len(self.patients) != 1)} {', '.join(self.patients)}" if self.patients else ""
        what = " and ".join(part for part in (images, patients) if part)
        return what and f"{what} of the split {self.split!r}"


def overlap(sources: Iterable[Mapping[str, Any]], dataset: str, split: str, images: Sequence[Labelled]) -> Overlap:
    """Find what a model has learned from among some images.

    Args:
        sources: of its training data, from its card.
        dataset, split: names of what the images are of.
        images: all of them.
    """
    sources = list(sources)
    digests = {digest for source in sources for digest in source.get("images", ())}
    same = {name for source in sources if source.get("name") == dataset for name in source.get("patients", ())}
    everywhere = {name for source in sources for name in source.get("patients", ()) if SHARED_NAME.fullmatch(name)}
    return Overlap(
        tuple(image.name for image in images if image.digest and image.digest in digests),
        tuple(sorted(patients(images) & (same | everywhere))),
        all("images" in source for source in sources),
        split,
        any((s.get("name"), s.get("split"), "images" in s) == (dataset, split, False) for s in sources),
    )
