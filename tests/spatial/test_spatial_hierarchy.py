"""Fine types to coarse: sums, unknowns, and the files that come with the package."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.errors import InputError
from celldetr.io.safe_io import yaml_names
from celldetr.spatial.annotate.annotation import Annotation
from celldetr.spatial.annotate.hierarchy import HIERARCHIES, Hierarchy, coarsen, load_hierarchy


def annotation(p: list[list[float]], types: tuple[str, ...], known: list[bool] | None = None) -> Annotation:
    values = np.array(p, dtype=np.float32)
    return Annotation(values, types, np.array(known if known else [True] * len(p)))


def hierarchy(*levels: dict[str, str]) -> Hierarchy:
    return Hierarchy.model_validate({"levels": [{"name": f"l{i}", "parents": level} for i, level in enumerate(levels)]})


def test_probabilities_are_summed_and_the_margin_follows() -> None:
    fine = annotation([[0.3, 0.3, 0.4]], ("CD4", "CD8", "B cell"))
    coarse = coarsen(fine, hierarchy({"CD4": "T", "CD8": "T", "B cell": "B"}), "l0")
    row = coarse.table(np.array(["a"], dtype=object)).iloc[0]
    assert fine.table(np.array(["a"], dtype=object))["type"].item() == "B cell"
    assert (row["type"], row["second"]) == ("T", "B")
    assert row["probability"] == pytest.approx(0.6)
    assert row["margin"] == pytest.approx(0.2)
    assert row["p: T"] == pytest.approx(0.6)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), min_size=1, max_size=8), st.data())
def test_two_levels_are_the_sums_over_leaves(rows: list[list[float]], data: st.DataObject) -> None:
    p = np.array(rows, dtype=np.float32)
    p /= p.sum(axis=1, keepdims=True)
    leaves = tuple("abcde")
    middle = {leaf: data.draw(st.sampled_from(["x", "y", "z"])) for leaf in leaves}
    top = {name: data.draw(st.sampled_from(["P", "Q"])) for name in ("x", "y", "z")}
    out = coarsen(Annotation(p, leaves, np.ones(len(p), dtype=bool)), hierarchy(middle, top), "l1")
    for k, name in enumerate(out.types):
        expected = sum(p[:, i] for i, leaf in enumerate(leaves) if top[middle[leaf]] == name)
        np.testing.assert_allclose(out.probabilities[:, k], expected, atol=1e-6)


def test_what_is_mapped_to_nothing_is_unknown_where_it_outweighs() -> None:
    fine = annotation([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [1 / 3] * 3], ("doublet", "T", "B"), [True, True, False])
    coarse = coarsen(fine, hierarchy({"doublet": "", "T": "T", "B": "B"}), "l0")
    assert coarse.types == ("T", "B")
    assert coarse.known.tolist() == [False, True, False]
    assert coarse.probabilities[1].tolist() == pytest.approx([0.5, 0.3])
    rows = coarse.table(np.array(["a", "b", "c"], dtype=object))
    assert rows["type"].tolist() == ["", "T", ""]
    assert rows["margin"].tolist() == pytest.approx([0, 0.2, 0])


def test_an_unknown_type_and_level_are_named() -> None:
    fine = annotation([[1.0]], ("T cel",))
    with pytest.raises(InputError, match="no parent for type 'T cel'; did you mean 'T cell"):
        coarsen(fine, load_hierarchy("paper"), "ten")
    with pytest.raises(InputError, match="no level 'tenn'; did you mean 'ten'"):
        coarsen(fine, load_hierarchy("paper"), "tenn")


def test_the_papers_types_lead_to_pannukes_with_mast_cells_under_inflammatory() -> None:
    named = (
        "T", "B", "plasma", "NK", "myeloid", "dendritic", "mast", "malignant", "fibroblast", "endothelial",
        "smooth muscle", "pericyte", "epithelial",
    )  # fmt: skip
    one_hot = Annotation(np.eye(13, dtype=np.float32), named, np.ones(13, dtype=bool))
    assert len(coarsen(one_hot, load_hierarchy("paper"), "ten").types) == 10
    five = (
        coarsen(one_hot, load_hierarchy("paper"), "pannuke")
        .table(np.array(named, dtype=object))
        .set_index("cell_id")["type"]
    )
    assert five.tolist() == ["inflammatory"] * 7 + ["neoplastic"] + ["connective"] * 4 + ["epithelial"]


@pytest.mark.parametrize("name", yaml_names(HIERARCHIES))
def test_each_level_of_what_is_shipped_knows_all_types_of_the_one_below(name: str) -> None:
    levels = load_hierarchy(name).levels
    for lower, upper in pairwise(levels):
        assert set(lower.types) <= set(upper.parents) | set(upper.types)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("levels:\n  - name: one\n    parents: {a: b}\n", encoding="utf-8")
    assert load_hierarchy(path).level_names == ("one",)
    path.write_text("levels:\n  - name: one\n    parent: {a: b}\n", encoding="utf-8")
    with pytest.raises(InputError, match="parent"):
        load_hierarchy(path)
    with pytest.raises(InputError, match="did you mean 'paper'"):
        load_hierarchy("papr")
