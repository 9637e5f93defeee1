"""Charts are well-formed SVG and say what the numbers say."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celldetr.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    histogram_plot,
    scatter_map,
    strip_plot,
    ticks,
)
from celldetr.report.page import templates


def svg(macro: str, *charts: Any) -> ElementTree.Element:
    """What a macro of charts.html makes of charts."""
    return ElementTree.fromstring(getattr(templates().get_template("charts.html").module, macro)(*charts))


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(2, 10))
def test_ticks_are_few_round_and_inside(low: float, span: float, about: int) -> None:
    found = ticks(low, low + span, about)
    assert len(found) <= 2.5 * about + 1
    assert all(low - 1e-6 <= value <= low + span + 1e-6 for value in found)
    if len(found) > 2:
        steps = np.diff(found)
        assert np.allclose(steps, steps[0], rtol=1e-4)
        assert round(steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-6), 3) in (1, 2, 5)


def test_a_histogram_is_as_high_as_its_shares() -> None:
    edges = np.linspace(0, 4, 5)
    shares = np.array([[10.0, 40.0, 30.0, 20.0], [0.0, 0.0, 0.0, 0.0]])
    plot = histogram_plot(edges, shares, ["red", "blue"], ["a & b", "c"], "x <µm>", 'the "title"')
    root = svg("histogram", plot)
    lines = [node for node in root.iter() if node.get("class") == "line"]
    assert [line.get("stroke") for line in lines] == ["red"]  # a type without cells has no line
    path = str(lines[0].get("d"))
    heights = [HEIGHT - BOTTOM - float(v) for v in re.findall(r"V([\d.]+)", path)]
    assert np.allclose(np.array(heights) / heights[1], shares[0] / 40, atol=0.01)
    places = [float(v) for v in re.findall(r"H([\d.]+)", path)]
    assert np.allclose(places, LEFT + (WIDTH - LEFT - RIGHT) * edges[1:] / 4, atol=0.1)
    assert max(heights) <= HEIGHT - BOTTOM - TOP
    assert [node.text for node in root.iter("title")] == ["a & b"]


@given(st.integers(1, 40), st.integers(0, 1000))
def test_all_points_lie_on_the_map(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 2)) * rng.uniform(1e-3, 100, 2)
    codes = rng.integers(0, 3, n)
    root = svg("scatter", scatter_map(points, codes, ["r", "g", "b"], "map"))
    width, height = (float(v) for v in str(root.get("viewBox")).split()[2:])
    drawn = {"r": 0, "g": 0, "b": 0}
    for node in root:
        places = np.array(re.findall(r"M([\d.]+) ([\d.]+)h0", str(node.get("d"))), dtype=float)
        assert (places >= 0).all()
        assert (places <= [width, height]).all()
        if node.get("class") == "dot":
            drawn[str(node.get("stroke"))] += len(places)
    assert list(drawn.values()) == np.bincount(codes, minlength=3).tolist()


def test_a_strip_has_a_row_of_dots_for_each_type() -> None:
    values = [np.array([1.0, 2.0, 9.0]), np.zeros(0)]
    root = svg("strip", *strip_plot(values, ["red", "blue"], ["a & b", "c"], "cells", "densities"))
    (dots,) = (node for node in root if node.get("class") == "dot")
    assert dots.get("stroke") == "red"
    places = [float(x) for x in re.findall(r"M([\d.]+) ", str(dots.get("d")))]
    (median,) = (node for node in root if node.get("class") == "median")
    assert str(median.get("d")).startswith(f"M{places[1]} ")
    assert (places[2] - places[0]) / (places[1] - places[0]) == pytest.approx(8, rel=0.01)
    assert {"a & b", "c", "cells"} <= {node.text for node in root.iter("text")}
