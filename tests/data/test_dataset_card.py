"""A card says what the data are, and a wrong one says what is wrong with it."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celldetr.data.card import CARDS, load_card
from celldetr.data.overlap import overlap
from celldetr.data.sample import count_types
from celldetr.data.sources import load_samples
from celldetr.errors import InputError
from celldetr.io.safe_io import yaml_names
from celldetr.model.checkpoint import read_card
from celldetr.model.hub import find_model
from helpers.folders import write_card


def test_every_card_of_the_package_is_valid_and_named_by_its_file() -> None:
    assert {"brca-m2c", "pannuke"} <= set(yaml_names(CARDS))
    for name in yaml_names(CARDS):
        card = load_card(name)
        assert card.name == name
        assert card.licence
        assert card.citation
        assert card.splits


def test_what_may_ship_is_what_its_licence_allows() -> None:
    allowed = {name for name in yaml_names(CARDS) if load_card(name).may_ship}
    assert {load_card(name).licence for name in allowed} <= {"Apache-2.0", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0"}
    assert not load_card("consep").may_ship


@pytest.fixture
def data_sets(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The development data sets; how large a nucleus is does not matter, and takes longest to find."""
    monkeypatch.setenv("CELLDETR_DATA", str(shared_data))
    boxes = lambda image, points, mpp: np.concatenate([points - 1, points + 1], axis=1)  # noqa: E731
    monkeypatch.setattr("celldetr.data.readers.common.pseudo_boxes", boxes)


@pytest.mark.slow
@pytest.mark.usefixtures("data_sets")
@pytest.mark.parametrize("name", ["brca-m2c", "consep", "consep-train", "nucls-examples", "nuinsseg", "tnbc"])
def test_splits_share_no_patient_and_no_image(name: str) -> None:
    card = load_card(name)
    apart = [split for split in card.splits if split in ("train", "fit", "val", "test")]
    seen: dict[str, str] = {}
    for split in apart:
        for sample in load_samples(card, split):
            for key in (f"patient {sample.group}", hashlib.sha256(sample.image.tobytes()).hexdigest()):
                assert seen.setdefault(key, split) == split, f"{key} is in {seen[key]} and in {split}"
    assert seen


def test_typed_nuinsseg_differs_in_types_only() -> None:
    plain, typed = load_card("nuinsseg"), load_card("nuinsseg-typed")
    own = {"name", "title", "types", "options", "splits"}
    assert typed.model_dump(exclude=own) == plain.model_dump(exclude=own)
    epithelia = set(typed.splits["epithelia"])  # type: ignore[arg-type]
    assert epithelia < set(plain.splits["train"])  # type: ignore[arg-type]
    assert typed.splits == plain.splits | {"epithelia": typed.splits["epithelia"]}
    assert typed.options == plain.options | {"types_file": typed.options["types_file"]}
    lines = [line for line in typed.beside(typed.options["types_file"]).read_text().splitlines() if line[0] != "#"]
    rows = list(csv.DictReader(lines))
    organs = {typed.group_of(row["image"]) for row in rows}
    assert not organs & set(plain.splits["test"])  # type: ignore[arg-type]
    assert len(organs) >= 20
    assert {row["type"] for row in rows} == set(typed.types)
    named = [row["named"] for row in rows]
    assert set(named) == {"single", "region", "cluster"}
    assert named.count("region") <= len(named) / 2


@pytest.mark.slow
@pytest.mark.usefixtures("data_sets")
def test_types_of_nuinsseg_fit_its_maps() -> None:
    card = load_card("nuinsseg-typed")
    counts = np.zeros(len(card.types) + 1, dtype=np.int64)
    for split in ("train", "val"):  # reading refuses nuclei that are not in the maps, or elsewhere
        counts += sum(count_types(sample.types, len(counts)) for sample in load_samples(card, split))
    assert (counts[:-1] > 100).all()
    assert counts[-1] > counts[:-1].sum()  # of unknown type


@pytest.mark.slow
@pytest.mark.usefixtures("data_sets")
def test_patients_of_brca_m2c_are_not_in_the_unseen_set() -> None:
    brca, unseen = load_card("brca-m2c"), load_card("monuseg-train")
    learned = {sample.group for split in brca.splits for sample in load_samples(brca, split)}
    assert not learned & {sample.group for sample in load_samples(unseen, "unseen")}


@pytest.mark.slow
@pytest.mark.usefixtures("data_sets")
def test_the_model_of_the_package_says_whom_it_has_seen() -> None:
    sources, brca = read_card(find_model("small-20x")).training_data, load_card("brca-m2c")
    seen = {split: overlap(sources, brca.name, split, load_samples(brca, split)) for split in ("train", "val", "test")}
    assert (len(seen["train"].images), seen["train"].complete) == (78, True)
    assert (seen["val"].images, seen["val"].patients) == ((), ("TCGA-A7-A0DB", "TCGA-A7-A13G"))
    assert not str(seen["test"])


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(
        InputError, match=r"no dataset card 'brca_m2c': neither a file .* nor a known name; did you mean 'brca-m2c'"
    ):
        load_card("brca_m2c")


def test_labels_become_text_and_index_types(tmp_path: Path) -> None:
    card = write_card(tmp_path, types={"round": [1, 2], "long": ["e"]})
    assert card.type_names == ("round", "long")
    assert card.label_index == {"1": 0, "2": 0, "e": 1}


def test_root_is_beside_the_card_or_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLDETR_DATA", raising=False)
    card = write_card(tmp_path, root="pictures")
    with pytest.raises(
        InputError, match=r"no directory .*pictures; set CELLDETR_DATA .*root=.*https://example.org/toy"
    ):
        card.directory()
    (tmp_path / "pictures").mkdir()
    assert card.directory() == tmp_path / "pictures"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "pictures").mkdir(parents=True)
    monkeypatch.setenv("CELLDETR_DATA", str(elsewhere))
    assert card.directory() == elsewhere / "pictures"
    assert write_card(tmp_path, root=str(tmp_path)).directory() == tmp_path


def test_group_is_what_the_pattern_finds(tmp_path: Path) -> None:
    card = write_card(tmp_path, group_pattern=r"^(TCGA-\w\w-\w{4})")
    assert card.group_of("TCGA-A7-A0D9-01Z_1_2") == "TCGA-A7-A0D9"
    with pytest.raises(InputError, match="finds no patient in 'other'"):
        card.group_of("other")
    assert write_card(tmp_path).group_of("other") == "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mpp": 0}, "mpp.*greater than 0"),
        ({"licens": "x"}, "unknown key 'licens'; did you mean 'licence'"),
        ({"types": {"a": [1], "b": [1]}}, "label '1' belongs to more than one type"),
        ({"types": {"a": [1], "b": []}}, "'b' needs the labels"),
        ({"types": {}}, "at least one is needed"),
        ({"types": ["a"]}, "types"),
        ({"group_pattern": "("}, "valid regular expression"),
        ({"group_pattern": "TCGA"}, "needs a group in parentheses"),
    ],
)
def test_a_wrong_card_says_so(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write_card(tmp_path, **changes)


def test_a_missing_split_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split 'trian'; did you mean 'train'"):
        write_card(tmp_path).split("trian")
