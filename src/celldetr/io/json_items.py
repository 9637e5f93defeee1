"""Items of the list in a JSON file larger than memory, one at a time, decoded by ``json``.

A file may be compressed with gzip or be the only one in a ZIP archive (as QuPath exports), in UTF-8 or UTF-16.

ijson is as fast, but refuses NaN, which QuPath before 0.5 writes for measurements that it could not make.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

from celldetr.errors import InputError
from celldetr.io.safe_io import JSON_BYTES

MORE = "Extra data"  # what is said of a value after the first
LISTS = ("features", "cells")  # keys of GeoJSON and CellViT
CHUNK = 2**20  # characters read at a time
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_SIGN = re.compile(r"[^ \t\r\n]")


def read_items(path: Path, expected: str, *, rest: bool = False) -> Iterator[tuple[str | None, Any]]:
    """The items of the list in a JSON file, also compressed; ``expected``: its format, for messages.

    Yields:
        (key, item) for each item of the lists that an object has under the keys in ``LISTS``; ("", item) of a file that
        is a list itself; (None, value), once, of a file that holds neither: its whole value. With ``rest``, an object's
        other members come too, those before a list before its items.

    Raises:
        InputError: no such file, it cannot be read, or it is not JSON. Items before the fault have come by then.
    """
    try:
        with ExitStack() as files:
            yield from _Decoder(_as_text(files, path, expected)).items(rest)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == MORE:
            raise InputError(
                f"{path}: holds more than one value of JSON, one a line perhaps (GeoJSONSeq, NDJSON); expected one of"
                f" {expected}: join them in a list, [...]"
            ) from None
        raise InputError(f"{path}: not {expected} ({error}); export it again") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _as_text(files: ExitStack, path: Path, expected: str) -> io.TextIOWrapper:
    """The text of a file, whatever it is packed in; ``files`` closes what is opened."""
    stream: IO[bytes] = files.enter_context(path.open("rb"))
    head = stream.read(len(_ZIP))
    stream.seek(0)
    if head == _ZIP:
        archive = files.enter_context(zipfile.ZipFile(stream))
        names = [each for each in archive.namelist() if each.lower().endswith(("json", ".json.gz"))]
        names = [each for each in names if not each.startswith("__MACOSX/")]
        if len(names) != 1:
            kinds = sorted({Path(each).suffix or "no ending" for each in archive.namelist()})[:5]
            raise InputError(
                f"{path}: expected one file of {expected} in the archive, got {len(names)} (its files: "
                f"{', '.join(kinds)}); unpack it, or export {expected}"
            )
        stream = files.enter_context(archive.open(names[0]))
        head = stream.read(len(_ZIP))
        stream = files.enter_context(archive.open(names[0]))
    if head.startswith(_GZIP):
        stream = cast(IO[bytes], files.enter_context(gzip.GzipFile(fileobj=stream)))
        head = stream.read(2)
        stream.seek(0)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return files.enter_context(io.TextIOWrapper(stream, encoding=encoding))


class _Decoder:
    """Decodes the values of a text stream one after the other; holds little more text than the value at hand."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._text, self._at = stream, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def items(self, rest: bool = False) -> Iterator[tuple[str | None, Any]]:
        """See ``read_items``."""
        if self._next() == "[":
            for _ in self._elements("]"):
                yield "", self._value()
        elif self._next() == "{":
            members, has_list = dict[str, Any](), False
            for _ in self._elements("}"):
                key = self._value()
                self._take(":")
                if key in LISTS and self._next() == "[":
                    has_list = True
                    if rest and members:
                        yield None, members
                        members = {}
                    for _ in self._elements("]"):
                        yield key, self._value()
                else:
                    members[key] = self._value()
            if not has_list or (rest and members):
                yield None, members
        else:
            yield None, self._value()
        if self._next():
            raise self._error(MORE)

    def _elements(self, end: str) -> Iterator[None]:
        """Step through the elements between brackets; each must be decoded before the next is asked for."""
        self._at += 1
        while self._next() != end:
            yield
            if self._next() != end:
                self._take(",")
                if self._next() == end:
                    raise self._error("Illegal trailing comma")
        self._at += 1

    def _take(self, sign: str) -> None:
        if self._next() != sign:
            raise self._error(f"Expecting {sign!r}")
        self._at += 1

    def _next(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            if found := _SIGN.search(self._text, self._at):
                self._at = found.start()
                return found[0]
            self._at = len(self._text)
            if not self._read():
                return ""

    def _read(self) -> bool:
        """Read on, at least as much as is held, so that a long value is not decoded too often."""
        rest = self._text[self._at :]
        if len(rest) > JSON_BYTES:
            raise self._error(f"a value of more than {JSON_BYTES / 2**20:g} MB")
        read = self._stream.read(max(CHUNK, len(rest)))
        self._text, self._at = rest + read, 0
        return bool(read)

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._read():
                    raise
                continue
            length = end - self._at
            if len(self._text) - end < len("e+1") and self._read():
                continue  # a number may go on
            self._at += length
            return value

    def _error(self, reason: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(reason, self._text, self._at)
