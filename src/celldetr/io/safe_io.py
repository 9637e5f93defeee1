"""Files from strangers: read within bounds, or refused in one line.

A dataset card, a checkpoint, a ROI or a table may come from anywhere. Whatever is in it, reading it must not run code,
take memory or time without bound, or end in a traceback. Limits are far above what honest files need.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

import yaml

from celldetr.errors import InputError, near

YAML_BYTES = 2**20  # settings, also with long lists of images
JSON_BYTES = 256 * 2**20  # annotations of a large data set; in memory it is some ten times that
YAML_VALUES = 1_000_000
NUMBER_CHARACTERS = 100  # of a number in YAML: 1:1:1:... with base 60 takes time that grows with its square
GZIP_MAGIC = b"\x1f\x8b"


def is_file(path: Path) -> bool:
    """Whether there is such a file; False, too, for names that no file can have (too long, with a zero byte)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_dir(path: Path) -> bool:
    """Whether there is such a directory; False, too, for names that none can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def expand_user(path: Path) -> Path:
    """``~`` as the home directory; a path that begins with the name of an unknown user stays as it is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_inside(name: str) -> bool:
    """Whether a file name, read from a file, stays in the directory that it is joined to."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def read_bytes(path: Path, limit: int, *, unpack: bool = False) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        limit: most bytes that are accepted.
        unpack: if it is compressed with gzip, what is in it, to which ``limit`` applies as well.

    Raises:
        InputError: no such file, it cannot be read, or it is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if unpack and content.startswith(GZIP_MAGIC) and len(content) <= limit:
            with gzip.open(path) as stream:
                content = stream.read(limit + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > limit:
        raise InputError(f"{path}: holds more than {limit / 2**20:g} MB; is it the right file?")
    return content


def parse_json(content: bytes | str) -> Any:
    """JSON of any kind.

    Raises:
        ValueError: it is not, or too deep.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """The JSON of a file.

    Raises:
        InputError: no such file, it cannot be read, is larger than ``limit`` bytes, or is not JSON.
    """
    content = read_bytes(path, limit)
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None


class _Loader(yaml.SafeLoader):
    """Plain YAML: no objects, as in ``SafeLoader``, and no endless numbers."""

    def construct_scalar(self, node: Any) -> Any:
        if len(str(node.value)) > NUMBER_CHARACTERS and node.tag.endswith((":int", ":float")):
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        return super().construct_scalar(node)


def _size(node: Any, known: dict[Any, int]) -> int:
    """How many values a YAML node is with all aliases (``*name``) written out: some lines of them make billions.

    Raises:
        ValueError: a node is inside itself.
    """
    if node not in known:
        known[node] = 0  # until it is known
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[node] = 1 + sum(_size(part, known) for part in parts)
    elif not known[node]:
        raise ValueError("an alias (*name) stands inside what it stands for")
    return known[node]


def parse_yaml(text: str) -> Any:
    """YAML of any kind.

    Raises:
        ValueError: it is not, too deep, or too large with its aliases written out.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > YAML_VALUES:
            raise ValueError(f"more than {YAML_VALUES:,} values with its aliases (*name) written out")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, KeyError) as error:
        # The parser's constructors fail in their own ways on dates and numbers that are none.
        raise ValueError(" ".join(str(error).split())) from None
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: no such file, larger than ``YAML_BYTES``, not YAML, or not a mapping.
    """
    try:
        text = read_bytes(path, YAML_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values


def yaml_names(folder: Path) -> list[str]:
    """Names of the YAML files of a folder of the package."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_yaml(name: str | Path, folder: Path, kind: str, place: str = "a file") -> Path:
    """One of the package's YAML files by name, or a user's.

    Args:
        name: of one in ``folder``, whatever lies in the working directory; or a file.
        folder: of the package.
        kind, place: what such a file is, and what else the caller takes, for the message.

    Raises:
        InputError: neither; near names are listed.
    """
    text, path, known = str(name), expand_user(Path(name)), yaml_names(folder)
    if text in known:
        return folder / f"{text}.yaml"
    if is_file(path):
        return path
    raise InputError(f"no {kind} {text!r}: neither {place} nor a known name; {near(text, known)}")


def shown_path(path: Path) -> str:
    """A path as text that can be written anywhere: bytes of a name that are not UTF-8 become \\x escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def shown(value: object, length: int = 120) -> str:
    """A value for a message: its ``repr``, cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, deep nesting
        text = type(value).__name__
    return text if len(text) <= length else f"{text[: length - 3]}..."
