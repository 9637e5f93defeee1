"""The contrastive objective: the released loss written out, images without cells, attention, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from celldetr.config import AugmentConfig, ContrastiveConfig, ModelConfig, TrainConfig, parse
from celldetr.data.dataset import Batch
from celldetr.data.sample import Sample
from celldetr.data.views import ViewSet, collate_views
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.memory import Memory
from celldetr.model.representation import RepresentationLayer
from celldetr.training.contrastive import ANCHOR, INSTANCE, PADDING, ContrastiveLoss, hidden_rows, projection_head
from celldetr.training.trainer import image_generators
from helpers.targets import targets

Tiny = Callable[..., ModelConfig]
BOXES = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.25, 0.2], [0.5, 0.9, 0.2, 0.15]])
NONE, NO_CELL = BOXES[:0], torch.zeros(0, dtype=torch.long)


def objective(model: ModelConfig, **contrastive: object) -> ContrastiveLoss:
    torch.manual_seed(0)
    settings = TrainConfig.model_validate({"objective": "contrastive", "contrastive": {"border": 0} | contrastive})
    return ContrastiveLoss(CellDETR(model), settings, projection_head(model, settings)).train()


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def batch_of(boxes: list[Tensor], cells: list[Tensor]) -> Batch:
    """Boxes and identities of cells, on random images."""
    pairs = zip(boxes, cells, strict=True)
    return Batch(images(len(boxes)), [targets(each, identities=cell) for each, cell in pairs])


@pytest.mark.parametrize("attention", ["none", "after_first"])
def test_the_released_loss_is_the_one_written_down(attention: str, tiny_model: Tiny) -> None:
    model = tiny_model(self_attention=attention, query_position="absolute")
    made = objective(model, views="released", negatives="image", temperature=0.2, projection=None)
    boxes, cells = [BOXES, NONE, BOXES[:2]], [torch.arange(3), NO_CELL, torch.arange(7, 9)]
    (view,) = made.views(batch_of(boxes, cells), image_generators(0, 0, 0, 3))
    found, _ = made.contrast([view])
    # Image by image: N = 3 is the most cells of an image; the n boxes, then 2N - n anchors, anchor a of cell a mod n.
    losses = []
    for b, n in enumerate((3, 0, 2)):
        anchors = view.anchors[b].boxes
        assert len(anchors) == (2 * 3 - n if n else 0)
        if not n:
            continue
        for a, anchor in enumerate(anchors):
            own = boxes[b][a % n]
            assert 0 < float((anchor[:2] - own[:2]).abs().max() / own[2:].max()) <= 0.2 + 1e-6  # 40 % of half a side
        rows = torch.cat([boxes[b], anchors])
        mask = torch.ones(len(rows), len(rows), dtype=torch.bool)
        mask[:, :n] = False  # True hides: instances are all that can be seen
        origin = view.encoded.origin[b : b + 1]
        memories = made.network.memorise(images(3)[b : b + 1], origin=origin)
        z = embed_by_hand(made.network, memories.representation, rows[None], origin, mask)[0]
        z = z.detach().numpy().astype(float)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        likes = [np.exp([z[n + a] @ z[j] / 0.2 for j in range(n)]) for a in range(len(anchors))]
        losses.append(np.mean([-np.log(like[a % n] / like.sum()) for a, like in enumerate(likes)]))
    assert found.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def embed_by_hand(network: CellDETR, memory: Memory, boxes: Tensor, origin: Tensor, hidden: Tensor) -> Tensor:
    """The representation decoder with PyTorch's own self-attention, of contents without positions."""
    decoder = network.representer
    assert decoder is not None
    content, position = decoder.encode(boxes, memory.sizes, origin)
    assert position.abs().max() > 0.01
    for layer in cast(list[RepresentationLayer], decoder.layers):
        if (own := layer.self_attention) is not None and layer.self_norm is not None:
            attention = nn.MultiheadAttention(content.shape[-1], own.heads, batch_first=True)
            parts = (own.q_proj, own.k_proj, own.v_proj)
            attention.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
            attention.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
            attention.out_proj = own.output_proj  # type: ignore[assignment]
            content = layer.self_norm(content + attention(content, content, content, attn_mask=hidden)[0])
        content = layer.ffn(layer.norm(content + layer.cross_attention(content + position, boxes, memory)))
    return content


def test_cells_at_the_edge_are_for_detection_only(tiny_model: Tiny) -> None:
    made = objective(tiny_model(), border=4.0)
    edge = torch.tensor([[0.5, 0.9, 0.2, 0.2], [0.05, 0.5, 0.1, 0.1]])  # the one reaches the edge, the other is cut off
    boxes = [torch.cat([BOXES[:2], edge]), BOXES[:2]]
    cells = [torch.tensor([5, 6, 7, 8]), torch.tensor([5, 7])]
    first, second = made.views(batch_of(boxes, cells), image_generators(0, 0, 0, 1))
    assert [each.instances[0].identities.tolist() for each in (first, second)] == [[5, 6], [5, 7]]
    assert [len(each.targets[0]) for each in (first, second)] == [4, 2]
    assert [len(each.anchors[0]) for each in (first, second)] == [1, 1]  # cell 7 is whole in one view only
    contrast, embeddings = made.contrast([first, second])
    assert (len(contrast.positive), len(embeddings)) == (2, 4)


def test_rows_see_what_they_may() -> None:
    kind = torch.tensor([[INSTANCE, INSTANCE, ANCHOR, ANCHOR, PADDING], [PADDING] * 5])
    for released in (True, False):
        hidden = hidden_rows(kind, released=released)
        assert hidden.shape == (2, 1, 5, 5)
        for row in range(5):
            own = int(kind[0, row])
            wanted = INSTANCE if released else own
            seen = [j for j in range(5) if int(kind[0, j]) == wanted and (released or own != PADDING)] or [row]
            assert (~hidden[0, 0, row]).nonzero()[:, 0].tolist() == seen
            assert (~hidden[1, 0, row]).nonzero()[:, 0].tolist() == [row]


@pytest.mark.parametrize(("views", "shortcut"), [("two", False), ("released", True)])
def test_an_anchor_cannot_look_its_cell_up(views: str, shortcut: bool, tiny_model: Tiny) -> None:
    made = objective(tiny_model(self_attention="after_first"), views=views, negatives="image").eval()
    count = 2 if views == "two" else 1
    seen = made.views(batch_of([BOXES] * count, [torch.arange(3)] * count), image_generators(0, 0, 0, 1))
    instances = BOXES.clone().requires_grad_()
    seen[0] = replace(seen[0], instances=[targets(instances)])
    _, anchors = made._embed(seen[0])
    (gradient,) = torch.autograd.grad(anchors.square().sum() + anchors[0, 0], instances, allow_unused=True)
    assert (gradient is not None and bool(gradient.abs().max() > 1e-8)) is shortcut


def test_a_cell_in_one_view_only_is_nobodys_pair(tiny_model: Tiny) -> None:
    made = objective(tiny_model())
    cells = [torch.tensor([5, 6, 7]), torch.tensor([7, 5])]
    seen = made.views(batch_of([BOXES, BOXES[:2]], cells), image_generators(0, 0, 0, 1))
    found, embeddings = made.contrast(seen)
    assert len(embeddings) == 5  # 6 is a negative, too
    first, second = found.anchor_view == 1, found.anchor_view == 0
    identity = torch.cat(cells)
    assert identity[found.positive[first]].tolist() == [5, 7]  # anchors in the first view, of cells in the second
    assert (found.positive[first] >= 3).all()
    assert identity[found.positive[second]].tolist() == [7, 5]
    assert (found.positive[second] < 3).all()


@pytest.mark.parametrize("changes", [{}, {"views": "released"}, {"detection": "none"}, {"detection": "both"}])
def test_images_without_a_cell(changes: dict[str, Any], tiny_model: Tiny) -> None:
    made = objective(tiny_model(), **changes)
    views = 1 if changes.get("views") else 2
    loss, terms = made(batch_of([NONE] * 2 * views, [NO_CELL] * 2 * views), image_generators(0, 0, 0, 2))
    assert terms["contrastive/nce"].item() == 0
    loss.backward()
    representer = [p.grad for p in made.network.representer.parameters()]  # type: ignore[union-attr]
    assert all(gradient is not None and not gradient.any() for gradient in representer)
    assert any(name.endswith("/class") for name in terms) is (changes.get("detection") != "none")
    # Beside an image with cells, one without contributes nothing.
    made.zero_grad()
    made.eval()
    with_cells = batch_of([BOXES, NONE] * views, [torch.arange(3), NO_CELL] * views)
    both = made(with_cells, image_generators(0, 0, 0, 2))[1]["contrastive/nce"]
    first = Batch(with_cells.images[::2], with_cells.targets[::2])
    alone = made(first, image_generators(0, 0, 0, 1))[1]["contrastive/nce"]
    assert both.item() == pytest.approx(alone.item(), rel=1e-3)
    assert both.item() > 0


def test_what_makes_no_sense_is_refused() -> None:
    def message(**settings: object) -> str:
        with pytest.raises(InputError) as caught:
            parse(TrainConfig, {"objective": "contrastive", **settings}, "x")
        return str(caught.value)

    assert "low <= high" in message(contrastive={"jitter": [0.5, 0.1, 0.5, 1]})
    assert "noise" in message(contrastive={"views": "released", "jitter": [0, 0, 0.5, 1]})
    assert "one view" in message(contrastive={"views": "released", "detection": "both"})
    assert "representer" in message(freeze=["representer"])
    assert "labels" in message(labels="some", freeze=["backbone", "encoder", "detector"])
    assert "did you mean 'temperature'" in message(contrastive={"temprature": 1})
    assert ContrastiveConfig().jitter == (0.1, 0.4, 0.5, 1.0)


def cells_of_all_colours(seed: int) -> Sample:
    """Nine discs of nine colours, on pink."""
    rng = np.random.default_rng(seed)
    image = np.full((72, 72, 3), (235, 190, 215), np.uint8)
    rows, columns = np.mgrid[:72, :72] + 0.5
    centres = [(x, y) for x in (14, 36, 58) for y in (14, 36, 58)]
    for x, y in centres:
        image[(columns - x) ** 2 + (rows - y) ** 2 < 49] = rng.integers(0, 200, 3)
    points = np.array(centres, np.float32)
    boxes = np.concatenate([points - 7, points + 7], axis=1).astype(np.float32)
    return Sample(f"s{seed}", image, 0.5, boxes, np.zeros(9, np.int64), ("a",), points)


@pytest.mark.slow
def test_two_tiles_are_learnt_by_heart(tiny_model: Tiny) -> None:
    made = objective(tiny_model(), detection="none", shift=0.1, zoom=1.1)
    plain = AugmentConfig(crop=64, scale=(1.0, 1.1), stain=0.05, colour_p=0, blur_p=0)
    tiles = [cells_of_all_colours(0), cells_of_all_colours(1)]
    steps = 40
    views = ViewSet(tiles, plain, made.config.contrastive, 0, 4 * steps)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    losses, found = [], []
    for step in range(steps):
        batch = collate_views([views[4 * step + i] for i in range(4)])
        loss, terms = made(batch, image_generators(0, step, 0, 4), measure=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        losses.append(float(terms["contrastive/nce"]))
        found.append(float(terms["embedding/found"]))
    # Eighteen cells: the negatives of an anchor are of the other tile and of its own.
    assert np.mean(losses[-5:]) < 0.3 * np.log(18)
    assert np.mean(found[-5:]) > 0.8
    assert losses[0] > 0.5 * np.log(18)
    # The last batch has a clear diagonal.
    seen = made.views(batch, image_generators(0, steps, 0, 4))
    contrast, _ = made.contrast(seen)
    own = contrast.similarity.gather(1, contrast.positive[:, None])
    others = contrast.similarity[contrast.negatives].mean()
    assert float(own.mean() - others) > 0.5
