"""Both backends of the deformable attention against tents summed over every pixel, and against each other."""

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
from celldetr.model.deformable import (
    Backend,
    deformable_attention,
    deformable_attention_fused,
    deformable_attention_reference,
)
from celldetr.model.layers import DeformableAttention
from celldetr.model.memory import Memory

BACKENDS: tuple[Backend, ...] = ("reference", "numba")
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


def with_gradients(function: Any, case: Case, **options: Any) -> list[Tensor]:
    """The result and the gradients of value, locations and weights, for an upstream gradient fixed by the shape."""
    value, locations, weights = (
        t.detach().clone().requires_grad_() for t in (case.value, case.locations, case.weights)
    )
    out = function(value, case.shapes, locations, weights, **options)
    upstream = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
    out.backward(upstream)
    return [out.detach(), *(t.grad for t in (value, locations, weights) if t.grad is not None)]


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
    expected = with_gradients(tent_sum, case)
    reference, kernel = (
        with_gradients(deformable_attention, case.to(torch.float32), backend=backend) for backend in BACKENDS
    )
    assert len(reference) == len(kernel) == len(expected) == 4
    for one, other, exact in zip(kernel, reference, expected, strict=True):
        # Up to 7 pixels a level and 12 points an output: the largest gradients are about 50.
        torch.testing.assert_close(one.double(), exact, rtol=1e-5, atol=3e-5)
        torch.testing.assert_close(other.double(), exact, rtol=1e-5, atol=3e-5)
        assert (one - other).abs().max() <= 1e-5 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_by_finite_differences(backend: Backend) -> None:
    shapes = [(3, 5), (1, 1), (1, 7)]
    case = away_from_kinks(make_case(shapes))
    tensors = [t.requires_grad_() for t in (case.value, case.locations, case.weights)]

    def function(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deformable_attention(value, shapes, locations, weights, backend=backend)

    assert torch.autograd.gradcheck(function, tensors)


def test_on_pixel_centres_the_gradient_is_that_of_the_next_pixel() -> None:
    # Powers of two are exact, so every point lies on a pixel centre or on the first one beyond the border.
    shapes = [(4, 8), (2, 2)]
    case = make_case(shapes, queries=30)
    for level, (height, width) in enumerate(shapes):
        rng = torch.Generator().manual_seed(level)
        for axis, size in enumerate((width, height)):
            place = torch.randint(-1, size + 1, case.locations.shape[:3] + case.locations.shape[4:5], generator=rng)
            case.locations[:, :, :, level, :, axis] = (place + 0.5) / size
    reference, kernel = (
        with_gradients(deformable_attention, case.to(torch.float32), backend=backend) for backend in BACKENDS
    )
    for one, other in zip(kernel, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strange", [float("nan"), float("-inf"), 1e30])
def test_strange_locations_contribute_nothing(backend: Backend, strange: float) -> None:
    case = away_from_kinks(make_case([(3, 5), (2, 2)])).to(torch.float32)
    odd = torch.rand(case.locations.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    outside = odd.any(-1)
    got = with_gradients(
        deformable_attention, case._replace(locations=case.locations.masked_fill(odd, strange)), backend=backend
    )
    expected = with_gradients(tent_sum, case._replace(weights=case.weights.masked_fill(outside, 0)).to(torch.float64))
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-5)
    for gradient in got[2:]:
        assert not gradient[outside].any()
        assert gradient[~outside].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_pixel_spoils_only_points_beside_it(backend: Backend) -> None:
    shapes = [(4, 4)]
    value = torch.zeros(1, 16, 1, 3)
    value[0, 0] = float("nan")
    locations = torch.tensor([[0.2, 0.2], [0.7, 0.7], [1.1, 0.7]]).view(1, 3, 1, 1, 1, 2)
    out = deformable_attention(value, shapes, locations, torch.ones(1, 3, 1, 1, 1), backend=backend)
    assert out.isnan().all(-1).tolist() == [[True, False, False]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [
        ([(2, 3)], {"queries": 0}),
        ([(2, 3)], {"points": 0}),
        ([], {}),
        ([(0, 0), (2, 2)], {}),
    ],
)
def test_empty_inputs(backend: Backend, shapes: Shapes, sizes: dict[str, int]) -> None:
    case = make_case(shapes, **sizes)
    out, *gradients = with_gradients(deformable_attention, case, backend=backend)
    assert out.shape == (case.value.shape[0], case.weights.shape[1], 2 * case.value.shape[3])
    assert [g.shape for g in gradients] == [t.shape for t in (case.value, case.locations, case.weights)]
    if (2, 2) not in shapes:
        assert not any(tensor.any() for tensor in (out, *gradients))
    else:
        torch.testing.assert_close(out, tent_sum(*case))


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layout_does_not_matter(backend: Backend) -> None:
    case = make_case([(3, 4), (2, 2)])
    expected = with_gradients(deformable_attention, case, backend=backend)
    value = case.value.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    locations = torch.stack([case.locations, -case.locations], -1)[..., 0]
    assert [value.is_contiguous(), locations.is_contiguous()] == [False, False]
    strided = case._replace(value=value, locations=locations)
    for one, other in zip(with_gradients(deformable_attention, strided, backend=backend), expected, strict=True):
        torch.testing.assert_close(one, other)

    alike = case.locations[:, :1].expand_as(case.locations)  # one set of points for all queries
    broadcast = deformable_attention(case.value, case.shapes, alike, case.weights, backend=backend)
    torch.testing.assert_close(broadcast, tent_sum(case.value, case.shapes, alike.clone(), case.weights))


def test_half_precision_is_computed_in_single() -> None:
    case = make_case([(8, 8)]).to(torch.float32)
    half = case._replace(value=case.value.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernel, reference = (with_gradients(deformable_attention, half, backend=backend) for backend in BACKENDS)
    assert kernel[0].dtype == reference[0].dtype == torch.bfloat16
    assert [g.dtype for g in kernel[1:]] == [torch.bfloat16, torch.float32, torch.float32]
    exact = deformable_attention(half.value.float(), half.shapes, half.locations, half.weights)
    assert torch.equal(kernel[0], exact.bfloat16())
    torch.testing.assert_close(kernel[0], reference[0])
    torch.testing.assert_close(kernel[2], reference[2], rtol=1e-4, atol=1e-4)


def test_without_autograd() -> None:
    case = make_case([(3, 4)])
    expected = tent_sum(*case)
    with torch.no_grad():
        torch.testing.assert_close(deformable_attention(*case), expected)
    with torch.inference_mode():
        value = case.value * 1  # an inference tensor
        torch.testing.assert_close(deformable_attention(value, *case[1:]), expected)
    assert not deformable_attention(*case).requires_grad


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads are used however little there is to do, and their number is put back."""
    before = torch.get_num_threads()
    monkeypatch.setattr(deformable_cpu, "_WORTH_A_THREAD", 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("batch", "heads"), [(1, 4), (3, 2)])
def test_the_number_of_threads_does_not_change_a_bit(batch: int, heads: int) -> None:
    case = make_case([(9, 7), (4, 4)], batch=batch, heads=heads, queries=50, channels=8).to(torch.float32)
    torch.set_num_threads(1)
    expected = with_gradients(deformable_attention, case)
    for count in (2, 3, 5):
        torch.set_num_threads(count)
        for one, other in zip(with_gradients(deformable_attention, case), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("threads")
def test_callers_share_the_threads() -> None:
    torch.set_num_threads(3)
    many = [make_case([(9, 7)], queries=40, channels=8, seed=seed).to(torch.float32) for seed in range(8)]
    expected = [with_gradients(deformable_attention, case) for case in many]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda case: with_gradients(deformable_attention, case), many * 4))
    for number, results in enumerate(got):
        assert all(torch.equal(one, other) for one, other in zip(results, expected[number % 8], strict=True))


def _exit_with_result(case: Case, expected: np.ndarray) -> None:
    """In a forked process: 0 if the kernel, run on two threads, still gives the expected result."""
    arrays = (case.value.numpy(), np.array(case.shapes), case.locations.numpy(), case.weights.numpy())
    raise SystemExit(0 if np.array_equal(deformable_cpu.forward(*arrays, threads=2), expected) else 3)


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own() -> None:
    case = make_case([(9, 7)], queries=40, channels=8).to(torch.float32)
    arrays = (case.value.numpy(), np.array(case.shapes), case.locations.numpy(), case.weights.numpy())
    expected = deformable_cpu.forward(*arrays, threads=2)  # starts the parent's pool
    child = multiprocessing.get_context("fork").Process(target=_exit_with_result, args=(case, expected))
    child.start()
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("batch", "heads", "threads", "group"), [(2, 8, 2, 8), (1, 8, 2, 4), (3, 8, 2, 4), (1, 8, 3, 1)]
)
def test_heads_are_grouped_so_that_threads_have_equal_work(batch: int, heads: int, threads: int, group: int) -> None:
    assert deformable_cpu._heads_per_group(batch, heads, threads) == group


def test_works_where_the_cache_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case([(3, 4)], channels=5)  # compiled by no other test

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def absent(*_: Any) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    for failure, target, name in ((full, caching.IndexDataCacheFile, "save"), (absent, caching.CacheImpl, "__init__")):
        deformable_cpu._specialised.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(target, name, failure)
            torch.testing.assert_close(deformable_attention(*case), tent_sum(*case))
    deformable_cpu._specialised.cache_clear()


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
        ({"backend": "cuda"}, r"'cuda'"),
    ],
)
def test_errors_name_what_was_given(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deformable_attention(**{**GOOD._asdict(), **changed})


def test_numba_refuses_other_devices() -> None:
    tensors = {name: getattr(GOOD, name).to("meta") for name in ("value", "locations", "weights")}
    with pytest.raises(ValueError, match="needs CPU tensors, got meta"):
        deformable_attention(**tensors, shapes=GOOD.shapes, backend="numba")
    assert deformable_attention_reference(**tensors, shapes=GOOD.shapes).shape == (2, 3, 6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(2, None), (4, None), (4, 1.0), (4, 1.7)]),
    st.booleans(),
    st.booleans(),
)
def test_fused_equals_the_steps_one_by_one(seed: int, kind: tuple[int, float | None], wild: bool, inside: bool) -> None:
    """Results and gradients of the kernel that makes locations and weights, and of the layer that does in PyTorch."""
    torch.manual_seed(seed)
    numbers, margin = kind
    start = "interior" if margin else "stock"
    layer = DeformableAttention(24, 3, 2, 5, margin=margin, offset_start=start, inside=inside)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * (3.0 if wild else 0.1))
    shapes = ((5, 7), (3, 1))
    memory = Memory(torch.randn(2, 38, 24), shapes, (8, 16), torch.rand(2, 2, 2) + 0.1, None, torch.ones(2, 2))
    query, reference = torch.randn(2, 6, 24), torch.rand(2, 6, numbers) * 1.5 - 0.2

    def results(fused: bool) -> list[torch.Tensor]:
        layer.fused = fused
        layer.zero_grad()
        out = layer(query, reference, memory)
        (out * torch.cos(torch.arange(out.numel()).view(out.shape))).sum().backward()
        return [out.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]

    for fast, slow in zip(results(True), results(False), strict=True):
        torch.testing.assert_close(fast, slow, atol=5e-5 * float(slow.abs().max() + 1), rtol=1e-4)


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
    slow = deformable_attention_reference(value.double(), shapes, locations.double(), weights.double())
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
