"""One line of text about each finished step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Facts = Mapping[str, Any]


def sentence(step: str, facts: Facts) -> str:
    """One line about a step.

    Args:
        step: its name.
        facts: its numbers, see ``Pipeline.facts``.
    """
    return _SENTENCES[step](facts)


def _read(facts: Facts) -> str:
    outlines = " and ".join(facts["polygons"]) or "no outlines"
    return (
        f"{facts['name']}, {facts['cells']:,} cells x {facts['genes']:,} genes,"
        f" {facts['median_counts']:,.0f} transcripts a cell in the median; {outlines}"
    )


def _qc(facts: Facts) -> str:
    reasons = ", ".join(f"{count:,} {words}" for words, count in facts["reasons"].items())
    return f"{facts['passed']:,} of {facts['cells']:,} cells pass" + (f"; others: {reasons}" if reasons else "")


def _type(facts: Facts) -> str:
    kinds = sorted(facts["types"].items(), key=lambda item: -item[1])
    return f"{facts['sure']:,} of {facts['cells']:,} cells are sure of their type, by {facts['method']}; " + ", ".join(
        f"{name} {count:,}" for name, count in kinds
    )


def _nuclei(facts: Facts) -> str:
    return f"{facts['nuclei']:,} nuclei, {facts['median_side_um']:.1f} um across in the median"


def _align(facts: Facts) -> str:
    pairs = facts["pairs"]
    return (
        f"{facts['why']}; {pairs['pairs']:,} pairs, {pairs['cells_paired']:.0%} of the cells and"
        f" {pairs['nuclei_paired']:.0%} of the nuclei, {pairs['median_um']:.2f} um apart in the median"
    )


def _write(facts: Facts) -> str:
    regions = sum(slide["patches"] > 0 for slide in facts["slides"])
    return (
        f"{facts['patches']:,} patches with {facts['nuclei']:,} nuclei in {regions} regions,"
        f" types {', '.join(facts['types'])}"
    )


_SENTENCES: dict[str, Callable[[Facts], str]] = {
    "read": _read,
    "qc": _qc,
    "type": _type,
    "nuclei": _nuclei,
    "align": _align,
    "write": _write,
}
