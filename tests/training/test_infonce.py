"""InfoNCE against a double loop and another library; what watches for collapse against the papers' formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from celldetr.training.collapse import alignment, collapse, effective_rank, uniformity
from celldetr.training.infonce import Average, Pairs, batch_contrast, info_nce


def some_pairs(seed: int = 0, anchors: int = 11, instances: int = 9, images: int = 3) -> Pairs:
    """Random vectors; the anchors of image b are of instances of image b."""
    torch.manual_seed(seed)
    instance_image = torch.arange(instances) % images
    own = torch.randint(0, instances, (anchors,))
    return Pairs(
        torch.randn(anchors, 5, requires_grad=True),
        torch.randn(instances, 5, requires_grad=True),
        own,
        instance_image[own],
        instance_image,
        torch.arange(instances),
        (torch.zeros_like(own), torch.zeros(instances, dtype=torch.long)),
    )


def cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


@pytest.mark.parametrize("average", ["anchors", "images"])
@pytest.mark.parametrize("within_images", [False, True])
def test_a_double_loop_says_the_same(within_images: bool, average: Average) -> None:
    pairs, temperature = some_pairs(), 0.3
    losses: dict[int, list[float]] = {}
    for a, vector in enumerate(pairs.anchors.detach()):
        own, below = int(pairs.positive[a]), 0.0
        for j, other in enumerate(pairs.instances):
            if within_images and pairs.anchor_image[a] != pairs.instance_image[j]:
                continue
            below += math.exp(cosine(vector, other.detach()) / temperature)
        loss = -math.log(math.exp(cosine(vector, pairs.instances[own].detach()) / temperature) / below)
        losses.setdefault(int(pairs.anchor_image[a]), []).append(loss)
    found = batch_contrast(pairs, 3, temperature, within_images=within_images, average=average)
    assert len({len(each) for each in losses.values()}) > 1
    by_average = {
        "anchors": np.mean(np.concatenate([*losses.values()])),
        "images": np.mean([*map(np.mean, losses.values())]),
    }
    assert found.loss.item() == pytest.approx(by_average[average], rel=1e-5)
    choices = (
        [int((pairs.instance_image == image).sum()) for image in pairs.anchor_image] if within_images else [9] * 11
    )
    assert found.loss_by_chance == pytest.approx(np.log(choices).mean(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_another_library_says_the_same(temperature: float) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    pairs = some_pairs(3)
    theirs = losses.NTXentLoss(temperature)(
        pairs.anchors, pairs.positive, ref_emb=pairs.instances, ref_labels=pairs.identities
    )
    ours = batch_contrast(pairs, 3, temperature).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours, (pairs.anchors, pairs.instances)),
        torch.autograd.grad(theirs, (pairs.anchors, pairs.instances)),
        strict=True,
    ):
        assert torch.allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_debiased_as_written_down(temperature: float) -> None:
    pairs, share = some_pairs(4), 0.2
    total = 0.0
    for vector, own in zip(pairs.anchors.detach(), pairs.positive.tolist(), strict=True):
        like = [math.exp(cosine(vector, other.detach()) / temperature) for other in pairs.instances]
        rest = [value for j, value in enumerate(like) if j != own]
        less = (np.mean(rest) - share * like[own]) / (1 - share)
        below = len(rest) * max(less, math.exp(-1 / temperature))
        total -= math.log(like[own] / (like[own] + below))
    found = info_nce(pairs, temperature, debias=share).loss
    assert found.item() == pytest.approx(total / len(pairs.anchors), rel=1e-4)
    gradients = torch.autograd.grad(found, (pairs.anchors, pairs.instances))
    assert all(bool(torch.isfinite(each).all()) for each in gradients)


def test_debiased_with_nobody_else_is_zero() -> None:
    pairs = some_pairs(5, anchors=2, instances=1, images=1)
    assert info_nce(pairs, 0.1, debias=0.3).loss.item() == pytest.approx(0, abs=1e-6)


def test_autocast_changes_neither_loss_nor_gradient() -> None:
    pairs = some_pairs(2)
    plain = batch_contrast(pairs, 3, 0.05).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = batch_contrast(pairs, 3, 0.05).loss
    assert rounded.item() == plain.item()
    for mine, other in zip(
        torch.autograd.grad(rounded, (pairs.anchors, pairs.instances)),
        torch.autograd.grad(plain, (pairs.anchors, pairs.instances)),
        strict=True,
    ):
        assert torch.equal(mine, other)


def test_the_same_cell_in_another_crop_is_neither_pair_nor_negative() -> None:
    pairs = some_pairs(1)
    cells = pairs.identities.clone()
    cells[4] = cells[int(pairs.positive[0])] if int(pairs.positive[0]) != 4 else cells[0]
    twice = replace(pairs, identities=cells)
    found = info_nce(twice, 0.2)
    for a, own in enumerate(pairs.positive.tolist()):
        expected = [j for j in range(9) if j == own or cells[j] != cells[own]]
        assert found.negatives[a].nonzero()[:, 0].tolist() == expected
    assert not bool(found.negatives.all())
    assert float(found.loss.detach()) < float(info_nce(pairs, 0.2).loss.detach())


def test_anchors_see_the_other_view_only() -> None:
    pairs = some_pairs(2)
    sets = torch.zeros(9, dtype=torch.long)
    sets[::2] = 1
    split = replace(pairs, sets=(sets[pairs.positive], sets))
    assert bool((info_nce(split, 0.2).negatives == (sets[pairs.positive][:, None] == sets[None])).all())


def test_without_an_anchor_the_loss_is_zero_and_connected() -> None:
    pairs = some_pairs(0)
    none = replace(
        pairs,
        anchors=pairs.anchors[:0],
        positive=pairs.positive[:0],
        anchor_image=pairs.positive[:0],
        sets=(pairs.positive[:0], pairs.sets[1]),
    )
    for found in (info_nce(none, 0.1), batch_contrast(none, 3, 0.1)):
        assert found.loss.item() == 0
        assert found.loss_by_chance == 0
        (gradient,) = torch.autograd.grad(found.loss, pairs.instances)
        assert not gradient.any()


def test_agreement_is_rewarded_and_found() -> None:
    pairs = some_pairs(0)
    agreed = info_nce(replace(pairs, anchors=pairs.instances[pairs.positive]), 0.1)
    assert bool(agreed.correct.all())
    assert agreed.loss.item() < 0.2 * info_nce(pairs, 0.1).loss.item()
    same = torch.ones(9, 5)
    collapsed = info_nce(replace(pairs, instances=same, anchors=same[pairs.positive]), 0.1)
    assert (
        collapsed.loss.item()
        == pytest.approx(math.log(9), rel=1e-5)
        == pytest.approx(collapsed.loss_by_chance, rel=1e-5)
    )


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
