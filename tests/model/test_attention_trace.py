"""Traced locations and weights: the layer's own output follows from them, point by point; shares by brute force."""

import math

import numpy as np
import pytest
import torch

from celldetr.config import ModelConfig
from celldetr.model.attention_trace import AttentionTrace, trace_attention
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.research.attention import share_in_mask

BOXES = np.array([[10, 12, 22, 30], [40.5, 20, 60, 33], [0, 0, 9, 8], [60, 50, 70, 59]], np.float32)


def network(**changes: object) -> CellDETR:
    torch.manual_seed(0)
    small = {"d_model": 32, "heads": 2, "points": 3, "ffn": 64, "encoder_layers": 1, "detection_layers": 1}
    made = CellDETR(ModelConfig(types=("a", "b", "c"), **(small | changes))).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in made.representer.named_parameters():
            if "norm" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def image() -> np.ndarray:
    """Of no multiple of the strides: the network pads it."""
    return np.random.default_rng(0).integers(0, 256, (59, 70, 3), np.uint8)


@pytest.mark.parametrize("changes", [{}, {"constrained": False, "self_attention": "after_first"}])
@torch.inference_mode()
def test_layer_output_follows_from_the_trace(changes: dict[str, object]) -> None:
    net = network(border="zeros", **changes)
    calls = []
    for layer in net.representer.layers:
        layer.cross_attention.register_forward_hook(lambda module, args, out: calls.append((module, args[2], out)))
    trace = trace_attention(net, image(), BOXES)
    assert trace.locations.shape == (2, 4, 2, 3, 3, 2)
    assert np.allclose(trace.weights.sum((3, 4)), 1, atol=1e-5)
    for number, (attention, memory, output) in enumerate(calls):
        value = attention.value_proj(memory.tokens)[0].view(-1, 2, 16).numpy()
        value[memory.padding[0].numpy()] = 0
        sums = np.zeros((4, 2, 16))
        start = 0
        for level, ((height, width), stride) in enumerate(zip(memory.shapes, trace.strides, strict=True)):
            for cell, head, point in np.ndindex(4, 2, 3):
                x, y = trace.locations[number, cell, head, level, point] / stride - 0.5
                for column in (math.floor(x), math.floor(x) + 1):
                    for row in (math.floor(y), math.floor(y) + 1):
                        if 0 <= column < width and 0 <= row < height:
                            share = (1 - abs(x - column)) * (1 - abs(y - row))
                            share *= trace.weights[number, cell, head, level, point]
                            sums[cell, head] += share * value[start + row * width + column, head]
            start += height * width
        expected = attention.output_proj(torch.from_numpy(sums.reshape(4, 32)).float())
        assert torch.allclose(output[0], expected, atol=1e-4)
    assert len(calls) == 2


def test_a_prediction_can_be_traced_again() -> None:
    predictor = TilePredictor(network(), threshold=0.0, precision="32", same_nucleus_um=4)
    (cells,) = predictor.predict_tiles([image()])
    inside = (cells.boxes > 1e-3).all(1) & (cells.boxes < np.array([70, 59, 70, 59]) - 1e-3).all(1)  # not clipped
    assert inside.sum() > 5
    trace = trace_attention(predictor.network, image(), cells.boxes[inside])
    assert np.allclose(trace.probabilities, cells.probabilities[inside], atol=1e-4)


def test_constrained_attention_is_inside_the_box_and_other_attention_is_not() -> None:
    assert (trace_attention(network(), image(), BOXES).share_in_box() > 0.9999).all()
    assert (trace_attention(network(margin=3.0), image(), BOXES).share_in_box() < 0.9999).any()


def test_no_cell() -> None:
    trace = trace_attention(network(), image(), np.zeros((0, 4)))
    assert trace.locations.shape == (2, 0, 2, 3, 3, 2)
    assert trace.share_in_box().shape == (2, 0)
    assert trace.probabilities.shape == (0, 3)


def test_shares_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    locations = rng.uniform(-5, 45, (2, 3, 2, 2, 4, 2)).astype(np.float32)
    weights = rng.uniform(0, 1, (2, 3, 2, 2, 4)).astype(np.float32)
    instances = rng.integers(0, 4, (30, 40)).astype(np.uint16)
    boxes = np.array([[5, 5, 20, 25], [0, 0, 40, 30], [30, 10, 33, 12]], np.float32)
    numbers = np.array([2, 3, 1])
    trace = AttentionTrace(boxes, (4, 8), locations, weights, np.zeros((3, 1), np.float32))
    mask, box = np.zeros((2, 3)), np.zeros((2, 3))
    for index in np.ndindex(weights.shape):
        layer, cell = index[:2]
        x, y = locations[index]
        left, top, right, bottom = boxes[cell]
        if 0 <= x < 40 and 0 <= y < 30 and instances[int(y), int(x)] == numbers[cell]:
            mask[layer, cell] += weights[index]
        if left <= x <= right and top <= y <= bottom:
            box[layer, cell] += weights[index]
    total = weights.sum((2, 3, 4))
    assert np.allclose(share_in_mask(trace, instances, numbers), mask / total)
    assert np.allclose(trace.share_in_box(), box / total)
