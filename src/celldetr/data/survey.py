"""What celldetr sees in files before it works on them: labels as training reads them, slides as prediction does.

The same readers and checks are used as by the commands; nothing is judged here that they would not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from celldetr.data.autocard import SPLIT, find_card
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.data.sources import load_samples
from celldetr.errors import DataWarning, InputError
from celldetr.io.safe_io import is_dir, shown_path
from celldetr.slide.find import find_slides
from celldetr.slide.reader import IMAGES, SLIDES, open_slide

UNTOLD = "no class"


@dataclass
class Finding:
    """What one path holds.

    Attributes:
        path: the file or folder, as given.
        kind: ``labels`` or ``slide``; "" if it is neither.
        facts: name and value of what was seen, in the order to be shown.
        notes: what is doubtful or left out, one sentence each.
        refusal: why it cannot be used; "" if it can.
        samples: the labelled images.
    """

    path: Path
    kind: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusal: str = ""
    samples: Sequence[Sample] = ()

    @property
    def is_doubtful(self) -> bool:
        """Whether something is to be looked at before this is used."""
        return bool(self.notes or self.refusal)


def survey(path: Path, mpp: float | None = None) -> list[Finding]:
    """Look at a path: a slide, a folder or list of slides, or labels (a folder, a file, or a card).

    Args:
        path: it.
        mpp: micrometres per pixel, instead of what files say.
    """
    if path.suffix.lower() in SLIDES | IMAGES and not is_dir(path):
        return [_slide(path, mpp)]
    labels = _labels(path, mpp)
    if not labels.refusal or not (is_dir(path) or path.suffix.lower() in (".txt", ".csv")):
        return [labels]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DataWarning)
        try:
            slides = find_slides([path])
        except InputError:
            return [labels]
    if any(slide.path.suffix.lower() in SLIDES for slide in slides) or "no labels" in labels.refusal:
        findings = [_slide(slide.path, mpp or slide.mpp) for slide in slides]
        return [Finding(path, "slides", {"slides": f"{len(slides):,}"}, _texts(said)), *findings]
    return [labels]


def _texts(said: list[warnings.WarningMessage]) -> list[str]:
    return list(dict.fromkeys(str(each.message) for each in said if issubclass(each.category, DataWarning)))


def _slide(path: Path, mpp: float | None) -> Finding:
    finding = Finding(path, "slide")
    try:
        with open_slide(path, mpp) as slide:
            reductions = ", ".join(f"{level.downsample[0]:.4g}" for level in slide.levels)
            finding.facts = {
                "format": slide.format,
                "size": f"{slide.width:,} x {slide.height:,} px",
                "mpp": f"{slide.mpp:.4g} ({slide.mpp_source})",
                "levels": f"{len(slide.levels)} (reductions {reductions})",
            }
            finding.notes = list(slide.warnings)
    except InputError as error:
        finding.refusal = str(error)
    return finding


def _labels(path: Path, mpp: float | None) -> Finding:
    finding = Finding(path, "labels")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DataWarning)
        try:
            card = find_card(str(path), mpp)
            for split in card.splits if SPLIT not in card.splits else [SPLIT]:
                finding.samples = [*finding.samples, *load_samples(card, split)]
            finding.facts = {"format": card.format, **_facts(finding.samples)}
        except InputError as error:
            finding.refusal = str(error)
    finding.notes = _texts(said)
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


def table(finding: Finding) -> list[str]:
    """Lines of text that show a finding."""
    name = shown_path(finding.path)
    lines = [f"{name}: {finding.kind}" if not finding.refusal else f"{name}: cannot be used"]
    width = max(map(len, finding.facts), default=0)
    lines += [f"  {key:{width}}  {value}" for key, value in finding.facts.items()]
    lines += [f"  refused: {finding.refusal}"] if finding.refusal else []
    return [*lines, *(f"  doubtful: {note}" for note in finding.notes)]
