"""Dropout on the CPU: the share that is dropped, the scale, the gradient, and reproducibility."""

from __future__ import annotations

import pytest
import torch

from celldetr.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.001, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drops_a_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(200_003, dtype=dtype)
    y = Dropout(p)(x)
    share = min(max(round(p * 256), 1), 255) / 256
    spread = (share * (1 - share) / len(x)) ** 0.5
    assert y.dtype == dtype
    assert float((y == 0).float().mean()) == pytest.approx(share, abs=5 * spread)
    assert abs(share - p) < 1 / 256
    assert y[y != 0].float().unique().tolist() == [pytest.approx(1 / (1 - share), rel=4e-3)]


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(80_000)) == 0).float() - 0.5
    for apart in (1, 2, 3, 4, 7, 8, 16):
        assert abs(float((dropped[apart:] * dropped[:-apart]).mean())) < 0.01


def test_every_byte_of_a_draw_drops_alike() -> None:
    torch.manual_seed(0)
    shares = (Dropout(0.1)(torch.ones(80_000, 8)) == 0).float().mean(0)
    assert torch.all((shares - 26 / 256).abs() < 0.006)


def test_gradient_is_that_of_what_was_kept() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 33, requires_grad=True)
    y = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)
    assert 0 < int((gradient == 0).sum()) < x.numel()


def test_the_seed_decides() -> None:
    drop, x = Dropout(0.4), torch.randn(1000)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(drop(x))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_nothing_is_dropped_in_evaluation_or_at_zero() -> None:
    x = torch.randn(50)
    assert Dropout(0.0)(x) is x
    assert Dropout(0.4).eval()(x) is x
    assert torch.equal(Dropout(1.0)(x), torch.zeros(50))
    assert Dropout(0.4)(torch.zeros(0, 3)).shape == (0, 3)
