"""Find the cells whose embeddings are nearest to some cells' (``celldetr similar``): queries, search, table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER
from celldetr.cells.reader import numbers
from celldetr.errors import InputError, near
from celldetr.io.safe_io import is_file
from celldetr.search.collection import Collection, Rows, find_cells, unit, unit_embeddings
from celldetr.search.index import INDEX, MANIFEST, NeighbourIndex
from celldetr.search.nearest import search_all

if TYPE_CHECKING:
    import pandas as pd

MOST = 10_000  # neighbours a query
PLACE = ("x_px", "y_px", "w_px", "h_px", "x_um", "y_um")
COLUMNS = ("cell_id", *PLACE, "score", "type", "type_score")


@dataclass(frozen=True)
class Query:
    """What neighbours are looked for.

    Attributes:
        name: what it is called in tables and pictures.
        vector: (d,) of length 1.
        slides: places of the slides that it is from.
        cells: place of a slide -> rows of the cells that it is made of, where these are listed, drawn and no neighbours
            of it; empty where they are all cells of a type.
    """

    name: str
    vector: NDArray[np.float32]
    slides: set[int]
    cells: dict[int, Rows]


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of some queries.

    Attributes:
        table: one row a cell: ``query`` (its name), ``rank`` (0: a cell of the query itself), ``similarity`` (cosine,
            -1 to 1), ``slide``, then the columns of the cell table without embedding and geometry.
        how: how they were looked for, for people.
        collection: the cells.
    """

    table: pd.DataFrame
    how: str
    collection: Collection


def similar(
    cells: Path | str | Sequence[Path | str] | Collection,
    cell: Sequence[int] | int = (),
    *,
    slide: str | None = None,
    type: str | None = None,
    mean: bool = False,
    k: int = 20,
    other_slides: bool = False,
    apart_um: float = 0.0,
    index: Path | str | None = None,
    exact: bool = False,
) -> Neighbours:
    """Find the cells whose embeddings are most similar to some cells'.

    Args:
        cells: ``cells.parquet`` files, folders of results, or folders of these (a cohort).
        cell: ``cell_id`` of the cells asked about; each is a query.
        slide: the slide they are on (name of the folder of its results); needed if there are several.
        type: ask about the mean of all cells of this type (on ``slide``, or on all) instead.
        mean: the cells are one query, their mean.
        k: neighbours a query.
        other_slides: look on other slides than the query's only; with ``type`` it needs ``slide``.
        apart_um: leave out cells whose centres are nearer than this to one of the query's cells, micrometres; not with
            ``type``.
        index: folder of an index; by default ``neighbours`` beside the cells, if it is there.
        exact: compare with every cell, even if there is an index.

    Returns:
        The neighbours, the most similar first; fewer than ``k`` where there are no more.

    Raises:
        InputError: no such cell, slide or type, nothing to look for, options that contradict each other, a cell without
            a place and ``apart_um``, or an index that does not fit the cells.
    """
    if not isinstance(cells, Collection):
        cells = find_cells([cells] if isinstance(cells, str | Path) else cells)
    ids = [int(cell)] if isinstance(cell, int | np.integer) else list(cell)
    if not 1 <= k <= MOST:
        raise InputError(f"`k={k}`: expected 1 to {MOST:,} neighbours")
    if not 0 <= apart_um < float("inf"):
        raise InputError(f"`apart_um={apart_um:g}`: expected a distance in micrometres, 0 or more")
    if type is not None and apart_um:
        raise InputError(f"`apart_um={apart_um:g}`: the mean of a type lies nowhere; leave it out, or give `cell`")
    if type is not None and other_slides and slide is None:
        raise InputError(
            f"`other_slides=True`: the mean of type {type!r} is of cells of all slides; add `slide` for those of one"
        )
    if exact and index is not None:
        raise InputError("`exact=True` and `index` contradict each other; pass one of them")
    queries = _queries(cells, ids, slide, type, mean)
    opened = None if exact else _index(cells, index)
    excluded = [_near(cells, query, apart_um) for query in queries]
    skipped = [query.slides if other_slides else set() for query in queries]
    if any(len(skip) == len(cells.slides) for skip in skipped):
        raise InputError("`other_slides=True`: the query is on all slides given; give the folder of a cohort")
    vectors = np.stack([query.vector for query in queries])
    if opened is None:
        best = search_all(cells, vectors, k, excluded, skipped)
        how = f"compared with all {cells.count:,} cells"
    else:
        best = opened[1].search(vectors, k, excluded, skipped)
        how = f"index {opened[0]} of {cells.count:,} cells"
    hits = [
        (number, rank, float(best.similarity[number, rank]), int(best.slide[number, rank]), int(best.row[number, rank]))
        for number in range(len(queries))
        for rank in range(k)
        if best.slide[number, rank] >= 0
    ]
    return Neighbours(_table(cells, queries, hits), how, cells)


def _index(cells: Collection, path: Path | str | None) -> tuple[Path, NeighbourIndex] | None:
    found = cells.home / INDEX if path is None else Path(path)
    if path is None and not is_file(found / MANIFEST):
        return None
    return found, NeighbourIndex(found, cells)


def _queries(cells: Collection, ids: Sequence[int], slide: str | None, type: str | None, mean: bool) -> list[Query]:
    if bool(ids) == (type is not None):
        raise InputError("give either cells (`cell`) or a type (`type`) to look for")
    if type is not None:
        return [_type_query(cells, type, range(len(cells.slides)) if slide is None else [cells.position(slide)])]
    if slide is None and len(cells.slides) > 1:
        names = ", ".join(one.name for one in cells.slides[:5]) + (", ..." if len(cells.slides) > 5 else "")
        raise InputError(f"`cell={ids[0]}`: on which of {len(cells.slides)} slides? add `slide` ({names})")
    place = 0 if slide is None else cells.position(slide)
    here = cells.slides[place]
    ids = list(dict.fromkeys(ids))
    rows = here.rows_of(ids)
    vectors = unit_embeddings(here.table, rows)
    for number, vector in zip(ids, vectors, strict=True):
        if not vector.any():
            raise InputError(f"`cell={number}`: its embedding is zero or not finite; nothing is like it")
    if mean and len(ids) > 1:
        name = f"mean of {len(ids)} cells"
        return [Query(name, _direction(vectors.mean(0), name), {place}, {place: np.sort(rows)})]
    return [
        Query(f"cell {number}", vector, {place}, {place: rows[i : i + 1]})
        for i, (number, vector) in enumerate(zip(ids, vectors, strict=True))
    ]


def _direction(vector: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    found = unit(np.asarray(vector, dtype=np.float32)[None])[0]
    if not found.any():
        raise InputError(f"the {name}: embeddings cancel out, their mean is zero; choose other cells")
    return found


def _type_query(cells: Collection, type: str, places: Sequence[int]) -> Query:
    """The mean of all cells of a type. These may be neighbours: what is most like the mean is the type's prototype."""
    known = {name for place in places for name in cells.slides[place].table.types}
    if type not in known:
        raise InputError(f"`type={type!r}`: no such type; {near(type, known)}")
    total, count = np.zeros(cells.dim), 0
    for place in places:
        table = cells.slides[place].table
        if type not in table.types:
            continue
        # Batches of other columns can end at other rows, so types are read first.
        parts = [table.type_codes(batch) == table.types.index(type) for batch in table.batches(("type",))]
        mine = np.concatenate([np.empty(0, bool), *parts])
        for start, vectors in cells.slides[place].blocks():
            total += vectors[mine[start : start + len(vectors)]].sum(0, dtype=np.float64)
        count += int(mine.sum())
    if not count:
        raise InputError(f"`type={type!r}`: there is no cell of this type here")
    name = f"mean of {count:,} {type}"
    return Query(name, _direction(total / count, name), set(places), {})


def _near(cells: Collection, query: Query, apart_um: float) -> dict[int, Rows]:
    """The query's own cells, and those around them."""
    if not apart_um:
        return query.cells
    from scipy.spatial import KDTree

    found: dict[int, Rows] = {}
    for place, rows in query.cells.items():
        table = cells.slides[place].table
        parts = [np.stack([numbers(b, "x_um"), numbers(b, "y_um")], 1) for b in table.batches(("x_um", "y_um"))]
        centres = np.concatenate(parts)
        placed = np.flatnonzero(np.isfinite(centres).all(1))
        if not np.isin(rows, placed).all():
            raise InputError(
                f"`apart_um={apart_um:g}`: {query.name} has no place (x_um, y_um) to be apart from; leave it out"
            )
        # Of the others one without a place is not known to be near.
        distance, _ = KDTree(centres[rows]).query(centres[placed], distance_upper_bound=apart_um)
        found[place] = np.union1d(rows, placed[distance < apart_um])
    return found


def _table(
    cells: Collection, queries: Sequence[Query], hits: Sequence[tuple[int, int, float, int, int]]
) -> pd.DataFrame:
    import pandas as pd

    own = [
        (number, -1, float(unit_row @ query.vector), place, int(row))
        for number, query in enumerate(queries)
        for place, rows in query.cells.items()
        for row, unit_row in zip(rows, unit_embeddings(cells.slides[place].table, rows), strict=True)
    ]
    lines = sorted([*own, *hits])
    frame = pd.DataFrame(
        {
            "query": pd.Series([queries[number].name for number, *_ in lines], dtype=object),
            "rank": np.array([rank + 1 for _, rank, *_ in lines], dtype=np.int64),
            "similarity": np.clip([similarity for _, _, similarity, *_ in lines], -1.0, 1.0),
            "slide": pd.Series([cells.slides[place].name for *_, place, _ in lines], dtype=object),
        }
    )
    columns = [*COLUMNS, *([CLUSTER] if all(slide.table.clusters for slide in cells.slides) else [])]
    parts = []
    for place in sorted({line[3] for line in lines}):
        at = [i for i, line in enumerate(lines) if line[3] == place]
        taken: dict[str, Any] = {}
        found = cells.slides[place].table.take(np.array([lines[i][4] for i in at], dtype=np.int64), columns)
        for name in columns:
            taken[name] = found[name].cast("string").to_pylist() if name == "type" else found[name].to_numpy()
        parts.append(pd.DataFrame(taken, index=at))
    return frame.join(pd.concat(parts)) if parts else frame.reindex(columns=[*frame.columns, *columns])
