"""docs/data.md says what is: its card is valid, its table lists the cards, its numbers are in the log."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from celldetr.config import parse
from celldetr.data.card import CARDS, DatasetCard, load_card
from celldetr.data.sources import READERS
from celldetr.io.safe_io import yaml_names

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_card_shown_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    card = parse(DatasetCard, yaml.safe_load(block), "docs/data.md")
    assert card.group_of("P12_a") == "P12"
    assert set(yaml.safe_load(block)) == set(DatasetCard.model_fields)


def test_the_table_is_that_of_the_cards() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| .* \| ([\w. -]+) \| (yes|no) \|$", TEXT, re.MULTILINE)
    cards = [load_card(name) for name in yaml_names(CARDS)]
    assert sorted(rows) == [(c.name, c.format, c.licence, "yes" if c.may_ship else "no") for c in cards]


def test_every_format_is_described() -> None:
    assert set(re.findall(r"^\*\*`(\w+)`\*\*", TEXT, re.MULTILINE)) == set(READERS)


def test_the_numbers_are_those_of_the_log() -> None:
    log = (ROOT / "benchmarks/results/pseudo_boxes.txt").read_text(encoding="utf-8")
    measured = [float(value) for value in re.findall(r"celldetr +(0\.\d+)", log)]
    (row,) = re.findall(r"^\| `pseudo_boxes` \|(.*)\|$", TEXT, re.MULTILINE)
    assert [float(value) for value in re.findall(r"\.\d+", row)] == measured
