"""InfoNCE against a double loop and another library; what watches for collapse against the papers' formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from celldetr.training.collapse import alignment, collapse, effective_rank, uniformity
from celldetr.training.infonce import Average, Cells, InfoNCE


def some_cells(seed: int = 0, anchors: int = 11, instances: int = 9, images: int = 3) -> tuple[Cells, Cells, Tensor]:
    """Random vectors of anchors and instances, and the instance that each anchor is of."""
    torch.manual_seed(seed)
    number = torch.arange(instances)
    own = torch.randint(0, instances, (anchors,))
    vectors = torch.randn(anchors, 5, requires_grad=True), torch.randn(instances, 5, requires_grad=True)
    cells = Cells(vectors[1], number % images, number, torch.zeros_like(number))
    return taken(cells, own, vectors[0]), cells, own


def taken(cells: Cells, own: Tensor, vectors: Tensor) -> Cells:
    return Cells(vectors, cells.images[own], cells.identities[own], cells.views[own])


def cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


@pytest.mark.parametrize("average", ["anchors", "images"])
@pytest.mark.parametrize("within_images", [False, True])
def test_a_double_loop_says_the_same(within_images: bool, average: Average) -> None:
    (anchors, instances, owns), temperature = some_cells(), 0.3
    losses: dict[int, list[float]] = {}
    for a, vector in enumerate(anchors.vectors.detach()):
        own, below = int(owns[a]), 0.0
        for j, other in enumerate(instances.vectors):
            if within_images and anchors.images[a] != instances.images[j]:
                continue
            below += math.exp(cosine(vector, other.detach()) / temperature)
        loss = -math.log(math.exp(cosine(vector, instances.vectors[own].detach()) / temperature) / below)
        losses.setdefault(int(anchors.images[a]), []).append(loss)
    found = InfoNCE(temperature, within_images, average=average).of_batch(anchors, instances, 3)
    assert len({len(each) for each in losses.values()}) > 1
    by_average = {
        "anchors": np.mean(np.concatenate([*losses.values()])),
        "images": np.mean([*map(np.mean, losses.values())]),
    }
    assert found.loss.item() == pytest.approx(by_average[average], rel=1e-5)
    choices = [int((instances.images == image).sum()) for image in anchors.images] if within_images else [9] * 11
    assert found.loss_by_chance == pytest.approx(np.log(choices).mean(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_another_library_says_the_same(temperature: float) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    anchors, instances, own = some_cells(3)
    vectors = anchors.vectors, instances.vectors
    theirs = losses.NTXentLoss(temperature)(vectors[0], own, ref_emb=vectors[1], ref_labels=instances.identities)
    ours = InfoNCE(temperature).of_batch(anchors, instances, 3).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours, vectors),
        torch.autograd.grad(theirs, vectors),
        strict=True,
    ):
        assert torch.allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_debiased_as_written_down(temperature: float) -> None:
    (anchors, instances, owns), share = some_cells(4), 0.2
    total = 0.0
    for vector, own in zip(anchors.vectors.detach(), owns.tolist(), strict=True):
        like = [math.exp(cosine(vector, other.detach()) / temperature) for other in instances.vectors]
        rest = [value for j, value in enumerate(like) if j != own]
        less = (np.mean(rest) - share * like[own]) / (1 - share)
        below = len(rest) * max(less, math.exp(-1 / temperature))
        total -= math.log(like[own] / (like[own] + below))
    found = InfoNCE(temperature, debias=share)(anchors, instances).loss
    assert found.item() == pytest.approx(total / len(anchors), rel=1e-4)
    gradients = torch.autograd.grad(found, (anchors.vectors, instances.vectors))
    assert all(bool(torch.isfinite(each).all()) for each in gradients)


def test_debiased_with_nobody_else_is_zero() -> None:
    anchors, instances, _ = some_cells(5, anchors=2, instances=1, images=1)
    assert InfoNCE(0.1, debias=0.3)(anchors, instances).loss.item() == pytest.approx(0, abs=1e-6)


def test_autocast_changes_neither_loss_nor_gradient() -> None:
    anchors, instances, _ = some_cells(2)
    vectors = anchors.vectors, instances.vectors
    plain = InfoNCE(0.05)(anchors, instances).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = InfoNCE(0.05)(anchors, instances).loss
    assert rounded.item() == plain.item()
    for mine, other in zip(
        torch.autograd.grad(rounded, vectors),
        torch.autograd.grad(plain, vectors),
        strict=True,
    ):
        assert torch.equal(mine, other)


def test_the_same_cell_in_another_crop_is_neither_pair_nor_negative() -> None:
    anchors, instances, own = some_cells(1)
    first = int(own[0])
    cells = instances.identities.clone()
    cells[(first + 1) % 9] = cells[first]  # which is of another image
    instances = replace(instances, identities=cells)
    twice = InfoNCE(0.2)(taken(instances, own, anchors.vectors), instances)
    for a, place in enumerate(own.tolist()):
        expected = [j for j in range(9) if j == place or cells[j] != cells[place]]
        assert twice.negatives[a].nonzero()[:, 0].tolist() == expected
    assert not bool(twice.negatives.all())
    once = InfoNCE(0.2)(*some_cells(1)[:2])
    assert twice.positive.tolist() == once.positive.tolist() == own.tolist()
    assert float(twice.loss.detach()) < float(once.loss.detach())


def test_anchors_see_the_other_view_only() -> None:
    anchors, instances, own = some_cells(2)
    views = torch.zeros(9, dtype=torch.long)
    views[::2] = 1
    instances = replace(instances, views=views)
    contrast = InfoNCE(0.2)(taken(instances, own, anchors.vectors), instances)
    assert bool((contrast.negatives == (views[own][:, None] == views[None])).all())


def test_without_an_anchor_the_loss_is_zero_and_connected() -> None:
    anchors, instances, own = some_cells(0)
    none = taken(instances, own[:0], anchors.vectors[:0])
    for contrast in (InfoNCE(0.1)(none, instances), InfoNCE(0.1).of_batch(none, instances, 3)):
        assert contrast.loss.item() == 0
        assert contrast.loss_by_chance == 0
        (gradient,) = torch.autograd.grad(contrast.loss, instances.vectors)
        assert not gradient.any()


def test_agreement_is_rewarded_and_found() -> None:
    anchors, instances, own = some_cells(0)
    agreed = InfoNCE(0.1)(replace(anchors, vectors=instances.vectors[own]), instances)
    assert bool(agreed.correct.all())
    assert agreed.loss.item() < 0.2 * InfoNCE(0.1)(anchors, instances).loss.item()
    same = torch.ones(11, 5)
    collapsed = InfoNCE(0.1)(replace(anchors, vectors=same), replace(instances, vectors=same[:9]))
    assert collapsed.loss.item() == pytest.approx(math.log(9), rel=1e-5)
    assert collapsed.loss_by_chance == pytest.approx(math.log(9), rel=1e-5)


def test_alignment_and_uniformity_are_those_of_the_paper() -> None:
    x = torch.nn.functional.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    y = torch.nn.functional.normalize(x + 0.3, dim=1)
    apart = [float((a - b).square().sum()) for a, b in zip(x, y, strict=True)]
    assert float(alignment((x * y).sum(1))) == pytest.approx(np.mean(apart), abs=1e-5)
    every = [math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(12) for j in range(i)]
    assert float(uniformity(x)) == pytest.approx(math.log(np.mean(every)), abs=1e-5)
    assert float(uniformity(x[:1].expand(5, -1))) == pytest.approx(0, abs=1e-5)
    assert float(uniformity(x[:1])) == float(alignment(x[:0, 0])) == 0


def test_effective_rank_counts_directions_in_use() -> None:
    orthogonal = torch.linalg.qr(torch.randn(30, 8, generator=torch.Generator().manual_seed(1)))[0]
    assert float(effective_rank(orthogonal)) == pytest.approx(8, abs=1e-3)
    assert float(effective_rank(orthogonal[:, :3] @ torch.eye(3, 8))) == pytest.approx(3, abs=1e-3)
    assert float(effective_rank(torch.ones(30, 8))) == pytest.approx(1, abs=1e-3)
    noisy = torch.ones(200, 8) + 1e-3 * torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    assert float(effective_rank(noisy)) < 1.1
    assert float(effective_rank(torch.zeros(0, 8))) == 0
    assert float(effective_rank(torch.zeros(4, 8))) == pytest.approx(1, abs=0.01)


def test_a_collapse_is_said_in_words() -> None:
    assert collapse(20.0, 22.0) == collapse(30.0, 10.0) == ""
    assert "collapsed: their effective rank is 1.5, it was 22.0" in collapse(1.5, 22.0)
    assert "collapsed" in collapse(5.0, 22.0)
    assert "collapsed" in collapse(1.9, 2.0)
    assert collapse(5.0, 22.0, share=0) == ""
    assert "collapsed" in collapse(1.5, 22.0, share=0)
