"""The deformable attention in PyTorch against tents summed over every pixel, and the kernel against it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching
from torch import Tensor

from celldetr.model import deformable_cpu
from celldetr.model.deformable import deformable_attention, deformable_attention_fused
from celldetr.model.layers import DeformableAttention
from celldetr.model.memory import Memory

Shapes = list[tuple[int, int]]


class Case(NamedTuple):
    value: Tensor
    shapes: Shapes
    locations: Tensor
    weights: Tensor

    def to(self, dtype: torch.dtype) -> Case:
        return Case(self.value.to(dtype), self.shapes, self.locations.to(dtype), self.weights.to(dtype))


def make_case(
    shapes: Shapes,
    *,
    batch: int = 2,
    queries: int = 3,
    heads: int = 2,
    channels: int = 3,
    points: int = 2,
    seed: int = 0,
) -> Case:
    """Float64, points within and a little around the levels."""
    rng = torch.Generator().manual_seed(seed)
    pixels = sum(height * width for height, width in shapes)
    size = (batch, queries, heads, len(shapes), points)
    value = torch.randn(batch, pixels, heads, channels, generator=rng, dtype=torch.float64)
    locations = torch.rand(*size, 2, generator=rng, dtype=torch.float64) * 1.6 - 0.3
    return Case(value, shapes, locations, torch.rand(size, generator=rng, dtype=torch.float64))


def away_from_kinks(case: Case) -> Case:
    """Points moved off the pixel centres, where the gradient of a location jumps, so that rounding cannot decide it."""
    sizes = torch.tensor([(width, height) for height, width in case.shapes], dtype=torch.float64)[:, None]
    pixels = case.locations * sizes - 0.5
    near = (pixels - pixels.round()).abs() < 0.01
    return case._replace(locations=case.locations + near * 0.05 / sizes)


def tent_sum(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Bilinear interpolation by its other definition: every pixel of a level is a tent of radius 1, summed densely."""
    total = value.new_zeros(*weights.shape[:3], value.shape[3])
    levels = value.split([height * width for height, width in shapes], dim=1)
    for level, (height, width) in enumerate(shapes):
        x, y = locations[:, :, :, level].unbind(-1)
        along_x = (1 - (x[..., None] * width - torch.arange(width) - 0.5).abs()).clamp(min=0)
        along_y = (1 - (y[..., None] * height - torch.arange(height) - 0.5).abs()).clamp(min=0)
        tents = (
            weights[:, :, :, level, :, None, None] * along_y[..., None] * along_x[..., None, :]
        )  # (B, Q, H, P, h, w)
        total = total + torch.einsum("bqhs,bshd->bqhd", tents.sum(3).flatten(3), levels[level])
    return total.flatten(2)


def with_gradients(case: Case) -> list[Tensor]:
    """The result of PyTorch's and the gradients of value, locations and weights."""
    return gradients_of(deformable_attention, case)


def gradients_of(function: Any, case: Case) -> list[Tensor]:
    """The result and the gradients of value, locations and weights, for an upstream gradient fixed by the shape."""
    tensors = [t.detach().clone().requires_grad_() for t in (case.value, case.locations, case.weights)]
    out = function(tensors[0], case.shapes, *tensors[1:])
    out.backward(upstream(out))
    return [out.detach(), *(t.grad for t in tensors if t.grad is not None)]


def upstream(out: Tensor) -> Tensor:
    return torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)


def of_kernel(case: Case, threads: int = 1) -> list[Tensor]:
    """The gradients of value, locations and weights by the backward kernel."""
    arrays = [t.contiguous().numpy() for t in (case.value, case.locations, case.weights)]
    batch, queries, heads = case.weights.shape[:3]
    grad = upstream(torch.empty(batch, queries, heads, case.value.shape[3], dtype=case.value.dtype)).numpy()
    levels = np.array(case.shapes, np.int64).reshape(-1, 2)
    return [torch.from_numpy(x) for x in deformable_cpu.point_gradients(arrays[0], levels, *arrays[1:], grad, threads)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shapes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3))
    case = make_case(
        shapes,
        batch=draw(st.integers(1, 2)),
        queries=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 3)),
        channels=draw(st.sampled_from([3, 8])),  # each is a kernel to compile
        points=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 2**31)),
    )
    special = draw(st.lists(st.sampled_from([0.0, 1.0, -0.01, 1.01, 0.5, -7.0, 30.0]), max_size=8))
    case.locations.view(-1)[: len(special)] = torch.tensor(special, dtype=torch.float64)[: case.locations.numel()]
    return away_from_kinks(case)


@given(cases())
@settings(max_examples=40, deadline=None)
def test_result_and_gradients_are_those_of_tents(case: Case) -> None:
    expected, plain = gradients_of(tent_sum, case), with_gradients(case.to(torch.float32))
    kernel = of_kernel(case.to(torch.float32))
    for one, exact in zip((*plain, *kernel), (*expected, *expected[1:]), strict=True):
        # Up to 7 pixels a level and 12 points an output: the largest gradients are about 50.
        torch.testing.assert_close(one.double(), exact, rtol=1e-5, atol=3e-5)
    for one, other in zip(kernel, plain[1:], strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(1.0, other.abs().max().item())


def test_gradients_by_finite_differences() -> None:
    shapes = [(3, 5), (1, 1), (1, 7)]
    case = away_from_kinks(make_case(shapes))
    tensors = [t.requires_grad_() for t in (case.value, case.locations, case.weights)]
    assert torch.autograd.gradcheck(lambda value, *points: deformable_attention(value, shapes, *points), tensors)


def test_on_pixel_centres_the_gradient_is_that_of_the_next_pixel() -> None:
    # Powers of two are exact, so every point lies on a pixel centre or on the first one beyond the border.
    shapes = [(4, 8), (2, 2)]
    case = make_case(shapes, queries=30)
    for level, (height, width) in enumerate(shapes):
        rng = torch.Generator().manual_seed(level)
        for axis, size in enumerate((width, height)):
            place = torch.randint(-1, size + 1, case.locations.shape[:3] + case.locations.shape[4:5], generator=rng)
            case.locations[:, :, :, level, :, axis] = (place + 0.5) / size
    case = case.to(torch.float32)
    for one, other in zip(of_kernel(case), with_gradients(case)[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strange", [float("nan"), float("-inf"), 1e30])
def test_strange_locations_contribute_nothing(strange: float) -> None:
    case = away_from_kinks(make_case([(3, 5), (2, 2)])).to(torch.float32)
    odd = torch.rand(case.locations.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    outside = odd.any(-1)
    moved = case._replace(locations=case.locations.masked_fill(odd, strange))
    expected = gradients_of(tent_sum, case._replace(weights=case.weights.masked_fill(outside, 0)).to(torch.float64))
    got = with_gradients(moved)
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    for of_value, *others in (got[1:], of_kernel(moved)):
        torch.testing.assert_close(of_value.double(), expected[1], rtol=1e-5, atol=1e-5)
        for gradient in others:
            assert not gradient[outside].any()
            assert gradient[~outside].any()


@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [([(2, 3)], {"queries": 0}), ([(2, 3)], {"points": 0}), ([], {}), ([(0, 0), (2, 2)], {})],
)
def test_empty_inputs(shapes: Shapes, sizes: dict[str, int]) -> None:
    case = make_case(shapes, **sizes)
    out, *gradients = with_gradients(case)
    assert out.shape == (case.value.shape[0], case.weights.shape[1], 2 * case.value.shape[3])
    assert [g.shape for g in gradients] == [t.shape for t in (case.value, case.locations, case.weights)]
    if (2, 2) not in shapes:
        assert not any(tensor.any() for tensor in (out, *gradients))
    else:
        torch.testing.assert_close(out, tent_sum(*case))


def test_half_precision_is_computed_in_single() -> None:
    case = make_case([(8, 8)]).to(torch.float32)
    half = case._replace(value=case.value.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = with_gradients(half)
    assert [x.dtype for x in got] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    exact = deformable_attention(half.value.float(), half.shapes, half.locations, half.weights)
    assert torch.equal(got[0], exact.bfloat16())


GOOD = make_case([(2, 3), (1, 2)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shapes": [(2, 3)]}, r"value \(2, 8, 2, 3\), shapes \[\(2, 3\)\]"),
        ({"shapes": [(-2, -3), (1, 2)]}, r"\(-2, -3\)"),
        ({"value": GOOD.value[0]}, r"value \(8, 2, 3\)"),
        ({"locations": GOOD.locations[:, :2]}, r"locations \(2, 2, 2, 2, 2, 2\), weights \(2, 3, 2, 2, 2\)"),
        ({"weights": GOOD.weights.long()}, r"torch.int64"),
        ({"weights": GOOD.weights.to("meta")}, r"cpu, cpu and meta"),
    ],
)
def test_errors_name_what_was_given(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deformable_attention(**{**GOOD._asdict(), **changed})


def make_layer(margin: float | None, *, scale: float = 0.3, **options: Any) -> DeformableAttention:
    """(d 24, 3 heads, 2 levels); where sampling starts, much has no gradient."""
    start = "stock" if margin is None else "interior"
    layer = DeformableAttention(24, 3, 2, 5, margin=margin, offset_start=start, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return layer


def make_memory(*, padded: bool = False) -> Memory:
    padding = torch.arange(38).expand(2, -1) % 5 == 0 if padded else None
    ratios = torch.rand(2, 2, 2) * 0.9 + 0.1
    return Memory(torch.randn(2, 38, 24), ((5, 7), (3, 1)), (8, 16), ratios, padding, torch.ones(2, 2))


def learned(layer: DeformableAttention, query: Tensor, reference: Tensor, memory: Memory) -> dict[str, Tensor]:
    """The result and all gradients."""
    layer.zero_grad()
    query, tokens = query.clone().requires_grad_(), memory.tokens.clone().requires_grad_()
    out = layer(query, reference, memory.with_tokens(tokens))
    out.backward(upstream(out))
    found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return found | {"out": out.detach(), "query": query.grad, "tokens": tokens.grad}  # type: ignore[dict-item]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(2, None), (4, None), (4, 1.0), (4, 1.7)]),
    st.sampled_from([0.1, 3.0]),
    st.booleans(),
    st.booleans(),
)
def test_fused_equals_the_steps_one_by_one(
    seed: int, kind: tuple[int, float | None], scale: float, inside: bool, padded: bool
) -> None:
    torch.manual_seed(seed)
    numbers, margin = kind
    layer, memory = make_layer(margin, scale=scale, inside=inside), make_memory(padded=padded)
    query, reference = torch.randn(2, 6, 24), torch.rand(2, 6, numbers) * 1.5 - 0.2
    slow, fast = (learned_by(layer, fused, query, reference, memory) for fused in (False, True))
    assert fast.keys() == slow.keys()
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, atol=5e-5 * float(value.abs().max() + 1), rtol=1e-4)


def learned_by(layer: DeformableAttention, fused: bool, *arguments: Any) -> dict[str, Tensor]:
    layer.fused = fused
    return learned(layer, *arguments)


@pytest.mark.parametrize(("sides", "margin"), [(2, None), (4, None), (4, 1.0)])
def test_fused_learns_in_bfloat16(sides: int, margin: float | None) -> None:
    torch.manual_seed(0)
    layer, memory, query = make_layer(margin), make_memory(), torch.randn(2, 30, 24)
    reference = torch.rand(2, 30, sides) * 0.8 + 0.1
    with torch.autocast("cpu"):
        slow, fast = (learned_by(layer, fused, query, reference, memory) for fused in (False, True))
    for name, value in slow.items():
        assert float((fast[name] - value).norm()) <= 0.02 * float(value.norm()), name


def test_without_queries() -> None:
    found = learned(make_layer(1.0), torch.randn(2, 0, 24), torch.rand(2, 0, 4), make_memory())
    assert not found["tokens"].any()


def test_a_reference_that_learns_takes_the_plain_way() -> None:
    """As learned queries do."""
    torch.manual_seed(0)
    reference = (torch.rand(2, 5, 2) * 0.8 + 0.1).requires_grad_()
    make_layer(None)(torch.randn(2, 5, 24), reference, make_memory()).sum().backward()
    assert reference.grad is not None
    assert reference.grad.any()


def test_points_clamped_inside_are_those_of_border_padding() -> None:
    """Against ``grid_sample`` with ``padding_mode="border"``, one level and equal weights."""
    torch.manual_seed(0)
    layer = DeformableAttention(6, 1, 1, 4, inside=True).double()
    memory = Memory(
        torch.randn(1, 20, 6).double(), ((4, 5),), (8,), torch.ones(1, 1, 2).double(), None, torch.ones(1, 2)
    )
    query, reference = torch.randn(1, 30, 6).double(), torch.rand(1, 30, 2).double() * 3 - 1
    with torch.no_grad():
        value = layer.value_proj(memory.tokens).view(1, 4, 5, 6).permute(0, 3, 1, 2)
        offsets = layer.sampling_offsets(query).view(1, 30, 4, 2) / torch.tensor([5.0, 4.0])
        grid = 2 * (reference[:, :, None] + offsets) - 1
        samples = torch.nn.functional.grid_sample(value, grid, padding_mode="border", align_corners=False)
        expected = layer.output_proj(samples.mean(-1).transpose(1, 2))
        torch.testing.assert_close(layer(query, reference, memory), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(2, None), (4, None), (4, 1.2)]), st.sampled_from([8, 34]))
def test_fused_in_bfloat16_is_the_rounded_float32(seed: int, kind: tuple[int, float | None], channels: int) -> None:
    """The same numbers as float32 give the same sums; only the result is rounded."""
    torch.manual_seed(seed)
    numbers, margin = kind
    shapes = ((5, 7), (3, 1))
    value, offsets = torch.randn(2, 38, 3, channels).bfloat16(), torch.randn(2, 6, 3, 2, 4, 2).bfloat16()
    logits, reference, ratios = torch.randn(2, 6, 3, 2, 4).bfloat16(), torch.rand(2, 6, numbers), torch.ones(2, 2, 2)
    fused = deformable_attention_fused(value, shapes, offsets, logits, reference, ratios, margin)
    exact = deformable_attention_fused(
        value.float(), shapes, offsets.float(), logits.float(), reference, ratios, margin
    ).bfloat16()
    assert fused.dtype == torch.bfloat16
    torch.testing.assert_close(fused, exact, atol=1e-6, rtol=1e-2)
    assert (fused == exact).float().mean() > 0.95


@pytest.mark.parametrize("points", [1, 9])  # 9 on two levels: more than the kernel takes at once
@pytest.mark.parametrize("strange", [None, float("nan"), float("-inf"), 1e30])
def test_fused_on_pixel_centres_edges_and_nowhere(points: int, strange: float | None) -> None:
    """On a grid of half pixels that reaches beyond the level on all sides, some of it replaced by what is no place."""
    torch.manual_seed(0)
    shapes = ((3, 4), (1, 2))
    x, y = torch.arange(-4, 13) / 8, torch.arange(-4, 11) / 6  # half pixels of the first level
    reference = torch.cartesian_prod(x, y)[None].contiguous()
    if strange is not None:
        reference[0, ::3, 0] = reference[0, 1::3, 1] = strange
    size = 1, reference.shape[1], 2, len(shapes), points
    value, logits, ratios = torch.randn(1, 14, 2, 8), torch.randn(size), torch.ones(1, 2, 2)
    offsets = torch.randint(-1, 2, (*size, 2)).float()  # whole pixels
    fast = deformable_attention_fused(value, shapes, offsets, logits, reference, ratios, None)
    cells = torch.tensor([(w, h) for h, w in shapes])[:, None]
    locations = reference[:, :, None, None, None] + offsets / cells
    weights = logits.flatten(3).softmax(-1).view(size)
    slow = deformable_attention(value.double(), shapes, locations.double(), weights.double())
    torch.testing.assert_close(fast.double(), slow, atol=2e-5, rtol=0)


def test_fused_refuses_a_level_without_pixels() -> None:
    offsets, logits, reference = torch.zeros(1, 1, 1, 2, 1, 2), torch.zeros(1, 1, 1, 2, 1), torch.zeros(1, 1, 2)
    value, ratios = torch.zeros(1, 4, 1, 8), torch.ones(1, 2, 2)
    with pytest.raises(ValueError, match="at least one pixel"):
        deformable_attention_fused(value, ((2, 2), (0, 3)), offsets, logits, reference, ratios, None)


def test_fused_survives_what_is_not_a_number() -> None:
    layer = DeformableAttention(8, 1, 1, 2, margin=1.0)
    memory = Memory(torch.randn(1, 4, 8), ((2, 2),), (8,), torch.ones(1, 1, 2), None, torch.ones(1, 2))
    reference = torch.tensor([[[0.5, 0.5, 0.1, 0.1], [torch.nan, 0.5, 0.1, 0.1], [torch.inf, 0.5, 0.1, 0.1]]])
    with torch.no_grad():
        out = layer(torch.zeros(1, 3, 8), reference, memory)
    assert bool(out[0, 0].isfinite().all())


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads are used however little there is to do, and their number is put back."""
    before = torch.get_num_threads()
    monkeypatch.setattr(deformable_cpu, "_WORTH_A_THREAD", 1)
    yield
    torch.set_num_threads(before)


def fused_gradients(seed: int = 0, batch: int = 2, heads: int = 3) -> list[Tensor]:
    """Result and gradients of the kernel on numbers of a seed."""
    rng = torch.Generator().manual_seed(seed)
    shapes, size = ((9, 7), (4, 4)), (batch, 50, heads, 2, 3)
    drawn = [(batch, 79, heads, 8), (*size, 2), size]
    value, offsets, logits = (torch.randn(x, generator=rng).requires_grad_() for x in drawn)
    reference = torch.rand(batch, 50, 4, generator=rng) * 0.5 + 0.2
    out = deformable_attention_fused(value, shapes, offsets, logits, reference, torch.ones(batch, 2, 2), 1.0)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), (value, offsets, logits))]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("batch", "heads"), [(1, 4), (3, 2)])
def test_the_number_of_threads_does_not_change_a_bit(batch: int, heads: int) -> None:
    results = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        results.append(fused_gradients(batch=batch, heads=heads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("threads")
def test_callers_share_the_threads() -> None:
    torch.set_num_threads(3)
    expected = [fused_gradients(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(fused_gradients, list(range(8)) * 4))
    for number, results in enumerate(got):
        assert all(torch.equal(one, other) for one, other in zip(results, expected[number % 8], strict=True))


def _exit_with_result(case: Case, expected: list[Tensor]) -> None:
    """In a forked process: 0 if the kernel, run on two threads, still gives the expected result."""
    torch.set_num_threads(1)  # PyTorch's own threads do not outlive a fork
    raise SystemExit(0 if all(map(torch.equal, of_kernel(case, threads=2), expected)) else 3)


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own() -> None:
    case = make_case([(9, 7)], queries=40, channels=8).to(torch.float32)
    expected = of_kernel(case, threads=2)  # starts the parent's pool
    child = multiprocessing.get_context("fork").Process(target=_exit_with_result, args=(case, expected))
    child.start()
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("batch", "heads", "threads", "group"), [(2, 8, 2, 8), (1, 8, 2, 4), (3, 8, 2, 4), (1, 8, 3, 1)]
)
def test_heads_are_grouped_so_that_threads_have_equal_work(batch: int, heads: int, threads: int, group: int) -> None:
    assert deformable_cpu._heads_per_group(batch, heads, threads) == group


@pytest.mark.slow
def test_works_where_the_cache_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    expected = fused_gradients()
    deformable_cpu._specialised.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(caching.CacheImpl, "__init__", absent)
        assert all(map(torch.equal, fused_gradients(), expected))
    deformable_cpu._specialised.cache_clear()
