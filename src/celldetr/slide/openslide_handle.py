"""An OpenSlide handle that outlives a damaged place.

After one failed read OpenSlide answers every question to that handle with the same error, in all threads. So a read
that fails is tried again with a fresh handle that no other thread has: if that works, the fresh one is everybody's from
then on; if not, the place itself is damaged. The old one is closed when the last thread has left it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openslide
from PIL import Image

from celldetr.errors import InputError


@dataclass
class _Lent:
    """A handle, how many threads are reading with it, and whether it is to be closed after them."""

    slide: openslide.AbstractSlide
    users: int = 0
    retired: bool = False


class OpenSlideHandle:
    """Reads regions of a slide, from any number of threads.

    Args:
        path: of the slide, to open it anew.
        slide: open; closed with the handle.
    """

    def __init__(self, path: Path, slide: openslide.AbstractSlide) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._current = _Lent(slide)

    def read(self, origin: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """``OpenSlide.read_region``.

        Raises:
            openslide.OpenSlideError: the file is damaged there.
            InputError: the file cannot be opened any more.
        """
        with self._lend() as lent:
            try:
                return lent.slide.read_region(origin, level, size)
            except openslide.OpenSlideError:
                pass  # of this read, or of an earlier one
        try:
            fresh = _Lent(openslide.OpenSlide(str(self._path)))
        except (openslide.OpenSlideError, OSError) as error:
            raise InputError(
                f"{self._path}: cannot be read any more ({error}); is the disk or the network share still there?"
            ) from None
        try:
            image = fresh.slide.read_region(origin, level, size)
        except BaseException:
            fresh.slide.close()
            raise
        self._replace(lent, fresh)
        return image

    @contextmanager
    def _lend(self) -> Iterator[_Lent]:
        with self._lock:
            lent = self._current
            lent.users += 1
        try:
            yield lent
        finally:
            with self._lock:
                lent.users -= 1
                last = lent.retired and not lent.users
            if last:
                lent.slide.close()

    def _replace(self, old: _Lent, fresh: _Lent) -> None:
        with self._lock:
            if self._current is old:
                self._current = fresh
            else:  # another thread was quicker
                old = fresh
            old.retired = True
            idle = not old.users
        if idle:
            old.slide.close()

    def close(self) -> None:
        """Close the file."""
        self._current.slide.close()
