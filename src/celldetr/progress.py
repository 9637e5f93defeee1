"""How far a long task is: the callback that long functions take."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Called now and then with how many items are done, and how many there are."""
