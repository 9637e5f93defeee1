"""Models by name, by folder and by run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from celldetr.errors import InputError
from celldetr.model import hub
from celldetr.model.hub import DEFAULT_MODEL, find_model, list_models


def make(folder: Path) -> Path:
    """A folder that looks like a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the package's models, and a working directory without any."""
    monkeypatch.setattr(hub, "PACKAGED", tmp_path / "package")
    monkeypatch.delenv(hub.VARIABLE, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package"


def test_the_default_model_is_the_packages(packaged: Path) -> None:
    small = make(packaged / DEFAULT_MODEL)
    assert find_model() == find_model(DEFAULT_MODEL) == small
    run = make(Path(DEFAULT_MODEL, "model").absolute())
    assert find_model() == small  # whatever lies in the working directory
    assert find_model(DEFAULT_MODEL).absolute() == run  # but a folder that is named is meant


def test_users_folders_come_first(packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(packaged / DEFAULT_MODEL)
    make(packaged / "other")
    first, second = make(tmp_path / "one" / DEFAULT_MODEL), make(tmp_path / "two" / "mine")
    make(tmp_path / "two" / DEFAULT_MODEL)
    monkeypatch.setenv(hub.VARIABLE, os.pathsep.join(map(str, (tmp_path / "one", tmp_path / "gone", second.parent))))
    assert list_models() == {DEFAULT_MODEL: first, "mine": second, "other": packaged / "other"}
    assert find_model() == first


def test_a_folder_or_a_run_is_a_model(tmp_path: Path) -> None:
    folder = make(tmp_path / "run" / "model")
    assert find_model(folder) == find_model(str(folder)) == folder
    assert find_model(tmp_path / "run") == folder


def test_a_checkpoint_that_is_being_written_is_no_model(packaged: Path) -> None:
    make(packaged / "small-20x.tmp")
    make(packaged / "small-20x.old")
    assert list_models() == {}


def test_an_unknown_name_lists_the_near_ones(packaged: Path) -> None:
    make(packaged / "small-20x")
    with pytest.raises(InputError, match=r"no model 'smal-20x'.*did you mean 'small-20x'"):
        find_model("smal-20x")
    with pytest.raises(InputError, match=r"no model 'zzz'.*expected one of 'small-20x'"):
        find_model("zzz")


def test_without_any_model_the_places_searched_are_named(packaged: Path) -> None:
    with pytest.raises(InputError, match=f"there is no model in {packaged}"):
        find_model()


def test_a_folder_or_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_text("")
    for place in (tmp_path, tmp_path / "weights.safetensors"):
        with pytest.raises(InputError, match=r"not a CellDETR checkpoint, there is no card\.json"):
            find_model(place)


def test_a_broken_card_is_named_when_cards_are_listed(packaged: Path) -> None:
    make(packaged / "small-20x")
    with pytest.raises(InputError, match="not the card of a CellDETR checkpoint"):
        hub.cards()
