"""Writes small OME-Zarr stores, with zarr alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr
from numpy.typing import NDArray

KINDS = {"t": "time", "c": "channel"}


def halved(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 3) -> (H / 2, W / 2, 3), means."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, -1)
    return blocks.mean((1, 3)).round().astype(pixels.dtype)


def write_ome_zarr(
    folder: Path,
    levels: Sequence[NDArray[Any]],
    *,
    axes: str = "cyx",
    scales: Sequence[tuple[float, float]] | None = None,
    unit: str | None = "micrometer",
    version: str = "0.4",
    channels: Sequence[dict[str, str]] = (),
    chunk: int = 64,
    image: dict[str, Any] | None = None,
) -> Path:
    """Levels (H, W, C), and their (x, y) scales, by default 0.5 and its doubles; ``image``: further metadata."""
    datasets = []
    for number, pixels in enumerate(levels):
        there = "".join(axis for axis in axes if axis in "yxc")
        data = pixels.transpose(["yxc".index(axis) for axis in there])
        data = data[tuple(slice(None) if axis in there else None for axis in axes)]
        chunks = tuple(chunk if axis in "yx" else 1 for axis in axes)
        kind = 3 if version >= "0.5" else 2
        array = zarr.create_array(
            str(folder / str(number)), shape=data.shape, dtype=data.dtype, chunks=chunks, zarr_format=kind
        )
        array[...] = data
        x, y = scales[number] if scales else (0.5 * 2**number,) * 2
        scale = [{"x": x, "y": y}.get(axis, 1.0) for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    described = [
        {"name": axis, "type": KINDS.get(axis, "space")} | ({"unit": unit} if unit and axis in "zyx" else {})
        for axis in axes
    ]
    about: dict[str, Any] = {"multiscales": [{"axes": described, "datasets": datasets} | (image or {})]}
    if channels:
        about["omero"] = {"channels": list(channels)}
    write_attributes(folder, about, version)
    return folder


def write_attributes(folder: Path, about: dict[str, Any], version: str = "0.4") -> None:
    """Of a group."""
    folder.mkdir(parents=True, exist_ok=True)
    if version >= "0.5":
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": version} | about}}
        (folder / "zarr.json").write_text(json.dumps(group))
        return
    for image in about.get("multiscales", ()):
        image.setdefault("version", version)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text(json.dumps(about))
