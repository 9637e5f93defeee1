"""The command line."""

from celldetr.cli.root import app, main

__all__ = ["app", "main"]
