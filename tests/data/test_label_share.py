"""A source read with fewer labels: which cells keep their type, and that all stay; or with fewer images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from celldetr.config import DataSource, parse
from celldetr.data.sample import UNKNOWN
from celldetr.data.sources import load_source
from celldetr.errors import InputError
from helpers.folders import write_card, write_csv, write_image


def test_a_source_can_be_read_with_fewer_labels(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(tmp_path / "train" / "images" / f"{name}.png", seed)
        cells = [[10 + 4 * i, 10 + 4 * j, "rl"[(i + j) % 2]] for i in range(8) for j in range(5)]
        write_csv(tmp_path / "train" / "labels" / f"{name}.csv", [["x", "y", "class"], *cells])
    write_card(tmp_path)
    path, types = str(tmp_path / "toy.yaml"), ("round", "long")

    def read(share: float, seed: int) -> np.ndarray:
        samples = load_source(DataSource(card=path, split="train", label_share=share, label_seed=seed), types, 0.5)
        assert [len(sample.boxes) for sample in samples] == [40, 40]
        return np.concatenate([sample.types for sample in samples])

    full, tenth, fifth, other = read(1, 0), read(0.1, 0), read(0.2, 0), read(0.1, 1)
    assert np.bincount(full).tolist() == [40, 40]
    assert np.bincount(tenth[tenth != UNKNOWN]).tolist() == [4, 4]  # of both images together
    assert ((tenth == UNKNOWN) | (tenth == full)).all()
    assert ((tenth == UNKNOWN) | (tenth == fifth)).all()
    assert (other != tenth).any()


@pytest.mark.slow
def test_a_source_can_be_read_with_fewer_images(tmp_path: Path) -> None:
    names = "abcdefghij"
    for seed, name in enumerate(names):
        write_image(tmp_path / "train" / "images" / f"{name}.png", seed)
        cells = [] if name == "c" else [[10, 10 + 4 * j, "rl"[j % 2]] for j in range(5)]
        write_csv(tmp_path / "train" / "labels" / f"{name}.csv", [["x", "y", "class"], *cells])
    write_card(tmp_path)

    def read(share: float, seed: int) -> list[str]:
        source = DataSource(card=str(tmp_path / "toy.yaml"), split="train", image_share=share, label_seed=seed)
        samples = load_source(source, ("round", "long"), 0.5)
        assert all((sample.types != UNKNOWN).all() for sample in samples)
        return [sample.name for sample in samples]

    assert read(1, 0) == list(names)
    drawn = [read(share, 0) for share in (0.01, 0.25, 0.5)]
    assert [len(part) for part in drawn] == [1, 2, 4]  # of nine that have cells
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2])
    assert all(part == sorted(part) and "c" not in part for part in drawn)
    assert len({tuple(read(0.25, seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("key", ["label_share", "image_share"])
@pytest.mark.parametrize("share", [0, 1.5, -0.1])
def test_a_share_is_more_than_nothing_and_at_most_all(key: str, share: float) -> None:
    with pytest.raises(InputError, match=key):
        parse(DataSource, {"card": "x", "split": "train", key: share}, "source")
