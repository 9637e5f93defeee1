"""Sine encodings against their formulas."""

import math

import pytest
import torch

from celldetr.model.position import LONGEST_PX, SHORTEST_PX, encode_fractions, encode_pixels


@pytest.mark.parametrize("features", [2, 4, 16])
def test_fractions_follow_detrs_formula(features: int) -> None:
    x = [0.0, 0.123, 0.5, 1.0]
    found = encode_fractions(torch.tensor(x), features)
    for row, value in zip(found.tolist(), x, strict=True):
        for i in range(features):
            phase = 2 * math.pi * value / 10000 ** (2 * (i // 2) / features)
            assert row[i] == pytest.approx(math.sin(phase) if i % 2 == 0 else math.cos(phase), abs=1e-5)


@pytest.mark.parametrize("features", [4, 16])
def test_pixels_have_wavelengths_from_the_shortest_to_the_longest(features: int) -> None:
    x = [0.0, 3.7, 100.0, 1000.0]
    found = encode_pixels(torch.tensor(x), features)
    for row, value in zip(found.tolist(), x, strict=True):
        for pair in range(features // 2):
            wavelength = SHORTEST_PX * (LONGEST_PX / SHORTEST_PX) ** (pair / (features // 2 - 1))
            phase = 2 * math.pi * value / wavelength
            assert row[2 * pair] == pytest.approx(math.sin(phase), abs=1e-3)
            assert row[2 * pair + 1] == pytest.approx(math.cos(phase), abs=1e-3)


def test_two_features_are_the_shortest_wavelength() -> None:
    assert encode_pixels(torch.tensor([2.0]), 2).tolist()[0] == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("encode", [encode_fractions, encode_pixels])
def test_shape_and_length_of_an_encoding(encode) -> None:
    found = encode(torch.rand(2, 5, 3), 8)
    assert found.shape == (2, 5, 3, 8)
    pairs = found.unflatten(-1, (4, 2)).square().sum(-1)
    torch.testing.assert_close(pairs, torch.ones_like(pairs))  # sine and cosine of one phase


def test_pixels_apart_are_told_apart_and_shifts_keep_distances() -> None:
    x = torch.arange(0.0, 512.0, 2.0)
    here, there = encode_pixels(x, 64), encode_pixels(x + 333, 64)
    apart, apart_there = ((code[:, None] - code).norm(dim=-1) for code in (here, there))
    assert float((apart + torch.eye(len(x)) * 10).min()) > 0.5
    torch.testing.assert_close(apart, apart_there, atol=2e-3, rtol=0)
