"""The share of attention in masks over a data set, with a network whose attention is known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celldetr.data.autocard import SPLIT, find_card
from celldetr.data.card import load_card
from celldetr.data.masks import number_nuclei
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.model.attention_trace import AttentionTrace
from celldetr.research.attention import attention_inside, masked_samples

MPP = 0.25


def ellipses(width: int = 400, height: int = 300) -> tuple[Sample, np.ndarray]:
    """A grid of ellipses, numbered with gaps, and their boxes."""
    instances = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width] + 0.5
    boxes = []
    for number, (cy, cx) in enumerate((cy, cx) for cy in range(40, 280, 60) for cx in range(30, 390, 50)):
        instances[((x - cx) / 20) ** 2 + ((y - cy) / 12) ** 2 < 1] = 3 * number + 2
        boxes.append([cx - 20, cy - 12, cx + 20, cy + 12])
    corners = np.array(boxes, np.float32)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    image = np.zeros((height, width, 3), np.uint8)
    types = np.zeros(len(boxes), np.int64)
    masks = number_nuclei(instances)[1]
    return Sample("grid", image, MPP, corners, types, ("a",), centres, masks=masks), instances


def even(image: np.ndarray, boxes: np.ndarray) -> AttentionTrace:
    """First layer: evenly over the box. Second: a quarter of the weight at the centre, the rest right of the box."""
    steps = (np.arange(40) + 0.5) / 40
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(1, 1, 1, -1, 2)
    low, size = boxes[:, None, None, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None, None, None]
    everywhere = low + grid * size
    twice = np.broadcast_to(low + size * [1.1, 0.5], everywhere.shape).copy()
    twice[:, :, :, :400] = low + size / 2
    locations = np.stack([everywhere, twice]).astype(np.float32)
    weights = np.full(locations.shape[:-1], 1 / 1600, np.float32)
    return AttentionTrace(boxes, (4,), locations, weights, np.zeros((len(boxes), 1), np.float32))


@pytest.mark.parametrize("mpp", [MPP, 0.5, 0.37])
@pytest.mark.parametrize("tile", [1000, 90])
def test_known_attention(mpp: float, tile: int) -> None:
    sample, instances = ellipses()
    found = attention_inside(even, mpp, [sample] * 2, tile)
    assert found.cells == 2 * len(sample)
    fill = np.count_nonzero(instances) / (len(sample) * 40 * 24)  # of pixels; pi / 4 of the ellipse itself
    assert fill == pytest.approx(np.pi / 4, abs=0.02)
    assert found.mask_of_box == pytest.approx(fill)
    assert found.in_mask == pytest.approx((fill, 0.25), abs=0.01)
    assert found.in_box == pytest.approx((1, 0.25), abs=1e-6)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    sample, _ = ellipses()
    empty = sample.keep(np.zeros(len(sample), bool))
    with pytest.raises(InputError, match="no nucleus"):
        attention_inside(even, MPP, [empty], 100)
    points = tmp_path / "points"
    points.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(points / "a.png")
    (points / "a.csv").write_text("20,20,a\n")
    with pytest.raises(InputError, match="has no masks"):
        masked_samples(find_card(points, 0.5), SPLIT)


@pytest.mark.slow
def test_masks_come_with_their_boxes(shared_data, monkeypatch) -> None:
    monkeypatch.setenv("CELLDETR_DATA", str(shared_data))
    sample = masked_samples(load_card("consep"), "test")[0]
    assert sample.masks is not None
    instances = sample.masks.map(sample.image.shape)
    assert instances.max() == len(sample)
    for number, box in list(enumerate(sample.boxes, 1))[::50]:
        y, x = np.nonzero(instances == number)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
