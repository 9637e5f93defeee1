"""Confidences and spots stay with their nuclei through every cut, turn and change of types, and through a shard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.data.augment import corner_at, crop, orient
from celldetr.data.dataset import as_tensors, collate
from celldetr.data.label_share import with_label_share
from celldetr.data.patch_set import PatchSet
from celldetr.data.sample import Sample
from celldetr.data.sources import map_types, rescale
from celldetr.data.spots import Spots
from celldetr.data.tiling import pieces
from helpers.patches import random_patch, write_set

TYPES = ("a", "b", "c")


def sample(seed: int, count: int = 30) -> Sample:
    """Each nucleus' confidence is a number of its own, by which it is known again."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(3, 61, (count, 2)).astype(np.float32)
    boxes = np.concatenate([points - 2, points + 2], axis=1)
    compositions = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    return Sample(
        name=f"s{seed}",
        image=rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        mpp=0.5,
        boxes=boxes,
        types=rng.integers(-1, 3, count),
        type_names=TYPES,
        points=points,
        confidence=(np.arange(1, count + 1) / count).astype(np.float32),
        spots=Spots(rng.integers(-1, 6, count), compositions),
    )


def spots_of(one: Sample) -> dict[tuple[float, ...], set[float]]:
    """Composition -> confidences of its nuclei: spots without their numbers."""
    assert one.spots is not None
    assert one.confidence is not None
    sure = one.confidence
    return {
        tuple(shares): set(sure[one.spots.of == number].tolist())
        for number, shares in enumerate(one.spots.compositions.tolist())
        if (one.spots.of == number).any()
    }


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 50), x=st.floats(0, 1), y=st.floats(0, 1), zoom=st.floats(0.6, 2.5), which=st.integers(0, 7))
def test_a_spot_that_is_cut_is_none(seed: int, x: float, y: float, zoom: float, which: int) -> None:
    whole = sample(seed)
    part = orient(crop(whole, 48, zoom, corner_at(whole.image.shape, 48 / zoom, np.array([x, y]))), which)
    assert part.confidence is not None
    assert whole.confidence is not None
    left = set(part.confidence.tolist())
    types = dict(zip(whole.confidence.tolist(), whole.types.tolist(), strict=True))
    assert [types[c] for c in part.confidence.tolist()] == part.types.tolist()
    assert spots_of(part) == {shares: nuclei for shares, nuclei in spots_of(whole).items() if nuclei <= left}


def test_pieces_and_other_resolutions() -> None:
    whole = sample(1)
    parts = list(pieces(rescale(whole, 0.25), 64))
    assert sorted(c for part in parts for c in part.confidence.tolist()) == sorted(whole.confidence.tolist())
    kept = {shares: nuclei for part in parts for shares, nuclei in spots_of(part).items()}
    assert kept.items() <= spots_of(whole).items()
    assert spots_of(rescale(whole, 0.25)) == spots_of(whole)


def test_types_of_a_model() -> None:
    whole = replace(
        sample(2), spots=Spots(np.arange(30) % 3, np.array([[0.5, 0.3, 0.2], [0.5, 0.45, 0.05], [0, 0, 1]], np.float32))
    )
    (mapped,) = map_types([whole], ("x", "y"), {"a": "y", "b": "x", "c": ""})
    assert mapped.spots.compositions == pytest.approx(np.array([[0.45, 0.5]]) / 0.95)  # the others are of c, in part
    assert mapped.spots.of.tolist() == [0 if i % 3 == 1 else -1 for i in range(30)]
    (joined,) = map_types([whole], ("x",), dict.fromkeys(TYPES, "x"))
    assert joined.spots.compositions.tolist() == [[1], [1], [1]]
    assert mapped.confidence.tolist() == whole.confidence.tolist()
    assert with_label_share([whole], 0.5, 0)[0].spots is None  # they would tell what is to be unknown


def test_crops_become_a_batch() -> None:
    plain = replace(sample(3), confidence=None, spots=None)
    first, second = collate([as_tensors(plain), as_tensors(sample(3))]).targets
    assert first.confidence.tolist() == [1.0] * 30
    assert [len(each.compositions) for each in (first, second)] == [0, 6]
    assert second.spots.tolist() == sample(3).spots.of.tolist()


def test_what_disagrees_is_no_sample() -> None:
    with pytest.raises(ValueError, match="confidences"):
        replace(sample(0), confidence=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="2 types"):
        replace(sample(0), spots=Spots(np.full(30, -1), np.zeros((0, 2), np.float32)))
    with pytest.raises(ValueError, match="sum to 1"):
        Spots(np.zeros(3, np.int64), np.array([[0.5, 0.4]], np.float32))


def test_a_patch_set_gives_them_back(tmp_path: Path) -> None:
    confidence = np.linspace(0, 1, 5, dtype=np.float32)
    spots = Spots(np.array([0, -1, 0, -1, 0]), np.array([[0.25, 0.75], [1, 0]], np.float32))
    first = replace(random_patch("s", 4, cells=5, types=2), confidence=confidence, spots=spots)
    write_set(tmp_path, {"s": [first, random_patch("s", 5, cells=0)]}, types=("a", "b"))
    soft, plain = PatchSet(tmp_path)
    assert soft.confidence is not None
    assert soft.spots is not None
    assert soft.confidence.tolist() == confidence.tolist()
    assert soft.spots.of.tolist() == spots.of.tolist()
    assert soft.spots.compositions.tolist() == spots.compositions.tolist()
    assert (plain.confidence, plain.spots) == (None, None)
