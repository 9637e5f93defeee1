"""A store of results that forgets those unused for longest, for threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Results by key, at most ``most`` bytes of them and always the newest."""

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        """``size`` gives the bytes of a result."""
        self._most, self._size, self._held = most, size, 0
        self._results: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of ``make``, kept. Two threads that ask at once may both make it; one of the two is kept."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        made = make()
        with self._lock:
            if key not in self._results:
                self._results[key] = made
                self._held += self._size(made)
            while self._held > self._most and len(self._results) > 1:
                self._held -= self._size(self._results.popitem(last=False)[1])
        return made
