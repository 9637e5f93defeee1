"""What the pictures need from an open slide."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SlideImage(Protocol):
    """Pixels of a slide at any resolution; ``celldetr.slide.reader.SlideReader`` is the real one."""

    @property
    def width(self) -> int:
        """Of level 0, px."""
        ...

    @property
    def height(self) -> int:
        """Of level 0, px."""
        ...

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of level 0."""
        ...

    def read_region(
        self, x: float, y: float, width: float, height: float, out_width: int, out_height: int
    ) -> NDArray[np.uint8]:
        """A rectangle in level-0 pixels -> (out_height, out_width, 3) uint8 RGB, white outside the slide."""
        ...
