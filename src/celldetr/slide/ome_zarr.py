"""Metadata of OME-Zarr (NGFF 0.1 to 0.5): which arrays of a store are an image, and what their axes mean.

A store is a folder. Version 0.5 writes ``zarr.json``, earlier ones ``.zattrs`` beside ``.zgroup``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celldetr.errors import InputError
from celldetr.io.safe_io import is_file, load_json
from celldetr.slide.resolution import micrometres, number

ATTRIBUTES = ("zarr.json", ".zattrs")
METADATA_BYTES = 2**24  # of a group, with that of its arrays where it is consolidated
OLDEST_AXES = "tczyx"  # which versions before 0.3 do not name
KNOWN = re.compile(r"0\.[1-5]\b")
DEPTH = 3  # folders below a store in which images are looked for


@dataclass(frozen=True)
class LevelPlace:
    """Where a level is, and where it lies: pixel size and offset along x and y, in the units of the axes."""

    folder: Path
    scale: tuple[float, float] | None  # None: not said
    offset: tuple[float, float]


@dataclass(frozen=True)
class ZarrImage:
    """An image of a store.

    Attributes:
        folder: its group.
        axes: a letter a dimension, e.g. ``tczyx``.
        um: micrometres of one unit of x and y; None where the unit is no length.
        levels: as listed, the finest first by the specification.
        channels: name and colour (RRGGBB) of each, "" where it is not said.
    """

    folder: Path
    axes: str
    um: tuple[float | None, float | None]
    levels: tuple[LevelPlace, ...]
    channels: tuple[tuple[str, str], ...]


def is_store(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array, so that what is in it are no files of their own."""
    return any(is_file(folder / name) for name in (*ATTRIBUTES, ".zgroup", ".zarray"))


def has_image(store: Path) -> bool:
    """Whether a store is an image, or images that Bio-Formats wrote; True if it cannot be known."""
    try:
        about = _attributes(store)
    except InputError:
        return True
    return bool({"multiscales", "bioformats2raw.layout"} & about.keys())


def find_images(folder: Path) -> list[ZarrImage]:
    """The images of a store: its own, or those of the series that Bio-Formats writes (bioformats2raw).

    Raises:
        InputError: no image is at this place (images further below are named), or metadata that are not as NGFF says.
    """
    about = _attributes(folder)
    if "multiscales" in about:
        return [_image(folder, about)]
    below = _below(folder, DEPTH)
    if "bioformats2raw.layout" in about:
        return [_image(path, _attributes(path)) for path in below if path.parent == folder]
    kind = next((kind for kind in ("plate", "well", "labels") if kind in about), "")
    what = f"a {kind} of OME-Zarr, no image" if kind else "a Zarr store without an image of its own (no multiscales)"
    hint = f"; it holds {', '.join(map(str, below[:3]))}: name one of them" if below else ""
    raise InputError(f"{folder}: {what}{hint}")


def _attributes(folder: Path) -> dict[str, Any]:
    """What NGFF writes about a group; empty where there is nothing."""
    path = next((folder / name for name in ATTRIBUTES if is_file(folder / name)), None)
    about = load_json(path, METADATA_BYTES) if path else {}
    if path and path.name == ATTRIBUTES[0]:
        about = about.get("attributes", {}) if isinstance(about, dict) else about
        about = about.get("ome", about) if isinstance(about, dict) else about
    if not isinstance(about, dict):
        raise InputError(f"{path}: expected attributes of a Zarr group, got {type(about).__name__}")
    return about


def _below(folder: Path, depth: int) -> list[Path]:
    """Groups with images in a store, in the order of their names; numbers by their size."""
    found: list[Path] = []
    inside = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: (len(path.name), path.name))
    for path in inside if depth else []:
        if "multiscales" in _attributes(path):
            found.append(path)
        elif not _is_array(path):
            found += _below(path, depth - 1)
    return found


def _is_array(folder: Path) -> bool:
    """Whether a folder has the chunks of an array in it."""
    path = folder / "zarr.json"
    about = load_json(path, METADATA_BYTES) if is_file(path) else {}
    return is_file(folder / ".zarray") or (isinstance(about, dict) and about.get("node_type") == "array")


def _image(folder: Path, about: dict[str, Any]) -> ZarrImage:
    try:
        image = about["multiscales"][0]
        version = str(about.get("version", image.get("version", "0.4")))
        if not KNOWN.match(version):
            raise InputError(f"{folder}: OME-Zarr of version {version}; expected 0.1 to 0.5")
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", OLDEST_AXES)]
        letters = "".join(str(axis["name"]).lower() for axis in axes)
        um = tuple(micrometres(1.0, str(axes[letters.index(axis)].get("unit", ""))) for axis in "xy")
        levels = tuple(_level(folder, each, image, letters) for each in image["datasets"])
        channels = tuple(
            (str(each.get("label", "")).strip(), str(each.get("color", "")).lstrip("#").upper()[:6])
            for each in about.get("omero", {}).get("channels", ())
        )
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: multiscales of its attributes are not as NGFF says ({type(error).__name__}: {error}); write it "
            "anew, e.g. with bioformats2raw"
        ) from None
    if not levels:
        raise InputError(f"{folder}: multiscales of its attributes lists no datasets")
    return ZarrImage(folder, letters, (um[0], um[1]), levels, channels)


def _level(folder: Path, dataset: dict[str, Any], image: dict[str, Any], axes: str) -> LevelPlace:
    """A level; transformations of the whole image come after its own."""
    parts = str(dataset["path"]).split("/")
    if ".." in parts or not parts[0]:
        raise InputError(f"{folder}: a level at {dataset['path']!r}, outside of the store")
    scale, offset, said = [1.0, 1.0], [0.0, 0.0], False
    for step in [*dataset.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())]:
        kind = step.get("type")
        if kind not in ("scale", "translation"):
            continue
        for i, axis in enumerate("xy"):
            value = number(step[kind][axes.index(axis)])
            if value is None or (kind == "scale" and not value > 0):
                raise InputError(
                    f"{folder}: {kind} {step[kind]} of level {dataset['path']!r}; expected numbers above 0"
                )
            if kind == "scale":
                scale[i], offset[i], said = scale[i] * value, offset[i] * value, True
            else:
                offset[i] += value
    return LevelPlace(folder.joinpath(*parts), (scale[0], scale[1]) if said else None, (offset[0], offset[1]))
