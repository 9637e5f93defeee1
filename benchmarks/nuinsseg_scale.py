"""Micrometres per pixel of NuInsSeg, from nuclei whose size is known: a table of diameters by organ, in pixels.

The source does not state its resolution. Diameters are of a circle of the nucleus's area. The references are CoNSeP's
inflammatory cells (0.275 um per pixel) and all nuclei of MoNuSeg and TNBC (0.25).

    CELLDETR_DATA=<folder of the data sets> python benchmarks/nuinsseg_scale.py
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from celldetr.data.card import load_card
from celldetr.data.masks import InstanceMap
from celldetr.data.sources import load_samples

# Nuclei of one kind make up most of these organs: the kind, and its diameter in paraffin sections (textbooks).
KNOWN = {
    "human_liver": ("hepatocytes", "6 to 8 um"),
    "human_cerebellum": ("granule cells", "5 to 6 um"),
    "human_spleen": ("lymphocytes", "5 to 6 um"),
    "human_tonsil": ("lymphocytes", "5 to 6 um"),
    "mouse_spleen": ("lymphocytes", "4 to 5 um"),
    "mouse_thymus": ("thymocytes", "4 to 5 um"),
}


def diameters(card: str, splits: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Group -> (N,) diameters in pixels."""
    found = defaultdict(list)
    for split in splits:
        for sample in load_samples(load_card(card), split, shapes="masks"):
            assert isinstance(sample.masks, InstanceMap)
            found[sample.group].append(np.sqrt(sample.masks.extents()[1] * 4 / np.pi))
    return {group: np.concatenate(parts) for group, parts in found.items()}


def main() -> None:
    organs = diameters("nuinsseg", ("train", "val", "test"))
    print(f"{'organ':24s} {'nuclei':>6s} {'median px':>9s}   at .15   at .165  at .18  at .20   expected")
    for organ, px in sorted(organs.items()):
        median = float(np.median(px))
        kind, size = KNOWN.get(organ, ("", ""))
        scaled = "  ".join(f"{median * mpp:6.2f}" for mpp in (0.15, 0.165, 0.18, 0.2))
        print(f"{organ:24s} {len(px):6d} {median:9.1f}   {scaled}   {kind} {size}".rstrip())
    for card, splits, mpp in (("monuseg-train", ("all",), 0.25), ("tnbc", ("train", "val", "test"), 0.25)):
        px = np.concatenate(list(diameters(card, splits).values()))
        print(f"{card:24s} {len(px):6d} {float(np.median(px)):9.1f}   {float(np.median(px)) * mpp:6.2f} um at {mpp}")


if __name__ == "__main__":
    main()
