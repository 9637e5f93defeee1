"""One object that is several nuclei, and one nucleus in several pieces.

Programs write all nuclei of a type as one MultiPolygon, or several that were selected together; and a nucleus is in
pieces where a line of pixels between two tiles or a fold cuts it. What lies further apart than ``GAP_UM`` are several
nuclei. What is nearer is one, unless two pieces are both of a nucleus's size and do not look like one that was cut.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

GAP_UM = 1.0
WIDTH_UM = 3.0  # of the narrower side of a piece; what is narrower is no nucleus of its own
ROUND = 1.7  # longer side over narrower one of two pieces together that may be halves of one nucleus
FACING = 0.6  # of the shorter piece's length, along which halves face one another
REACH_UM = 0.25  # beyond the gap, to either side
USUAL_MPP = 0.4  # where it is not known


def nuclei_of(area: shapely.Geometry, mpp: float | None) -> list[shapely.Geometry]:
    """The nuclei of an object: itself, or the groups of its pieces that are a nucleus each.

    Args:
        area: a Polygon or MultiPolygon, px; it need not be valid.
        mpp: micrometres per pixel; None: not known.
    """
    pieces = shapely.get_parts(area)
    if len(pieces) < 2:
        return [area]
    mpp = mpp or USUAL_MPP
    valid = shapely.make_valid(pieces)
    first, second = shapely.STRtree(valid).query(valid, predicate="dwithin", distance=GAP_UM / mpp)
    one, other = first[first < second], second[first < second]
    width = _sides(valid)[0] * mpp
    joined = (np.minimum(width[one], width[other]) < WIDTH_UM) | _are_halves(valid[one], valid[other], mpp)
    links = coo_array((np.ones(joined.sum()), (one[joined], other[joined])), shape=(len(pieces),) * 2)
    count, group = connected_components(links, directed=False)
    if count == 1:
        return [area]
    groups = [pieces[group == i] for i in range(count)]
    return [each[0] if len(each) == 1 else shapely.MultiPolygon(list(each)) for each in groups]


def _sides(areas: NDArray[np.object_]) -> NDArray[np.float64]:
    """(2, N) narrower and longer side of the rectangle around each, px."""
    corners = [shapely.get_coordinates(box) for box in shapely.oriented_envelope(areas)]
    sides = [np.hypot(*(np.diff(each[:3], axis=0).T)) if len(each) > 3 else np.zeros(2) for each in corners]
    return np.sort(np.array(sides).reshape(-1, 2), axis=1).T


def _are_halves(one: NDArray[np.object_], other: NDArray[np.object_], mpp: float) -> NDArray[np.bool_]:
    """(N,) whether two pieces each look like one nucleus that was cut: round together, and facing one another."""
    narrow, long = _sides(shapely.union(one, other))
    reach = shapely.distance(one, other) + REACH_UM / mpp
    facing = shapely.length(shapely.intersection(shapely.boundary(one), shapely.buffer(other, reach)))
    return (long <= ROUND * narrow) & (facing >= FACING * np.minimum(_sides(one)[1], _sides(other)[1]))
