"""Find the cells whose embeddings are nearest to some cells' (``celldetr similar``): queries, search, table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER
from celldetr.cells.reader import numbers
from celldetr.errors import InputError, near
from celldetr.io.safe_io import is_file
from celldetr.search.collection import Collection, Rows, Sources, find_cells, unit
from celldetr.search.index import INDEX, MANIFEST, NeighbourIndex
from celldetr.search.nearest import EMPTY, Best, Query, search_all

if TYPE_CHECKING:
    import pandas as pd

MOST = 10_000  # neighbours a query
COLUMNS = ("cell_id", "x_px", "y_px", "w_px", "h_px", "x_um", "y_um", "score", "type", "type_score")


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of some queries.

    Attributes:
        table: one row a cell: ``query`` (its name), ``rank`` (0: a cell of the query itself), ``similarity`` (cosine,
            -1 to 1), ``slide``, then the columns of the cell table without embedding and geometry.
        how: how they were searched, for people.
        collection: the cells.
    """

    table: pd.DataFrame
    how: str
    collection: Collection


def similar(
    cells: Sources,
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
        other_slides: search other slides than the query's only; with ``type`` it needs ``slide``.
        apart_um: leave out cells whose centres are nearer than this to one of the query's cells, micrometres; not with
            ``type``.
        index: folder of an index; by default ``neighbours`` beside the cells, if it is there.
        exact: compare with every cell, even if there is an index.

    Returns:
        The neighbours, the most similar first; fewer than ``k`` where there are no more.

    Raises:
        InputError: no such cell, slide or type, nothing to look for, options that contradict each other, a cell without
            a place and ``apart_um``, or an index that does not fit the cells.

    Examples:
        >>> import celldetr
        >>> options = celldetr.PredictOptions(region=(950, 900, 200, 200))
        >>> run = celldetr.predict_slide(celldetr.sample_slide(), "out", model="small-20x", options=options).directory
        >>> int(celldetr.similar(run, 3, k=4).table["rank"].max())
        4
    """
    collection = find_cells(cells)
    ids = [int(cell)] if isinstance(cell, int | np.integer) else list(dict.fromkeys(cell))
    if not 1 <= k <= MOST:
        raise InputError(f"`k={k}`: expected 1 to {MOST:,} neighbours")
    if not 0 <= apart_um < float("inf"):
        raise InputError(f"`apart_um={apart_um:g}`: expected a distance in micrometres, 0 or more")
    if exact and index is not None:
        raise InputError("`exact=True` and `index` contradict each other; pass one of them")
    if bool(ids) == (type is not None):
        raise InputError("give either cells (`cell`) or a type (`type`) to look for")
    if type is not None:
        if apart_um:
            raise InputError(f"`apart_um={apart_um:g}`: the mean of a type lies nowhere; leave it out, or give `cell`")
        if other_slides and slide is None:
            raise InputError(
                f"`other_slides=True`: the mean of type {type!r} is of cells of all slides; add `slide` for those of "
                "one"
            )
        asked = range(len(collection.slides)) if slide is None else [collection.position(slide)]
        queries = [_type_query(collection, type, asked)]
    else:
        asked = [_only_position(collection, slide, ids[0])]
        queries = _cell_queries(collection, asked[0], ids, mean)
    if other_slides:
        if len(asked) == len(collection.slides):
            raise InputError("`other_slides=True`: the query is on all slides given; give the folder of a cohort")
        queries = [replace(query, skipped=frozenset(asked)) for query in queries]
    if apart_um:
        queries = [replace(query, excluded=_near(collection, query, apart_um)) for query in queries]
    path = collection.home / INDEX if index is None else Path(index)
    if exact or (index is None and not is_file(path / MANIFEST)):
        best = search_all(collection, queries, k)
        how = f"compared with all {collection.count:,} cells"
    else:
        best = NeighbourIndex(path, collection).search(queries, k)
        how = f"index {path} of {collection.count:,} cells"
    return Neighbours(_table(collection, queries, best), how, collection)


def _only_position(collection: Collection, slide: str | None, cell: int) -> int:
    """The slide that was named, or the only one."""
    if slide is not None:
        return collection.position(slide)
    if len(collection.slides) > 1:
        names = ", ".join(
            [*(one.name for one in collection.slides[:5]), *(["..."] if len(collection.slides) > 5 else [])]
        )
        raise InputError(f"`cell={cell}`: on which of {len(collection.slides)} slides? add `slide` ({names})")
    return 0


def _cell_queries(collection: Collection, place: int, ids: Sequence[int], mean: bool) -> list[Query]:
    """A query for each cell of a slide, or one for their mean; the cells are no neighbours of their own query."""
    slide = collection.slides[place]
    rows = slide.table.rows_of(ids)
    vectors = slide.unit_embeddings(rows)
    for number, vector in zip(ids, vectors, strict=True):
        if not vector.any():
            raise InputError(f"`cell={number}`: its embedding is zero or not finite; nothing is like it")
    if mean and len(ids) > 1:
        name = f"mean of {len(ids)} cells"
        own = {place: np.sort(rows)}
        return [Query(name, _direction(vectors.mean(0), name), own, excluded=own)]
    queries = []
    for number, row, vector in zip(ids, rows, vectors, strict=True):
        own = {place: np.array([row])}
        queries.append(Query(f"cell {number}", vector, own, excluded=own))
    return queries


def _type_query(collection: Collection, type: str, places: Sequence[int]) -> Query:
    """The mean of all cells of a type. These may be neighbours: what is most like the mean is the type's prototype."""
    known = {name for place in places for name in collection.slides[place].table.types}
    if type not in known:
        raise InputError(f"`type={type!r}`: no such type; {near(type, known)}")
    total, count = np.zeros(collection.dim), 0
    for slide in (collection.slides[place] for place in places):
        if type not in slide.table.types:
            continue
        is_type = slide.table.type_codes(slide.table.read(["type"])) == slide.table.types.index(type)
        for start, vectors in slide.blocks():
            total += vectors[is_type[start : start + len(vectors)]].sum(0, dtype=np.float64)
        count += int(is_type.sum())
    if not count:
        raise InputError(f"`type={type!r}`: there is no cell of this type here")
    name = f"mean of {count:,} {type}"
    return Query(name, _direction(total / count, name))


def _direction(vector: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    direction = unit(np.asarray(vector, dtype=np.float32)[None])[0]
    if not direction.any():
        raise InputError(f"the {name}: embeddings cancel out, their mean is zero; choose other cells")
    return direction


def _near(collection: Collection, query: Query, apart_um: float) -> dict[int, Rows]:
    """The query's own cells, and those around them; cells without a place are not known to be near."""
    from scipy.spatial import KDTree

    excluded: dict[int, Rows] = {}
    for place, rows in query.cells.items():
        table = collection.slides[place].table.read(["x_um", "y_um"])
        centres = np.stack([numbers(table, "x_um"), numbers(table, "y_um")], axis=1)
        placed = np.flatnonzero(np.isfinite(centres).all(axis=1))
        if not np.isin(rows, placed).all():
            raise InputError(
                f"`apart_um={apart_um:g}`: {query.name} has no place (x_um, y_um) to be apart from; leave it out"
            )
        distance, _ = KDTree(centres[rows]).query(centres[placed], distance_upper_bound=apart_um)
        excluded[place] = np.union1d(rows, placed[distance < apart_um])
    return excluded


def _table(collection: Collection, queries: Sequence[Query], best: Best) -> pd.DataFrame:
    """The table of ``Neighbours``: of each query its own cells, then its neighbours."""
    import pandas as pd

    lines = []  # number of the query, rank, similarity, slide, row
    for number, query in enumerate(queries):
        for place, rows in query.cells.items():
            similarities = collection.slides[place].unit_embeddings(rows) @ query.vector
            lines += [(number, 0, *own, place, row) for *own, row in zip(similarities, rows, strict=True)]
        hits = zip(best.similarity[number], best.slide[number], best.row[number], strict=True)
        lines += [(number, rank, *hit) for rank, hit in enumerate(hits, start=1) if hit[1] != EMPTY]
    frame = pd.DataFrame(lines, columns=["query", "rank", "similarity", "slide", "row"])
    columns = [*COLUMNS, *([CLUSTER] if all(slide.table.clusters for slide in collection.slides) else [])]
    parts = []
    for place in frame["slide"].unique():
        cells = frame[frame["slide"] == place]
        taken = collection.slides[place].table.take(cells["row"].to_numpy(np.int64), columns).to_pandas()
        parts.append(taken.astype({"type": object}).set_index(cells.index))
    frame["query"] = [queries[number].name for number in frame["query"]]
    frame["slide"] = [collection.slides[place].name for place in frame["slide"]]
    frame["similarity"] = frame["similarity"].astype(float).clip(-1.0, 1.0)
    frame = frame.drop(columns="row")
    return frame.join(pd.concat(parts)) if parts else frame.reindex(columns=[*frame.columns, *columns])
