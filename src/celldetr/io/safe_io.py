"""Reading files that may come from anywhere: sizes are bounded, YAML makes no objects, and errors are one line."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath
from typing import Any

import yaml

from celldetr.errors import InputError, near

YAML_BYTES = 2**20  # settings, also with long lists of images
JSON_BYTES = 256 * 2**20  # annotations of a large data set; in memory it is some ten times that


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


def printable(name: str) -> str:
    """A file's name as one line of text: it may hold line breaks and bytes that are no text."""
    return "".join(character if character.isprintable() else "_" for character in name)


def slide_name(path: PurePath) -> str:
    """Name of the folder of a slide's output: ``a/case 7.ome.tif`` -> ``case 7``; never one like ``..``."""
    stem = path.stem
    stem = stem[:-4] if stem.lower().endswith(".ome") and len(stem) > 4 else stem
    stem = printable(stem)
    return stem if stem.strip(".") else stem.replace(".", "_") or "slide"


def read_bytes(path: Path, limit: int) -> bytes:
    """Content of a file. Raises InputError: no such file, it cannot be read, or it is larger than ``limit`` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > limit:
        raise InputError(f"{path}: holds more than {limit / 2**20:g} MB; is it the right file?")
    return content


def load_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """The JSON of a file.

    Raises:
        InputError: no such file, it cannot be read, is larger than ``limit`` bytes, or is not JSON.
    """
    content = read_bytes(path, limit)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None


def check_codecs(path: Path | str, metadata: bytes) -> None:
    """Refuse metadata of Zarr that name a codec which runs code from the file; the message begins with ``path``."""
    try:
        text = json.dumps(json.loads(metadata)).lower()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if any(f'"{codec}' in text for codec in ("pickle", "python")):
        raise InputError(f"{path} asks for a codec that runs code from the file; it is not read")


def parse_yaml(text: str) -> Any:
    """YAML of any kind, as plain values: no tag in it makes an object."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # dates and numbers that are none
        raise ValueError(" ".join(str(error).split())) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises InputError: no such file, larger than ``YAML_BYTES``, not YAML, or not a mapping."""
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
    """One of the YAML files in a ``folder`` of the package by name, or a user's file.

    Raises:
        InputError: neither; near names are listed. ``kind`` and ``place`` say there what such a file is, and what else
            the caller takes.
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
    """A value for a message: its ``repr``, cut to ``length`` characters."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."
