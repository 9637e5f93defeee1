"""The averaged weights, and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from celldetr.config import ModelConfig, TrainConfig
from celldetr.model.celldetr import CellDETR
from celldetr.training.optim import average_weights, build_optimizer, clip_gradients, rate_factor, set_rate


def test_average_follows_its_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    average = average_weights(network, 0.5)
    expected = 1.0
    for step in range(20):
        nn.init.constant_(network.weight, float(step))
        average.update_parameters(network)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)


def test_average_is_a_copy_in_evaluation_mode_with_counters_carried_over() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
    average = average_weights(network, 0.9)
    before = network[0].weight.detach().clone()
    network(torch.randn(5, 2))
    average.update_parameters(network)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
    assert int(average.module[1].num_batches_tracked) == 1
    assert torch.equal(network[0].weight, before)  # updating the copy leaves the original alone


def test_rate_rises_over_the_warm_up_and_falls_as_a_cosine() -> None:
    config = TrainConfig(steps=110, warmup=10)
    assert [rate_factor(step, config) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate_factor(10, config) == pytest.approx(1.0)
    assert rate_factor(35, config) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rate_factor(60, config) == pytest.approx(0.5)
    assert 0 < rate_factor(109, config) < 0.001
    assert rate_factor(110, config) == rate_factor(500, config) == pytest.approx(0.0)


def test_a_run_without_or_with_only_warm_up() -> None:
    assert rate_factor(0, TrainConfig(steps=10, warmup=0)) == pytest.approx(1.0)
    assert rate_factor(9, TrainConfig(steps=10, warmup=20)) == pytest.approx(0.5)
    assert rate_factor(20, TrainConfig(steps=10, warmup=20)) == pytest.approx(1.0)


def test_the_backbone_has_its_own_rate(tiny_model: Callable[..., ModelConfig]) -> None:
    network = CellDETR(tiny_model())
    config = TrainConfig(lr=4e-4, backbone_lr=1e-5, warmup=4, weight_decay=0.3)
    optimizer = build_optimizer(network, config)
    assert set_rate(optimizer, 1, config) == pytest.approx(2e-4)
    rest, backbone = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2e-4, 5e-6])
    assert backbone == {id(p) for p in network.backbone.parameters() if p.requires_grad}
    assert rest | backbone == {id(p) for p in network.parameters() if p.requires_grad}
    assert all(group["weight_decay"] == 0.3 for group in optimizer.param_groups)


def test_a_frozen_backbone_needs_no_group(tiny_model: Callable[..., ModelConfig]) -> None:
    network = CellDETR(tiny_model())
    network.backbone.requires_grad_(False)
    assert len(build_optimizer(network, TrainConfig()).param_groups) == 1


def test_clipping_keeps_the_direction() -> None:
    layer = nn.Linear(3, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([4.0])
    assert clip_gradients(layer, 0.5) == pytest.approx(5.0)
    assert layer.weight.grad[0, 0] == pytest.approx(0.3, rel=1e-4)
    assert layer.bias.grad[0] == pytest.approx(0.4, rel=1e-4)
    assert clip_gradients(layer, 10.0) == pytest.approx(0.5, rel=1e-4)
    assert layer.bias.grad[0] == pytest.approx(0.4, rel=1e-4)
