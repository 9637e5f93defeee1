"""The items of the list in a JSON file, one after the other: the file may be larger than what memory holds parsed.

A million cells are some 500 MB of JSON, and several times that as Python's lists and dictionaries. Here text is read in
chunks, and ``json`` decodes one item of it at a time: as fast as in one go, and as strict in what it accepts.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from celldetr.errors import InputError
from celldetr.io.safe_io import GZIP_MAGIC, JSON_BYTES

CHUNK = 2**20  # characters read at a time
SETTLED = 2**18  # characters before the end of what was read: what is wrong there stays wrong, whatever follows
LARGEST = JSON_BYTES  # characters of one item, or of all that is not in a list; decoded it is some ten times that
MOST_ITEMS = 10_000_000  # in a file; the cells of the largest slides are half as many
LISTS = ("cells", "features")
_SPACE = re.compile(r"[ \t\r\n]*")


Item = tuple[str | None, bool, Any]  # see read_items


def read_items(path: Path, refused: str, advice: str) -> Iterator[Item]:
    """What a JSON file holds, also compressed (gzip), in the order of the file and never all at once.

    First comes (None, False, value): the value itself if it is neither a list nor an object, else an empty one of its
    kind, whose content follows. Of a list, its items as (None, True, item). Of an object, its members as (key, False,
    value), except lists under the keys in ``LISTS``: (key, False, []), then for each item (key, True, item).

    Args:
        path: the file. It is opened once, so that it may be a pipe.
        refused, advice: what is said before and after the reason when it is not JSON.

    Raises:
        InputError: no such file, it cannot be read, is not JSON, an item or what surrounds the items has more than
            ``LARGEST`` characters, or there are more than ``MOST_ITEMS``. What comes before the fault has come by then.
    """
    try:
        with _text(path) as stream:
            yield from _Reader(stream).top()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except _TooLargeError as error:
        raise InputError(f"{path}: {error}; is it the right file?") from None
    except ValueError as error:
        raise InputError(f"{path}: {refused} ({error}); {advice}") from None


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    """The text of a file, unpacked; in the encodings that ``json.loads`` finds in bytes."""
    with path.open("rb") as file:
        packed = file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        with gzip.GzipFile(fileobj=file) if packed else file as stream:
            encoding = json.detect_encoding(stream.peek(4)[:4])
            yield io.TextIOWrapper(stream, encoding, errors="surrogatepass", newline="")


class _TooLargeError(ValueError):
    """Larger than honest files are."""


class _Reader:
    """Decodes values of a stream one at a time, with no more of its text in memory than the value at hand."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._text, self._at = stream, "", 0
        self._passed = 0  # characters before ``_text``
        self._kept = 0  # where the item at hand begins, or what surrounds the lists, which whoever reads may keep
        self._items = 0
        self._decode = json.JSONDecoder().raw_decode

    def top(self) -> Iterator[Item]:
        first = self._peek()
        if first == "[":
            yield None, False, []
            yield from self._list(None)
        elif first == "{":
            yield None, False, {}
            yield from self._object()
        else:
            yield None, False, self._value()
        if self._peek():
            raise self._wrong("something follows its end")

    def _object(self) -> Iterator[Item]:
        self._take("{")
        seen = set()
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str):
                raise self._wrong("expected a key before")
            self._take(":")
            if key in LISTS and self._peek() == "[":
                if key in seen:  # to json.loads the last counts, but the first has gone out
                    raise self._wrong(f"{key!r} is there twice")
                seen.add(key)
                yield key, False, []
                yield from self._list(key)
            else:
                yield key, False, self._value()
            self._comma("}")
        self._take("}")

    def _list(self, key: str | None) -> Iterator[Item]:
        self._take("[")
        self._kept = self._passed + self._at
        while self._peek() != "]":
            self._items += 1
            if self._items > MOST_ITEMS:
                raise _TooLargeError(f"holds more than {MOST_ITEMS:,} objects")
            yield key, True, self._value()
            self._kept = self._passed + self._at
            self._comma("]")
        self._take("]")

    def _comma(self, end: str) -> None:
        if self._peek() == ",":
            self._at += 1
            if self._peek() == end:
                raise self._wrong(f"a comma before {end!r}")
        elif self._peek() != end:
            raise self._wrong(f"expected ',' or {end!r}")

    def _take(self, sign: str) -> None:
        if self._peek() != sign:
            raise self._wrong(f"expected {sign!r}")
        self._at += 1

    def _peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, at least as much as is held, so that a long value is not tried too often."""
        rest = self._text[self._at :]
        self._passed, self._at = self._passed + self._at, 0
        size = self._passed + len(rest) - self._kept
        if size > LARGEST:
            raise _TooLargeError(f"an object in it holds more than {LARGEST / 2**20:g} MB")
        self._text = ""  # not three copies of what may be large
        read = self._stream.read(min(max(CHUNK, len(rest)), LARGEST + 1 - size))
        self._text = rest + read
        return bool(read)

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except json.JSONDecodeError as error:
                # Of a string without an end, however long, the position is that of its beginning.
                settled = len(self._text) - error.pos > SETTLED and not error.msg.startswith("Unterminated string")
                place = self._passed + error.pos
                if settled or not self._more():
                    raise self._wrong(error.msg, place) from None
                continue
            length, last = end - self._at, self._text[end - 1]
            if len(self._text) - end < len("e+1") and last not in '}]"' and self._more():
                continue  # a number may go on, of which "0", "0." and "0e+" are read as 0
            self._at += length
            return value

    def _wrong(self, what: str, place: int | None = None) -> ValueError:
        """An error with its place, by default the present one: in the file, not in the chunk."""
        place = self._passed + self._at if place is None else place
        if place >= self._passed + len(self._text):
            return ValueError(f"{what}, but it ends: it is cut off or empty")
        return ValueError(f"{what} at character {place + 1:,}")
