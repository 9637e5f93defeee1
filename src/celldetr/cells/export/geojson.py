"""GeoJSON that QuPath opens: one detection object a cell, with its class, its colour and its measurements.

The form is that of QuPath 0.4 and later. A cell is drawn as the table's ``geometry`` has it. Coordinates are level-0
pixels from the top left corner of what QuPath shows: the slide, or the part that was scanned where a file says so
(OpenSlide's ``bounds``, in MIRAX and Leica SCN above all).

A feature's id is a UUID (version 5, RFC 9562) of the slide's name and the ``cell_id``: exporting twice gives the same
ids, and two slides never share one. Its name is that of the cell, ``slide:cell_id``. Lines are formatted straight from
the arrays; a million features through dictionaries and the ``json`` module would take several times as long.
"""

from __future__ import annotations

import json
import uuid
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER
from celldetr.cells.reader import CellTable, by_cluster, by_taught, numbers
from celldetr.cells.rings import CORNERS, Ring, ring_columns, rings
from celldetr.cells.schema import BOX, FAMILIARITY, MEASURED, TAUGHT_P, TAUGHT_SCORE, TAUGHT_TYPE
from celldetr.errors import InputError, near
from celldetr.io.files import binary_stream

Shape = Literal["outline", "box", "ellipse"]
Origin = Literal["bounds", "slide"]
Classes = Literal["type", "model", "cluster"]

# Ids are made in two steps, this namespace and the slide's name, then that and the cell: a constant of the format.
NAMESPACE = uuid.UUID("5d0b9f0e-3c1f-5c58-9d0a-6a1f3f1f7f0a")
ELLIPSE_VERTICES = 24


def _ellipse() -> NDArray[np.float64]:
    """(V, 2) closed ellipse in a box of half side 1, in the ring order of RFC 7946."""
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_VERTICES + 1)
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outline[-1] = outline[0]  # the ring must close exactly, sin(2 pi) is not quite 0
    return outline


def _borders(batch: pa.RecordBatch, shape: Shape) -> list[Ring]:
    """What is drawn of each cell."""
    if shape == "outline":
        return rings(batch)
    box = np.stack([numbers(batch, name) for name in BOX], axis=1)  # (N, 4) cxcywh, px
    return list(box[:, None, :2] + (CORNERS if shape == "box" else _ellipse()) * box[:, None, 2:] / 2)


@cache
def _template(vertices: int) -> str:
    return ",".join(["[%.2f,%.2f]"] * vertices)


def _measured(table: CellTable) -> dict[str, str]:
    """Column -> the name that QuPath shows for it, beside ``cell_id``."""
    names = {"score": "score", "type_score": "type score"} | {f"p_{name}": f"p {name}" for name in table.types}
    if table.taught_types:
        names |= {TAUGHT_SCORE: "taught type score"}
        names |= {f"{TAUGHT_P}{name}": f"taught p {name}" for name in table.taught_types}
    names |= {name: name for name in (*MEASURED, FAMILIARITY) if name in table.columns}
    return names | ({CLUSTER: CLUSTER} if table.clusters else {})


def _property_heads(table: CellTable) -> list[str]:
    """The part of ``properties`` that all cells of a type share."""
    heads = []
    for name, colour in table.colours.items():
        classification = json.dumps({"name": name, "color": list(colour)})
        heads.append(f'"objectType":"detection","classification":{classification},"isLocked":false,')
    return heads


def _of_class(table: CellTable, classes: Classes) -> CellTable:
    """The table whose ``type`` is the class in QuPath."""
    return {"type": by_taught, "model": lambda table: table, "cluster": by_cluster}[classes](table)


def _measurement_texts(names: list[str], values: NDArray[np.float64]) -> list[str]:
    """(N, M) values -> the N insides of a ``measurements`` map; a value that is not finite is left out."""
    keys = [json.dumps(name) for name in names]
    row = ",".join(key.replace("%", "%%") + ":%.4g" for key in keys)
    complete: NDArray[np.bool_] = np.all(np.isfinite(values), axis=1)
    texts = [row % tuple(line) for line in np.where(complete[:, None], values, 0).tolist()]
    for i in np.flatnonzero(~complete):
        texts[i] = ",".join(
            f"{key}:{value:.4g}" for key, value in zip(keys, values[i], strict=True) if np.isfinite(value)
        )
    return texts


def _features(
    table: CellTable,
    named: CellTable,
    batch: pa.RecordBatch,
    shape: Shape,
    origin: tuple[float, float],
    namespace: uuid.UUID,
) -> list[str]:
    """The cells of a batch, each as the text of one feature; their classes are the types of ``named``."""
    # Adding zero turns -0.0 into 0.0.
    borders = [np.round(ring - np.array(origin), 2) + 0.0 for ring in _borders(batch, shape)]
    names = _measured(table)
    measurements = _measurement_texts(list(names.values()), np.stack([numbers(batch, c) for c in names], axis=1))
    heads, codes = _property_heads(named), named.type_codes(batch, named.type_column).tolist()
    extra = [""] * len(codes)
    if named.type_column == TAUGHT_TYPE:  # QuPath shows text about an object as its metadata
        texts = [f'"metadata":{{"model type":{json.dumps(name)}}},' for name in table.types]
        extra = [texts[code] for code in table.type_codes(batch)]
    slide = json.dumps(table.name)[:-1]
    return [
        f'{{"type":"Feature","id":"{uuid.uuid5(namespace, str(cell))}",'
        f'"geometry":{{"type":"Polygon","coordinates":[[{_template(len(ring)) % tuple(ring.ravel().tolist())}]]}},'
        f'"properties":{{"name":{slide}:{cell}",{heads[code]}{other}'
        f'"measurements":{{"cell_id":{cell}{measured and ","}{measured}}}}}}}'
        for cell, ring, code, other, measured in zip(
            batch.column("cell_id").to_pylist(), borders, codes, extra, measurements, strict=True
        )
    ]


def _check(option: str, value: str, known: Any) -> None:
    """Raise InputError unless a value is one of a Literal."""
    if value not in get_args(known):
        raise InputError(f"{option} {value!r} is unknown; {near(value, get_args(known))}")


def corner(table: CellTable, origin: Origin | tuple[float, float]) -> tuple[float, float]:
    """The level-0 pixel that becomes (0, 0)."""
    if not isinstance(origin, str):
        if len(origin) != 2 or not np.isfinite(origin).all():
            raise InputError(f"origin {origin!r}: expected two numbers, x and y in level-0 pixels")
        return origin
    _check("origin", origin, Origin)
    x, y, _, _ = (origin == "bounds" and table.run.get("bounds_px")) or (0.0, 0.0, 0.0, 0.0)
    return x, y


def write_geojson(
    table: CellTable,
    out: Path,
    *,
    shape: Shape = "outline",
    origin: Origin | tuple[float, float] = "bounds",
    classify: Classes = "type",
) -> None:
    """Write the cells as a FeatureCollection of QuPath detections, compressed if ``out`` ends in ``.gz``.

    Args:
        table, out: the cells, and the file.
        shape: what is drawn of a cell: its outline (its box if the model drew none), its box, or the ellipse in it.
        origin: what becomes (0, 0): ``bounds``, the corner of what was scanned, where the slide says so; ``slide``, the
            corner of the slide; or a level-0 pixel (x, y).
        classify: what becomes QuPath's classification: ``type``, the one that a head of the user's own has taught where
            there is one (the model's is in the metadata of the object then); ``model``, the model's; or ``cluster``.

    Raises:
        InputError: an unknown shape, origin or class, or no clusters.
    """
    _check("classify", classify, Classes)
    _check("shape", shape, Shape)
    named = _of_class(table, classify)
    shift = corner(table, origin)
    namespace = uuid.uuid5(NAMESPACE, table.slide)
    drawn = ring_columns(table) if shape == "outline" else BOX
    columns = list(dict.fromkeys(["cell_id", *drawn, "type", named.type_column, *_measured(table)]))
    with binary_stream(out) as stream:
        stream.write(b'{"type":"FeatureCollection","features":[')
        separator = "\n"
        for batch in table.batches(columns):
            if len(batch):
                features = _features(table, named, batch, shape, shift, namespace)
                stream.write((separator + ",\n".join(features)).encode())
                separator = ",\n"
        stream.write(b"\n]}\n")
