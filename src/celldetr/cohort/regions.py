"""A slide cut into regions: some neighbouring bands of tiles, the task of one worker.

Detecting a region is idempotent: every worker writes the same bands, which appear as whole files in the slide's working
folder, and bands that are there already are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from celldetr.slide.band_cache import BandCache
from celldetr.slide.parts import PartStore
from celldetr.slide.plan import Plan


def missing_bands(plan: Plan, parts: PartStore, cache: BandCache) -> list[int]:
    """The bands that are neither settled nor detected, by what is on disk."""
    settled = {info.band for info in parts.infos(plan.bands)}
    return [band for band in plan.bands if band not in settled and not cache.has(band)]


def count_tiles(plan: Plan, bands: Iterable[int]) -> int:
    """Tiles to read in some bands."""
    return sum(int(plan.selected[band].sum()) for band in bands)


def area_of(plan: Plan, bands: Iterable[int]) -> float:
    """mm2 that these tiles own."""
    return sum(float(plan.areas[band][plan.selected[band]].sum()) for band in bands)


def cut_regions(plan: Plan, bands: Sequence[int], least: int) -> list[list[int]]:
    """Share out bands, in their order, into regions of at least ``least`` tiles; the last may have fewer."""
    regions: list[list[int]] = []
    tiles = least
    for band in bands:
        if tiles >= least:
            regions.append([])
            tiles = 0
        regions[-1].append(band)
        tiles += count_tiles(plan, [band])
    return regions
