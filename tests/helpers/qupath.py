"""Annotations as QuPath exports them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import shapely


def feature(
    geometry: shapely.Geometry | dict[str, Any], kind: str = "detection", name: str | None = "Tumor", **extra: Any
) -> dict[str, Any]:
    shape = geometry if isinstance(geometry, dict) else json.loads(shapely.to_geojson(geometry))
    properties = {"objectType": kind} | ({"classification": {"name": name, "color": [1, 2, 3]}} if name else {})
    return {"type": "Feature", "geometry": shape, "properties": properties, **extra}


def disc(x: float, y: float, radius: float = 6) -> shapely.Polygon:
    return shapely.Point(x, y).buffer(radius)


def write(folder: Path, features: list[dict[str, Any]], name: str = "a.geojson") -> Path:
    path = folder / name
    text = json.dumps({"type": "FeatureCollection", "features": features})
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path
