"""What was taught leaves as a set of labels: for each slide a GeoJSON file that QuPath opens and training reads.

Each square of ``SQUARE_UM`` with a label or an added nucleus becomes part of a region (QuPath's ``Region*``), in which
every cell is written that was found and not struck out: with its class if it is labelled, without one if not. So
``train finetune`` learns types from the labels, and ``train finetune-all`` detection from all nuclei in the regions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.cells.export.geojson import corner
from celldetr.cells.palette import parse_colour
from celldetr.cells.rings import ring_columns, rings
from celldetr.data.readers.qupath_objects import REGIONS
from celldetr.errors import InputError
from celldetr.io.files import output_errors, replacing
from celldetr.search.collection import Collection, SlideCells, Sources, find_cells
from celldetr.search.slides import check_slides, open_slides
from celldetr.teach.crossval import SQUARE_UM
from celldetr.teach.journal import read_state
from celldetr.teach.places import Finder
from celldetr.teach.session import FOLDER
from celldetr.teach.state import State


@dataclass(frozen=True)
class LabelSet:
    """What was written: files, labels of each type, added nuclei, nuclei in all, and slides without an image."""

    files: tuple[Path, ...]
    labels: Mapping[str, int]
    added: int
    nuclei: int
    missing: tuple[str, ...]


def write_labels(
    cells: Sources, out: Path, slides: Sequence[Path] = (), *, taught: Path | None = None, overwrite: bool = False
) -> LabelSet:
    """Write the labels of a run as a folder that ``train finetune --data`` takes.

    Args:
        cells: as of ``find_cells``.
        out: folder, made if needed.
        slides: slide files, or folders that hold them; links to them are put beside the labels.
        taught: folder of the journal; None: ``teach`` in the cells' own.
        overwrite: replace files that are there.

    Raises:
        InputError: no labels, files that are there, a source of slides does not exist, or a place that cannot be
            written to.
    """
    check_slides(slides)
    collection = find_cells(cells)
    state = read_state(taught or collection.home / FOLDER)
    written = {place: found for place in range(len(collection.slides)) if (found := _nuclei(collection, state, place))}
    if not written:
        raise InputError("nothing is labelled on these slides, and no nucleus is added")
    names = [collection.slides[place].name for place in written]
    if not overwrite:
        for name in names:
            if (out / f"{name}.geojson").exists():
                raise InputError(f"{out / name}.geojson: exists already; pass `overwrite=True` to replace it")
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (features, _) in zip(names, written.values(), strict=True):
        files.append(out / f"{name}.geojson")
        with replacing(files[-1]) as temporary:
            lines = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in features)
            temporary.write_text(f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n', encoding="utf-8")
    with open_slides(collection, slides, names) as opened:
        for name, file in opened.files.items():
            _link(file, out, name)
        missing = opened.missing
    given = [kind for _, kinds in written.values() for kind in kinds]
    labels = {kind.name: given.count(number) for number, kind in state.types.items()}
    added = sum(nucleus.slide in names for nucleus in state.added.values())
    return LabelSet(tuple(files), labels, added, len(given), missing)


def _nuclei(collection: Collection, state: State, place: int) -> tuple[list[dict[str, Any]], list[int]] | None:
    """The features of a slide, regions first, and the type of each nucleus (-1: not known); None without labels."""
    slide, finder = collection.slides[place], Finder(collection)
    said, struck = finder.marked(state.labels, place), finder.marked(state.struck, place)
    added = [nucleus for nucleus in state.added.values() if nucleus.slide == slide.name]
    boxes = np.array([nucleus.box for nucleus in added]).reshape(-1, 4)
    if not len(said.rows) and not added:
        return None
    side = SQUARE_UM / np.array(slide.table.mpp_xy or (1.0, 1.0))
    centres = finder.places(place).centres
    taught = np.concatenate([centres[said.rows], (boxes[:, :2] + boxes[:, 2:]) / 2])
    squares = np.unique(np.floor(taught / side).astype(np.int64), axis=0)
    where = {tuple(square) for square in squares.tolist()}
    rows = np.flatnonzero([tuple(at) in where for at in np.floor(centres / side).astype(np.int64).tolist()])
    rows = np.setdiff1d(rows, struck.rows)
    types = np.full(len(rows), -1)
    types[np.searchsorted(rows, said.rows)] = said.types
    drawn = [*rings(slide.table.take(rows, ring_columns(slide.table))), *map(_ring, boxes)]
    kinds = [*types.tolist(), *(-1 if nucleus.type is None else nucleus.type for nucleus in added)]
    origin = np.array(corner(slide.table, "bounds"))
    features = list(_regions(slide, squares * side, side, origin))
    for ring, number in zip(drawn, kinds, strict=True):
        kind = state.types.get(number)
        described = {} if kind is None else _class(kind.name, list(parse_colour(kind.colour)))
        features.append(_feature("detection", [(ring - origin).round(2).tolist()], described))
    return features, kinds


def _regions(
    slide: SlideCells, low: NDArray[np.float64], side: NDArray[np.float64], origin: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    run = slide.table.run
    high = np.minimum(low + side, (run.get("width", np.inf), run.get("height", np.inf)))
    area = shapely.union_all(shapely.box(*low.T, *high.T))
    for part in shapely.get_parts(area):
        loops = [part.exterior, *part.interiors]
        points = [(shapely.get_coordinates(loop) - origin).round(2).tolist() for loop in loops]
        yield _feature("annotation", points, _class(REGIONS[0], [180, 180, 180]))


def _class(name: str, colour: list[int]) -> dict[str, Any]:
    return {"classification": {"name": name, "color": colour}}


def _feature(kind: str, loops: list[Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": loops}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": kind, **properties}}


def _ring(box: NDArray[np.float64]) -> NDArray[np.float64]:
    return box[[0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(5, 2)


def _link(slide: Path, out: Path, name: str) -> None:
    """Put links to a slide, and to the folder of the same name that some formats have, beside its labels."""
    folder = slide.with_suffix("")
    pairs = [(slide, out / f"{name}{slide.suffix}"), *([(folder, out / name)] if folder.is_dir() else [])]
    for target, link in pairs:
        if not link.exists():
            try:
                link.symlink_to(target.resolve())
            except OSError as error:
                raise InputError(f"{link}: no link can be made here ({error.strerror}); copy {target} there") from None
