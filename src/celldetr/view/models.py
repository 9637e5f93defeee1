"""Models as a table on a terminal: what they find, where they may be used, how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.table import Table


class Described(Protocol):
    """What the table needs of a checkpoint's card."""

    @property
    def name(self) -> str:
        """As ``celldetr models`` lists it."""
        ...

    @property
    def licence(self) -> str:
        """Of the weights."""
        ...

    @property
    def sha256(self) -> str:
        """Of the weights file."""
        ...

    @property
    def metrics(self) -> dict[str, Any]:
        """By data set and split."""
        ...

    @property
    def training_data(self) -> tuple[dict[str, Any], ...]:
        """With ``name`` and ``split`` of each source."""
        ...

    @property
    def config(self) -> Any:
        """With ``types``, ``mpp``, ``backbone`` and ``d_model``."""
        ...


def models_table(cards: Sequence[Described]) -> Table:
    """One row a model."""
    table = Table(title="Models", show_lines=True)
    for heading in ("name", "types", "µm/px", "network", "trained on", "licence", "metrics", "SHA-256"):
        table.add_column(heading, overflow="fold")
    for card in cards:
        table.add_row(
            card.name,
            ", ".join(card.config.types),
            f"{card.config.mpp:g}",
            f"{card.config.backbone}, d {card.config.d_model}",
            ", ".join(f"{source['name']} ({source['split']})" for source in card.training_data),
            card.licence,
            "\n".join(_metric_lines(card.metrics)),
            card.sha256[:12],
        )
    return table


def _metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """``{"brca-m2c test": {"detection.f1": 0.85}}`` -> ``brca-m2c test: detection.f1 0.850``, numbers only."""
    lines = []
    for where, numbers in metrics.items():
        shown = [f"{name} {value:.3f}" for name, value in numbers.items() if isinstance(value, float)]
        lines.append(f"{where}: " + ", ".join(shown))
    return lines
