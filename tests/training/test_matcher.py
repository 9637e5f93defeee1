"""Hungarian matching against trying all assignments."""

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from celldetr.training.criterion import query_indices
from celldetr.training.matcher import HungarianMatcher, focal_cost
from helpers.targets import targets

MATCH = HungarianMatcher()


def scene(queries: int, nuclei: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (Q,), boxes (Q, 4) and true boxes (N, 4)."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(queries + nuclei, 4, generator=generator) * 0.4 + 0.2
    return torch.randn(queries, generator=generator), boxes[:queries], boxes[queries:]


def costs(logits: Tensor, boxes: Tensor, target: Tensor) -> Tensor:
    """(Q, N), each entry from the formula of the method."""
    p = logits.sigmoid()
    focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
    l1 = (boxes[:, None] - target[None]).abs().sum(-1)
    giou = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(target, "cxcywh", "xyxy"))
    return 2 * focal[:, None] + 5 * l1 - 2 * giou


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("queries", "nuclei"), [(5, 3), (3, 3), (3, 5)])
def test_total_cost_is_the_least_of_all_assignments(queries: int, nuclei: int, seed: int) -> None:
    logits, boxes, target = scene(queries, nuclei, seed)
    (((query, nucleus),),) = MATCH(logits[None, None], boxes[None, None], [targets(target)])
    cost = costs(logits, boxes, target)
    wide = cost if queries <= nuclei else cost.T
    least = min(
        sum(float(wide[i, j]) for i, j in enumerate(chosen)) for chosen in permutations(range(wide.shape[1]), len(wide))
    )
    assert len(query) == min(queries, nuclei)
    assert len(set(query.tolist())) == len(set(nucleus.tolist())) == len(query)
    assert float(cost[query, nucleus].sum()) == pytest.approx(least, abs=1e-4)


def test_each_image_is_matched_alone() -> None:
    scenes = [scene(6, nuclei, seed) for seed, nuclei in enumerate((2, 0, 4))]
    logits, boxes = torch.stack([s[0] for s in scenes]), torch.stack([s[1] for s in scenes])
    (together,) = MATCH(logits[None], boxes[None], [targets(s[2]) for s in scenes])
    for b, (one_logits, one_boxes, target) in enumerate(scenes):
        (((query, nucleus),),) = MATCH(one_logits[None, None], one_boxes[None, None], [targets(target)])
        assert torch.equal(together[b][0], query)
        assert torch.equal(together[b][1], nucleus)
    image, query = query_indices(together)
    assert image.tolist() == [0, 0, 2, 2, 2, 2]
    assert query.tolist() == [*together[0][0].tolist(), *together[2][0].tolist()]


def test_weights_decide_what_counts() -> None:
    target = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]]])
    logits = torch.tensor([[-5.0, 5.0]])  # the right box is unsure, the wrong one certain
    scene = logits[None], boxes[None], [targets(target)]
    assert HungarianMatcher(w_class=0)(*scene)[0][0][0].tolist() == [0]
    assert HungarianMatcher(w_l1=0, w_giou=0)(*scene)[0][0][0].tolist() == [1]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_diverged_query_is_nobodys_choice(broken: float) -> None:
    logits, boxes, target = scene(5, 3, 0)
    boxes[1] = broken
    logits[3] = torch.nan
    (((query, _),),) = MATCH(logits[None, None], boxes[None, None], [targets(target)])
    assert sorted(query.tolist()) == [0, 2, 4]


def test_each_layer_is_matched_alone() -> None:
    logits, boxes, target = scene(6, 3, 2)
    pair = torch.stack([logits, logits.flip(0)])[:, None], torch.stack([boxes, boxes.flip(0)])[:, None]
    layers = MATCH(*pair, [targets(target)])
    (((query, nucleus),),) = MATCH(logits[None, None], boxes[None, None], [targets(target)])
    assert torch.equal(layers[0][0][0], query)
    assert torch.equal(layers[0][0][1], nucleus)
    flipped = dict(zip((5 - layers[1][0][0]).tolist(), layers[1][0][1].tolist(), strict=True))
    assert flipped == dict(zip(query.tolist(), nucleus.tolist(), strict=True))


def test_padding_is_nobodys_choice() -> None:
    logits, boxes, target = scene(6, 3, 1)
    logits[:3] = torch.finfo(logits.dtype).min
    (((query, _),),) = MATCH(logits[None, None], boxes[None, None], [targets(target)])
    assert sorted(query.tolist()) == [3, 4, 5]


def test_focal_cost_falls_with_the_score() -> None:
    cost = focal_cost(torch.linspace(-8, 8, 50))
    assert bool((cost.diff() < 0).all())
