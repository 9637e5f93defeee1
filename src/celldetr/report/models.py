"""Models as text on a terminal: types, resolution, licence, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from celldetr.model.checkpoint import Card


def models_table(cards: Sequence[Card]) -> Group:
    """One block a model: its name, then a line a fact, which fits a terminal of any width."""
    blocks: list[RenderableType] = []
    for card in cards:
        facts = Table(title=Text(card.name), title_justify="left", box=None, show_header=False, pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        sources = (f"{source.get('name')} ({source.get('split')})" for source in card.training_data)
        rows = [
            ("types", ", ".join(card.config.types)),
            ("resolution", f"{card.config.mpp:g} µm per pixel"),
            ("network", f"{card.config.backbone}, d {card.config.d_model}"),
            ("trained on", ", ".join(sources)),
            ("licence", card.licence),
            ("threshold", f"{card.threshold:.3f}"),
            *(("metrics", line) for line in _metric_lines(card.metrics)),
            ("SHA-256", card.sha256),
        ]
        for name, fact in rows:
            facts.add_row(name, Text(fact))  # a card's words are not rich's markup
        blocks += [facts, ""]
    return Group(*blocks)


def _metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """``{"brca-m2c test": {"detection.f1": 0.85}}`` -> ``brca-m2c test: detection.f1 0.850``, numbers only."""
    lines = []
    for where, numbers in metrics.items():
        if not isinstance(numbers, Mapping):
            continue
        shown = [f"{name} {value:.3f}" for name, value in numbers.items() if isinstance(value, float)]
        lines.append(f"{where}: " + ", ".join(shown))
    return lines
