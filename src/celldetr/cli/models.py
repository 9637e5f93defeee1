"""``celldetr models``: the models that can be used by name."""

from __future__ import annotations


def models() -> None:
    """List the models that can be used by name.

    With licence and metrics.
    """
    from rich.console import Console

    from celldetr.model.hub import cards
    from celldetr.report.models import models_table

    Console().print(models_table(cards()))
