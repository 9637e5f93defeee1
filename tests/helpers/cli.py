"""The entry point, as the installed program calls it."""

from __future__ import annotations

import sys

import pytest

from celldetr import cli


def call(*arguments: object) -> int:
    """Run ``celldetr`` with arguments in this process; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["celldetr", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0
