"""Labels as training reads them: images, nuclei and types, and what the checks of the readers say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from celldetr.data.autocard import SPLIT, find_card
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.data.sources import load_samples
from celldetr.report.contact_sheet import Picture
from celldetr.survey.finding import Finding

UNTOLD = "no class"


def look_at_labels(path: Path, mpp: float | None) -> Finding:
    """Read a folder, a file, or a card of labels."""
    finding = Finding(path, "labels")
    samples: list[Sample] = []
    with finding.noting():
        card = find_card(str(path), mpp)
        for split in card.splits if SPLIT not in card.splits else [SPLIT]:
            samples += load_samples(card, split, shapes="outlines")
        finding.facts = {"format": card.format, **_facts(samples)}
    finding.pictures = [
        Picture(each.image, each.boxes, f"{len(each)} nuclei, {each.name}", each.outlines) for each in samples
    ]
    return finding


def _facts(samples: Sequence[Sample]) -> dict[str, str]:
    """Sizes, resolutions, nuclei and types of labelled images."""
    sides = sorted({sample.image.shape[1::-1] for sample in samples})
    resolutions = sorted({f"{sample.mpp:.4g}" for sample in samples})
    counts: dict[str, int] = {}
    for sample in samples:
        names = (*sample.type_names, UNTOLD)
        for kind in sample.types.tolist():
            name = names[kind] if kind != UNKNOWN else UNTOLD
            counts[name] = counts.get(name, 0) + 1
    sizes = [np.sqrt(np.prod(sample.boxes[:, 2:] - sample.boxes[:, :2], axis=1)) * sample.mpp for sample in samples]
    together = np.concatenate(sizes) if sizes else np.zeros(0)
    derived = any(sample.derived_boxes for sample in samples)
    median = f"{np.median(together):.1f} um{' (boxes from points)' if derived else ''}" if len(together) else "-"
    empty = sum(not len(sample) for sample in samples)
    return {
        "images": f"{len(samples):,}" + (f", {empty:,} of them without nuclei" if empty else ""),
        "size": f"{sides[0][0]} x {sides[0][1]} px" + (f" to {sides[-1][0]} x {sides[-1][1]} px" if sides[1:] else ""),
        "mpp": resolutions[0] + (f" to {resolutions[-1]}" if resolutions[1:] else ""),
        "nuclei": f"{len(together):,}",
        "median size": median,
        "types": ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda each: -each[1])),
    }
