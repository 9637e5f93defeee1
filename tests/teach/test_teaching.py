"""Labels by slide and row, the head that is learned from them, and what is asked next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from celldetr.errors import InputError
from celldetr.search.collection import find_cells
from celldetr.teach.head_file import check_fits, load_head
from celldetr.teach.session import NO_TYPE, Teaching
from helpers.cell_tables import TYPES
from helpers.view_runs import ViewRun, write_view_run


@pytest.fixture
def run(tmp_path: Path) -> ViewRun:
    return write_view_run(tmp_path)


def open_(run: ViewRun) -> Teaching:
    return Teaching(find_cells(run.out))


def teach(teaching: Teaching, run: ViewRun, each: int = 24) -> None:
    """Label some cells of each of the run's types on the first slide by their true type.

    Embeddings of the other slide are of other clusters (``helpers.cell_tables``).
    """
    for number, name in enumerate(TYPES):
        teaching.define(name, f"#00000{number}", base=teaching.state.revision, client="me")
        cells = np.flatnonzero(run.cells["one"]["type"] == name)[:each]
        teaching.label([(0, int(row)) for row in cells], number, base=teaching.state.revision, client="me")


def test_learned_types_are_those_that_the_embeddings_tell(run):
    with open_(run) as teaching:
        teach(teaching, run)
        lesson = teaching.learn()
        assert lesson.check.confusion.sum() == lesson.counts.sum() == 24 * len(TYPES)
        assert lesson.check.macro_f1 > 0.9
        codes, probability = teaching.typed(0)
        assert (np.array(TYPES)[codes] == run.cells["one"]["type"]).mean() > 0.9
        assert ((probability > 1 / len(TYPES)) & (probability <= 1)).all()
        assert teaching.describe()["lesson"]["labels"] == lesson.counts.tolist()


def test_a_label_stands_whatever_the_head_says_and_struck_cells_have_no_type(run):
    with open_(run) as teaching:
        teach(teaching, run)
        teaching.label([(1, 5)], 2, base=teaching.state.revision, client="me")
        teaching.strike([(1, 6)], base=teaching.state.revision, client="me")
        codes, probability = teaching.typed(1)
        assert (codes[5], probability[5]) == (2, 1)
        assert codes[6] == NO_TYPE
        assert teaching.marks(1)["struck"] == [6]


def test_labels_are_there_again_and_find_cells_that_were_numbered_anew(run):
    with open_(run) as teaching:
        teach(teaching, run, 2)
        before, marks = teaching.describe(), teaching.marks(0)
    with open_(run) as teaching:
        assert teaching.describe() == before | {"lesson": None}
        ids = teaching._finder.places(0).ids
        teaching._finder.places(0).ids = ids[::-1].copy()
        teaching._finder.places(0)._order = np.argsort(teaching._finder.places(0).ids)
        again = teaching.marks(0)
        assert dict(zip(again["rows"], again["types"], strict=True)) == dict(
            zip(marks["rows"], marks["types"], strict=True)
        )


def test_proposals_are_different_cells_that_nobody_has_labelled(run):
    with open_(run) as teaching:
        first = teaching.propose(8)
        assert len(set(first)) == 8
        teach(teaching, run)
        known = {(place, row) for place in (0, 1) for row in teaching.marks(place)["rows"]}
        asked = teaching.propose(20, place=1)
        assert len(set(asked)) == 20
        assert all(place == 1 for place, _ in asked)
        assert not known & set(asked)


def test_nothing_labelled_is_no_error_but_no_head(run):
    with open_(run) as teaching:
        assert teaching.learn().head is None
        assert (teaching.typed(0)[0] == NO_TYPE).all()
        with pytest.raises(InputError, match="no head to save"):
            teaching.save(run.out / "head")
        with pytest.raises(InputError, match="no row 300"):
            teaching.label([(0, 300)], None, base=0, client="me")


def test_a_saved_head_says_the_same_and_knows_what_it_is_of(run, tmp_path):
    with open_(run) as teaching:
        teach(teaching, run)
        card = teaching.save(tmp_path / "head")
        with pytest.raises(InputError, match="exists already"):
            teaching.save(tmp_path / "head")
        assert teaching.save(tmp_path / "head", overwrite=True).sha256 == card.sha256
        expected = teaching.learn().head
        features = teaching._pool[2]
    head, again = load_head(tmp_path / "head")
    assert again.names == TYPES
    assert [kind.labels for kind in again.types] == [24] * len(TYPES)
    assert np.array_equal(head.probabilities(features), expected.probabilities(features))
    with pytest.raises(InputError, match="another model"):
        check_fits(again.model_copy(update={"model": "a" * 64}), "here", "b" * 64, again.embedding_dim)
    with pytest.raises(InputError, match="numbers"):
        check_fits(again, "here", None, again.embedding_dim + 1)
    weights = tmp_path / "head" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(InputError, match="copy the head again"):
        load_head(tmp_path / "head")
