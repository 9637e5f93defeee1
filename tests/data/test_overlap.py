"""What a model was trained on, found again in what it is measured on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from celldetr.data.card import load_card
from celldetr.data.overlap import overlap
from celldetr.data.sample import Sample, image_digest
from celldetr.data.sources import load_samples, rescale
from celldetr.training.data import images_and_patients
from helpers.probe_cells import truth, write_data_set


def images(seed: int, groups: bool = False) -> list[Sample]:
    return [replace(s, digest=image_digest(s.image)) for s in truth(4, 3, seed, groups).samples]


def test_images_are_known_by_their_pixels_and_patients_by_their_names() -> None:
    learned = images(1, groups=True)
    source = {"name": "discs", "split": "train", **images_and_patients([rescale(sample, 0.5) for sample in learned])}
    renamed = [*images(2), replace(learned[2], name="copy", group="")]
    assert overlap([source], "other", "test", renamed).images == ("copy",)
    others = images(3, groups=True)  # the names of the patients are the same
    assert overlap([source], "discs", "test", others).patients == ("patient 0", "patient 1")
    assert not str(overlap([source], "other", "test", others))
    everything = overlap([source], "discs", "test", learned)
    assert str(everything) == "4 images and patients patient 0, patient 1 of the split 'test'"
    assert everything.complete


def test_patients_of_tcga_are_known_in_every_data_set() -> None:
    source = {"name": "a", "split": "train", "images": [], "patients": ["TCGA-A7-A0DB", "7"]}
    tested = [replace(images(1)[0], group=group) for group in ("TCGA-A7-A0DB", "7")]
    assert overlap([source], "b", "test", tested).patients == ("TCGA-A7-A0DB",)


def test_a_card_without_images_is_taken_at_its_word() -> None:
    old = {"name": "discs", "split": "train"}
    assert str(overlap([old], "discs", "train", images(1))) == "the split 'train'"
    assert not str(overlap([old], "discs", "test", images(1)))
    assert not overlap([old], "discs", "test", images(1)).complete


def test_readers_number_pixels(tmp_path: Path) -> None:
    card = load_card(str(write_data_set(tmp_path)))
    read = {split: load_samples(card, split) for split in ("train", "test")}
    digests = [sample.digest for samples in read.values() for sample in samples]
    assert len(set(digests)) == len(digests) == 4
    assert all(sample.digest == image_digest(np.asfortranarray(sample.image)) for sample in read["train"])
