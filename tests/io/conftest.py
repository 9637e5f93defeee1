"""The slide of discs, the model that finds them, and processes to kill are those of the engine's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "slide"))
