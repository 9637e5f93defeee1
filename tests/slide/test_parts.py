"""Parts of a slide's table: which of them an interrupted run goes on after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from celldetr.slide.parts import PartStore
from helpers.parts import TYPES, some_cells, write_parts


def test_parts_end_where_one_is_missing(tmp_path: Path) -> None:
    write_parts(tmp_path, [3, 4, 5, 6])
    store = PartStore(tmp_path, TYPES, 8)
    assert [info.rows for info in store.infos([0, 1, 2, 3])] == [3, 4, 5, 6]
    store.path(1).unlink()
    assert [info.rows for info in store.infos([0, 1, 2, 3])] == [3]
    assert [info.rows for info in store.infos([0, 2, 3, 5])] == [3, 5, 6]
    cells, boxes = some_cells(5, 2)
    np.testing.assert_array_equal(store.centres(2), (boxes[:, :2] + boxes[:, 2:]) / 2)
    assert len(cells) == 5
