"""What is taught is never lost or silently overwritten, and a replay of the journal is the state."""

from __future__ import annotations

from pathlib import Path

import pytest

from celldetr.errors import InputError
from celldetr.teach.actions import Add, Define, Label, Merge, Strike
from celldetr.teach.journal import ConflictError, Journal

CELLS = (("one", 3, 10.5, 20.25), ("two", 7, 1.0, 2.0))
TUMOUR, STROMA = Define(name="tumour", colour="#ff0000", key="t"), Define(name="stroma", colour="#00ff00")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "teach")
    journal.append(TUMOUR, 0, "me")
    journal.append(STROMA, 1, "me")
    return journal


def say(journal: Journal, type: int | None, cells=CELLS, client: str = "me", base: int | None = None) -> None:
    journal.append(Label(type=type, cells=cells), journal.revision if base is None else base, client)


def test_state_after_each_kind_of_action(journal):
    say(journal, 0)
    journal.append(Strike(cells=CELLS[:1]), journal.revision, "me")
    assert set(journal.state.labels) == {("two", 7)}
    assert set(journal.state.struck) == {("one", 3)}
    journal.append(Add(slide="one", box=(0, 0, 5, 8), type=0), journal.revision, "me")
    journal.append(Merge(type=0, into=1), journal.revision, "me")
    assert list(journal.state.types) == [1]
    assert journal.state.labels["two", 7].type == 1
    assert journal.state.added[5].type == 1
    journal.append(Merge(type=1), journal.revision, "me")
    assert not journal.state.labels
    assert journal.state.added[5].type is None


def test_a_killed_server_loses_nothing_that_was_confirmed(journal):
    say(journal, 0)
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"revision":4,"time":"2026-')
    again = Journal(journal.path.parent)
    assert again.state == journal.state
    say(again, 1)
    again.close()
    last = Journal(journal.path.parent)
    assert last.revision == 4
    assert last.state.labels["two", 7].type == 1


def test_undo_goes_back_step_by_step_and_only_over_ones_own(journal):
    say(journal, 0)
    say(journal, 1, CELLS[:1])
    say(journal, 1, (("one", 99, 0.0, 0.0),), client="you")
    journal.undo(journal.revision, "me")
    assert journal.state.labels["one", 3].type == 0
    journal.undo(journal.revision, "me")
    assert set(journal.state.labels) == {("one", 99)}
    with pytest.raises(InputError, match="nothing of yours"):
        journal.undo(journal.revision, "nobody")


def test_a_number_is_not_given_twice(journal):
    journal.undo(2, "me")
    assert list(journal.state.types) == [0]
    journal.append(STROMA, 3, "me")
    assert list(journal.state.types) == [0, 2]


def test_two_clients_do_not_overwrite_one_another(journal):
    seen = journal.revision
    say(journal, 0, client="you")
    with pytest.raises(ConflictError, match="by you"):
        say(journal, 1, CELLS[:1], base=seen)
    say(journal, 1, (("one", 4, 0.0, 0.0),), base=seen)
    assert {label.type for label in journal.state.labels.values()} == {0, 1}
    journal.append(Merge(type=1), journal.revision, "you")
    with pytest.raises(ConflictError):
        say(journal, 1, (("one", 5, 0.0, 0.0),), base=seen)


def test_what_makes_no_sense_is_refused_and_not_written(journal):
    for action, message in (
        (Label(type=5, cells=CELLS), "no type 5"),
        (Define(name="tumour", colour="#0000ff"), "already"),
        (Merge(type=0, into=0), "itself"),
        (Add(slide="one", box=(5, 0, 0, 8)), "left, top"),
    ):
        with pytest.raises(InputError, match=message):
            journal.append(action, journal.revision, "me")
    assert len(journal.path.read_bytes().splitlines()) == journal.revision == 2


def test_one_process_at_a_time(journal):
    with pytest.raises(InputError, match="in use"):
        Journal(journal.path.parent)


def test_a_damaged_line_is_named(journal):
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"garbage\n" + lines[1])
    with pytest.raises(InputError, match="line 1"):
        Journal(journal.path.parent)
