"""Deformable attention with its softmax and locations inside the kernel learns what the plain one does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from celldetr.model import deformable_cpu
from celldetr.model.layers import DeformableAttention
from celldetr.model.memory import Memory

SHAPES = ((9, 7), (5, 4), (2, 2))


def memory(*, padded: bool) -> Memory:
    pixels = sum(height * width for height, width in SHAPES)
    padding = torch.arange(pixels).expand(2, -1) % 5 == 0 if padded else None
    ratios = torch.rand(2, 3, 2) * 0.3 + 0.7
    return Memory(torch.randn(2, pixels, 32), SHAPES, (8, 16, 32), ratios, padding, torch.full((2, 2), 64.0))


def attention(margin: float | None) -> DeformableAttention:
    layer = DeformableAttention(32, 4, 3, 4, margin=margin, offset_start="stock" if margin is None else "interior")
    for parameter in layer.parameters():  # where sampling starts, much has no gradient
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def learned(layer: DeformableAttention, query: Tensor, reference: Tensor, seen: Memory) -> dict[str, Tensor]:
    """The result and all gradients."""
    layer.zero_grad()
    query, tokens = query.clone().requires_grad_(), seen.tokens.clone().requires_grad_()
    out = layer(query, reference, seen.with_tokens(tokens))
    out.backward(torch.cos(torch.arange(out.numel(), dtype=torch.float32)).view(out.shape).to(out.dtype))
    found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return found | {"out": out.detach(), "query": query.grad, "tokens": tokens.grad}  # type: ignore[dict-item]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("sides", "margin"), [(2, None), (4, None), (4, 1.0), (4, 0.5)])
def test_gradients_are_those_of_the_plain_layer(sides: int, margin: float | None, padded: bool) -> None:
    torch.manual_seed(0)
    seen, layer = memory(padded=padded), attention(margin)
    query, reference = torch.randn(2, 30, 32), torch.rand(2, 30, sides) * 0.8 + 0.1
    for half, tolerance in ((False, 2e-5), (True, 0.02)):
        results = []
        for layer.fused in (True, False):
            with torch.autocast("cpu", enabled=half):
                results.append(learned(layer, query, reference, seen))
        got, expected = results
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert float((got[name] - value).norm()) <= tolerance * float(value.norm()), name


def test_without_queries() -> None:
    found = learned(attention(1.0), torch.randn(2, 0, 32), torch.rand(2, 0, 4), memory(padded=False))
    assert not found["tokens"].any()


def test_a_reference_that_learns_takes_the_plain_way() -> None:
    """As learned queries do."""
    torch.manual_seed(0)
    reference = (torch.rand(2, 5, 2) * 0.8 + 0.1).requires_grad_()
    attention(None)(torch.randn(2, 5, 32), reference, memory(padded=False)).sum().backward()
    assert reference.grad is not None
    assert reference.grad.any()


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable_cpu, "_WORTH_A_THREAD", 1)
    torch.manual_seed(0)
    layer, seen, before = attention(1.0), memory(padded=False), torch.get_num_threads()
    query, reference = torch.randn(2, 40, 32), torch.rand(2, 40, 4) * 0.5 + 0.2
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            sampled = layer.sampling_offsets(query), layer.attention_weights(query), layer.value_proj(seen.tokens)
            offsets, logits, value = (x.detach().clone().requires_grad_() for x in sampled)
            out = deformable_attention_of(layer, value, offsets, logits, reference, seen)
            results.append(torch.autograd.grad(out.square().sum(), (value, offsets, logits)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def deformable_attention_of(
    layer: DeformableAttention, value: Tensor, offsets: Tensor, logits: Tensor, reference: Tensor, seen: Memory
) -> Tensor:
    from celldetr.model.deformable import deformable_attention_fused

    shape = (2, reference.shape[1], layer.heads, layer.levels, layer.points)
    return deformable_attention_fused(
        value.view(2, -1, layer.heads, 8),
        seen.shapes,
        offsets.view(*shape, 2),
        logits.view(shape),
        reference,
        seen.ratios,
        layer.margin,
    )
