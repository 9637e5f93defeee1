"""The nuclei in a large JSON file, one after the other: the file itself may be larger than what memory holds parsed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from celldetr.errors import InputError
from celldetr.untrusted import GZIP_MAGIC

CHUNK = 2**20  # characters read at a time
SETTLED = 2**18  # characters before the end of what was read: what is wrong there stays wrong, whatever follows
LARGEST_VALUE = 64 * 2**20  # characters of one value that is not such a list
LISTS = ("cells", "features")
_SPACE = " \t\r\n"


def read_items(path: Path) -> Iterator[tuple[str, Any]]:
    """The items of the list that a JSON file is, or that it has under ``cells`` or ``features``.

    Items come as ("[]", value), ("cells[]", value) or ("features[]", value), and what else an object holds as
    ("key", value), in the order of the file.

    Raises:
        InputError: no such file, not JSON, or a value too large.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as stream:
            yield from _Reader(stream).top()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as JSON ({error}); export the nuclei again") from None


class _Reader:
    """Decodes values of a stream one at a time, with no more of it in memory than the value at hand."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._text, self._at = stream, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def top(self) -> Iterator[tuple[str, Any]]:
        first = self._peek()
        if first == "[":
            for value in self._list():
                yield "[]", value
        elif first == "{":
            yield from self._object()
        else:
            raise ValueError(f"it begins with {first!r}" if first else "it is empty or cut off")
        if self._peek():
            raise ValueError("something follows its end")

    def _object(self) -> Iterator[tuple[str, Any]]:
        self._take("{")
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str):
                raise ValueError(f"the key {str(key)[:40]!r} is no text")
            self._take(":")
            if key in LISTS and self._peek() == "[":
                for value in self._list():
                    yield f"{key}[]", value
            else:
                yield key, self._value()
            self._comma("}")
        self._take("}")

    def _list(self) -> Iterator[Any]:
        self._take("[")
        while self._peek() != "]":
            yield self._value()
            self._comma("]")
        self._take("]")

    def _comma(self, end: str) -> None:
        if self._peek() == ",":
            self._at += 1
            if self._peek() == end:
                raise ValueError(f"a comma before {end!r}")
        elif self._peek() != end:
            raise ValueError(f"expected ',' or {end!r}, got {self._peek()!r}" if self._peek() else "it is cut off")

    def _take(self, sign: str) -> None:
        if self._peek() != sign:
            raise ValueError(f"expected {sign!r}, got {self._peek()!r}" if self._peek() else "it is cut off")
        self._at += 1

    def _peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, at least as much as is held, so that a long value is not tried too often."""
        rest = self._text[self._at :]
        if len(rest) > LARGEST_VALUE:
            raise ValueError(f"a value has more than {LARGEST_VALUE:,} characters, or is damaged")
        read = self._stream.read(max(CHUNK, len(rest)))
        self._text, self._at = rest + read, 0
        return bool(read)

    def _value(self) -> Any:
        if not self._peek():
            raise ValueError("it is cut off")
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - error.pos > SETTLED or not self._more():
                    raise
                continue
            if end == len(self._text) and self._more_after(end):
                continue  # a number may go on
            self._at = end
            return value

    def _more_after(self, end: int) -> bool:
        return self._text[end - 1] not in '}]"' and self._more()
