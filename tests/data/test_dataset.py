"""Training crops depend on seed and index only, and are drawn by area and weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.ops import box_convert

from celldetr.config import AugmentConfig
from celldetr.data.augment import augment
from celldetr.data.dataset import Batch, TrainingSet, as_tensors, collate
from celldetr.data.sample import Sample
from celldetr.errors import InputError

CONFIG = AugmentConfig(crop=32)
STILL = AugmentConfig(crop=32, scale=(1, 1), orientations=False, stain_p=0, colour_p=0, blur_p=0)


def flat(width: int, height: int, grey: int) -> Sample:
    boxes = np.array([[4, 4, 12, 20]], dtype=np.float32)
    image = np.full((height, width, 3), grey, dtype=np.uint8)
    return Sample(f"{grey}", image, 0.5, boxes, np.array([1]), ("a", "b"), boxes[:, :2] + 4)


def textured(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (30, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 12, (30, 2))], axis=1).astype(np.float32)
    image = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    return Sample(f"t{seed}", image, 0.5, boxes, rng.integers(-1, 2, 30), ("a", "b"), (boxes[:, :2] + boxes[:, 2:]) / 2)


def batches(start: int, workers: int = 0) -> list[Batch]:
    data = TrainingSet([textured(0), textured(1)], CONFIG, seed=7, length=12)
    part = Subset(data, range(start, len(data)))
    return list(DataLoader(part, batch_size=3, collate_fn=collate, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_what_it_would_have_seen(workers: int) -> None:
    for whole, resumed in zip(batches(0)[2:], batches(6, workers), strict=True):
        assert torch.equal(whole.images, resumed.images)
        for ours, theirs in zip(whole.targets, resumed.targets, strict=True):
            for name in vars(ours):  # outlines that are not known are NaN
                torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=0, equal_nan=True)


def test_indices_and_seeds_give_different_crops() -> None:
    one, other = (TrainingSet([textured(0)], CONFIG, seed=seed, length=5) for seed in (1, 2))
    images = [crop.image.numpy().tobytes() for data in (one, other) for crop in (data[index] for index in range(5))]
    assert len(set(images)) == 10


def test_images_are_drawn_by_area_and_weight() -> None:
    samples = [flat(32, 32, 10), flat(64, 64, 100), flat(64, 32, 200)]  # areas 1 : 4 : 2
    data = TrainingSet(samples, STILL, seed=0, length=1500, weights=[1, 1, 2.5])
    greys = np.array([int(data[index].image[0, 0, 0]) for index in range(len(data))])
    shares = [(greys == grey).mean() for grey in (10, 100, 200)]
    assert shares == pytest.approx([0.1, 0.4, 0.5], abs=0.045)


def test_tensors_are_those_of_the_sample() -> None:
    sample = augment(textured(4), STILL, np.random.default_rng(0))
    crop = as_tensors(sample)
    assert crop.image.shape == (3, 32, 32)
    assert crop.image.dtype == torch.uint8
    assert np.array_equal(crop.image.permute(1, 2, 0).numpy(), sample.image)
    targets = crop.targets
    assert targets.boxes.dtype == targets.confidence.dtype == targets.compositions.dtype == torch.float32
    assert targets.types.dtype == targets.spots.dtype == targets.identities.dtype == torch.int64
    absolute = box_convert(targets.boxes * 32, "cxcywh", "xyxy")
    assert absolute.numpy() == pytest.approx(sample.boxes, abs=1e-4)
    assert targets.types.tolist() == sample.types.tolist()


def test_a_batch_keeps_images_apart_even_without_nuclei() -> None:
    empty = textured(0)
    empty = Sample("e", empty.image, 0.5, empty.boxes[:0], empty.types[:0], ("a", "b"), empty.points[:0])
    crops = [TrainingSet([sample], STILL, 0, 1)[0] for sample in (textured(1), empty)]
    batch = collate(crops)
    assert batch.images.shape == (2, 3, 32, 32)
    assert [len(each) for each in batch.targets] == [len(crops[0].targets), 0]
    assert batch.targets[1].boxes.shape == (0, 4)


def test_ends_and_mistakes() -> None:
    data = TrainingSet([textured(0)], STILL, 0, 2)
    assert len(data) == 2
    with pytest.raises(IndexError):
        data[2]
    with pytest.raises(InputError, match="no training image"):
        TrainingSet([], STILL, 0, 2)
    for weights in ([1.0, 2.0], [-1.0], [0.0], [float("nan")]):
        with pytest.raises(InputError, match="weights"):
            TrainingSet([textured(0)], STILL, 0, 2, weights)
