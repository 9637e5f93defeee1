"""The index on disk: recall, what a change costs, and files that do not fit."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from celldetr.errors import InputError
from celldetr.search.collection import find_cells, gather, sample_rows
from celldetr.search.index import NeighbourIndex, build_index, read_manifest
from celldetr.search.nearest import Query, search_all
from celldetr.search.similar import similar
from helpers.cell_tables import random_cells, write_run
from helpers.cli import call
from helpers.cohorts import planted, write_cohort

faiss = pytest.importorskip("faiss", reason="the extra 'search' (faiss-cpu) is not installed")


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    write_cohort(tmp_path / "out", {"one": 900, "two": 600, "empty": 0})
    build_index(tmp_path / "out")
    return tmp_path / "out"


def test_recall_on_clustered_vectors(tmp_path):
    embeddings, _ = planted(20_000, 12, d=32)
    run = write_run(tmp_path / "one", random_cells(20_000), embeddings)
    cells = find_cells([run])
    build_index(run)
    queries = [Query("", vector) for vector in gather(cells, sample_rows(cells, 100, 3))]
    found = NeighbourIndex(run / "neighbours", cells).search(queries, 10)
    right = search_all(cells, queries, 10)
    hits = [len(set(a) & set(b)) for a, b in zip(found.row.tolist(), right.row.tolist(), strict=True)]
    assert np.mean(hits) / 10 >= 0.95


def test_the_index_is_used_and_agrees_with_exact_search(cohort):
    for options in ({}, {"other_slides": True}, {"apart_um": 100}):
        fast, slow = (similar(cohort, 7, slide="one", exact=exact, **options) for exact in (False, True))
        assert "index" in fast.how
        assert np.allclose(fast.table["similarity"], slow.table["similarity"], atol=2e-3)
        assert len(set(fast.table["cell_id"]) & set(slow.table["cell_id"])) >= 0.8 * len(slow.table)


@pytest.mark.parametrize(
    ("where", "k", "options"),
    [
        ("", 590, {"other_slides": True}),
        ("", 1400, {"apart_um": 100}),
        ("few", 99, {}),
    ],
)
def test_there_are_as_many_neighbours_as_asked_for_if_there_are_cells(cohort, where, k, options):
    write_run(cohort / "few", random_cells(40, seed=7), planted(40, 5, seed=7)[0])
    build_index(cohort)
    slide, index = (where or "one"), cohort / "neighbours"
    fast = similar(cohort / where, 7, slide=slide, k=k, index=index, **options).table
    slow = similar(cohort / where, 7, slide=slide, k=k, exact=True, **options).table
    assert len(fast) == len(slow)
    assert not fast.duplicated(["slide", "cell_id"]).any()
    assert np.allclose(fast["similarity"].iloc[:10], slow["similarity"].iloc[:10], atol=2e-3)


def test_only_slides_that_changed_are_read_again(cohort):
    before = {path.name: path.stat().st_mtime_ns for path in (cohort / "neighbours").glob("*.faiss")}
    write_run(cohort / "three", random_cells(80, seed=9), planted(80, 5, seed=9)[0])
    with pytest.raises(InputError, match="slide 'three' is not in the index"):
        similar(cohort, 7, slide="one")
    built = build_index(cohort)
    assert (built.added, built.kept, built.dropped) == (1, 3, 0)
    after = {path.name: path.stat().st_mtime_ns for path in (cohort / "neighbours").glob("*.faiss")}
    assert before.items() < after.items()
    shutil.rmtree(cohort / "two")
    built = build_index(cohort)
    assert (built.added, built.kept, built.dropped) == (0, 3, 1)
    assert len(list((cohort / "neighbours").glob("*.faiss"))) == 2
    assert set(similar(cohort, 7, slide="one", k=900).table["slide"]) == {"one", "three"}


def test_a_table_that_changed_makes_the_index_stale(cohort):
    write_run(cohort / "two", random_cells(600, seed=5), planted(600, 5, seed=5)[0])
    with pytest.raises(InputError, match="'two'"):
        similar(cohort, 7, slide="one")
    assert similar(cohort, 7, slide="one", exact=True).how.startswith("compared with all")
    assert similar(cohort / "one", 7, index=cohort / "neighbours").how.startswith("index")
    assert build_index(cohort).added == 1
    similar(cohort, 7, slide="one")


def test_an_interrupted_build_goes_on(cohort, monkeypatch):
    from celldetr.search import ivf

    shutil.rmtree(cohort / "neighbours")
    write, written = ivf.write_lists, []

    def stops(quantizer, blocks, path):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(quantizer, blocks, path)

    monkeypatch.setattr(ivf, "write_lists", stops)
    with pytest.raises(KeyboardInterrupt):
        build_index(cohort)
    with pytest.raises(InputError, match="is not in the index"):
        similar(cohort, 7, slide="one")
    monkeypatch.undo()
    built = build_index(cohort)
    assert (built.added, built.kept) == (1, 2)
    similar(cohort, 7, slide="one")


@pytest.mark.parametrize("damage", ["cut", "swapped", "gone", "centroids", "manifest"])
def test_files_that_do_not_fit_are_refused(cohort, damage, tmp_path):
    index = cohort / "neighbours"
    manifest = json.loads((index / "manifest.json").read_text())
    one, two = (index / s.file for s in read_manifest(index).segments if s.rows)
    content = one.read_bytes()
    if damage == "cut":
        one.write_bytes(content[:-100])
    elif damage == "swapped":
        two.replace(one)
    elif damage == "gone":
        one.unlink()
    elif damage == "centroids":
        np.save(index / "centroids.npy", np.load(index / "centroids.npy")[::-1].copy())
    else:
        (index / "manifest.json").write_text(json.dumps(manifest | {"lists": 10**9}))
    with pytest.raises(InputError):
        similar(cohort, 7, slide="one")


def test_a_segment_with_changed_bytes_never_names_a_cell_that_is_not_there(cohort):
    index, rng = cohort / "neighbours", np.random.default_rng(0)
    path = next(index / s.file for s in read_manifest(index).segments if s.slide == "one")
    content = path.read_bytes()
    for _ in range(10):
        changed = bytearray(content)
        for at in rng.integers(len(content) // 2, len(content), 200):  # rows and vectors; heads are other tests
            changed[at] = rng.integers(256)
        path.write_bytes(bytes(changed))
        with suppress(InputError):  # it may be seen
            assert similar(cohort, 7, slide="one").table["cell_id"].between(0, 899).all()


def test_what_is_no_index_is_left_alone(tmp_path):
    write_cohort(tmp_path / "out", {"one": 50})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(InputError, match="holds other files than those of the index"):
        build_index(tmp_path / "out", tmp_path / "mine")


def test_an_index_of_0_1_is_made_anew(cohort):
    manifest = cohort / "neighbours" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match="make it anew with celldetr index"):
        similar(cohort, 7, slide="one")
    assert build_index(cohort).added == 3
    similar(cohort, 7, slide="one")


def test_an_interrupted_command_says_how_to_go_on(cohort, monkeypatch, capsys):
    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("celldetr.search.index.build_index", stops)
    assert call("index", cohort, "-q") == 130
    assert capsys.readouterr().err.startswith("interrupted")
