"""Runs of the slide engine for their table alone."""

from __future__ import annotations

from typing import Any

from celldetr.slide import engine


def run_slide(*args: Any, **options: Any) -> engine.RunSummary:
    """``engine.run_slide``, which lets go of the slide's folder."""
    with engine.run_slide(*args, **options) as summary:
        return summary
