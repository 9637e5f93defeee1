"""Teaching through the routes of the page: what browsers say and see, and may not do to one another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from celldetr.cells.clusters import write_clusters
from celldetr.cells.palette import hex_colour, type_colours
from celldetr.view import app, teaching
from celldetr.view.app import build_app
from celldetr.view.run import ViewedRun
from helpers.view_runs import MPP, ViewRun, write_view_run


@pytest.fixture
def made(tmp_path: Path) -> ViewRun:
    return write_view_run(tmp_path)


@pytest.fixture
def client(made: ViewRun) -> Iterator[TestClient]:
    with ViewedRun(made.out) as run:
        yield TestClient(build_app(run, "t"), base_url="http://127.0.0.1/t/")


def say(client: TestClient, action: str, *, base: int | None = None, by: str = "a", **values: Any) -> dict[str, Any]:
    base = client.get("teach").json()["revision"] if base is None else base
    answer = client.post("teach", json={"action": action, "base": base, "client": by, **values})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def teach_two(client: TestClient, made: ViewRun) -> dict[str, np.ndarray]:
    """Types for lymphocytes and for all others; ten cells of each."""
    for name, colour in (("Immune", "#0072b2"), ("Other", "#e69f00")):
        say(client, "define", name=name, colour=colour, key=name[0].lower())
    kinds = {name: (frame["type"] != "lymphocyte").to_numpy().astype(int) for name, frame in made.cells.items()}
    for number in (0, 1):
        rows = np.flatnonzero(kinds["one"] == number)[:10].tolist()
        say(client, "label", type=number, cells=[[0, row] for row in rows])
    return kinds


def test_a_type_has_the_colour_that_its_name_has_in_pictures(client: TestClient) -> None:
    for name in ("Tumour", "Immune cells", "Lymphocytes"):
        say(client, "define", name=name)
    colours = [kind["colour"] for kind in client.get("teach").json()["types"]]
    assert colours[:2] == [hex_colour(type_colours([name])[name]) for name in ("tumour", "lymphocyte")]
    assert len(set(colours)) == 3  # the third one's is taken


def test_a_few_labels_type_the_slide(client: TestClient, made: ViewRun) -> None:
    kinds = teach_two(client, made)
    taught = client.post("teach/learn", json={}).json()
    assert [(kind["name"], kind["key"], kind["labels"]) for kind in taught["types"]] == [
        ("Immune", "i", 10),
        ("Other", "o", 10),
    ]
    assert taught["lesson"]["macro_f1"] > 0.8
    typed = np.frombuffer(client.get("slides/0/typed").content, "<u2")
    assert (typed == kinds["one"]).mean() > 0.9
    assert set(np.frombuffer(client.get("slides/1/typed").content, "<u2")) <= {0, 1}


def test_one_label_is_enough_to_learn(client: TestClient) -> None:
    say(client, "define", name="Immune", colour="#0072b2")
    say(client, "define", name="Other", colour="#e69f00")
    for row, number in ((0, 0), (1, 1), (2, 1), (3, 0), (4, 1), (5, 0)):
        say(client, "label", type=number, cells=[[0, row]])
        assert client.post("teach/learn", json={}).json()["lesson"]["revision"] == row + 3


def test_what_was_said_of_a_slide(client: TestClient) -> None:
    say(client, "define", name="Immune", colour="#0072b2")
    say(client, "label", type=0, cells=[[0, 3], [0, 4], [1, 5]])
    say(client, "strike", cells=[[0, 7]])
    say(client, "add", slide=0, box=[10, 20, 18, 26], type=0)
    marks = client.get("slides/0/marks").json()
    assert (marks["rows"], marks["types"], marks["struck"]) == ([3, 4], [0, 0], [7])
    assert [nucleus["box"] for nucleus in marks["added"]] == [[10, 20, 18, 26]]
    assert say(client, "undo")["added"] == 0
    assert client.get("slides/0/marks").json()["added"] == []
    assert say(client, "merge", type=0, into=None)["types"] == []


def test_added_boxes_are_in_pixels_in_the_journal(client: TestClient, made: ViewRun) -> None:
    say(client, "add", slide=0, box=[10, 20, 18, 26])
    line = (made.out / "teach" / "labels.jsonl").read_text()
    assert f'"box":[{10 / MPP},{20 / MPP},{18 / MPP},{26 / MPP}]' in line


def test_a_cluster_gets_a_type(made: ViewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "PER_CLUSTER", 20)
    for name, frame in made.cells.items():
        labels = (frame["type"] == "stromal").to_numpy().astype(np.int32)
        write_clusters(
            made.out / name / "cells.parquet",
            np.arange(300),
            labels,
            np.ones(300, bool),
            np.ones(300, np.float32),
            {"count": 2},
        )
    with ViewedRun(made.out) as run:
        client = TestClient(build_app(run, "t"), base_url="http://127.0.0.1/t/")
        say(client, "define", name="Stroma", colour="#0072b2")
        assert say(client, "cluster", type=0, cluster=1)["types"][0]["labels"] == 20
        for place, name in enumerate(("one", "two")):
            rows = client.get(f"slides/{place}/marks").json()["rows"]
            assert rows
            assert set(made.cells[name]["type"].iloc[rows]) == {"stromal"}
        assert (
            client.post(
                "teach", json={"action": "cluster", "type": 0, "cluster": 9, "base": 2, "client": "a"}
            ).status_code
            == 400
        )


def test_two_browsers_do_not_overwrite_each_other(client: TestClient) -> None:
    say(client, "define", name="Immune", colour="#0072b2")
    say(client, "define", name="Other", colour="#e69f00")
    say(client, "label", type=0, cells=[[0, 3]], base=2)
    said = {"action": "label", "type": 1, "cells": [[0, 3]], "base": 2, "client": "b"}
    refused = client.post("teach", json=said)
    assert refused.status_code == 409
    assert "look again" in refused.json()["error"]
    assert say(client, "label", type=1, cells=[[0, 4]], base=2, by="b")["revision"] == 4  # of another cell
    assert client.post("teach", json=said | {"base": 4}).status_code == 200  # having seen it
    assert client.get("slides/0/marks").json()["types"] == [1, 1]


def test_the_head_is_saved_beside_the_journal(client: TestClient, made: ViewRun) -> None:
    assert client.post("teach/save", json={}).status_code == 400  # nothing was taught
    teach_two(client, made)
    saved = client.post("teach/save", json={}).json()
    assert Path(saved["folder"]) == made.out / "teach" / "head"
    assert (made.out / "teach" / "head" / "head.safetensors").is_file()
    assert saved["command"] == f"celldetr retype {made.out} --head {saved['folder']}"


def test_proposals_are_cells_without_labels(client: TestClient, made: ViewRun) -> None:
    teach_two(client, made)
    proposed = {(cell["slide"], cell["row"]) for cell in client.get("teach/proposals").json()}
    assert len(proposed) == 12
    assert not proposed & {(0, row) for row in client.get("slides/0/marks").json()["rows"]}


def test_looking_writes_nothing(client: TestClient, made: ViewRun) -> None:
    assert client.get("teach").json()["types"] == []
    assert client.get("slides/0/marks").json()["rows"] == []
    assert client.get("slides/0/typed").status_code == 404
    assert not (made.out / "teach").exists()


@pytest.mark.parametrize(
    "said",
    [
        [], {}, {"action": "format"}, {"action": "undo"}, {"action": "label", "type": 0, "cells": [[0, 1]]},
        {"action": "label", "type": None, "cells": [[0, 300]]}, {"action": "label", "type": None, "cells": [[2, 0]]},
        {"action": "label", "type": None, "cells": [[-1, 0]]}, {"action": "add", "slide": 5, "box": [0, 0, 1, 1]},
        {"action": "add", "slide": 0, "box": [5, 0, 1, 1]}, {"action": "define", "name": "A", "colour": "red"},
        {"action": "merge", "type": 0}, {"action": "strike", "cells": "all"}, {"action": "undo", "base": 7},
    ],
)  # fmt: skip
def test_nonsense_is_refused(client: TestClient, said: Any) -> None:
    sent = {"base": 0, "client": "a", **said} if isinstance(said, dict) else said
    answer = client.post("teach", json=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert client.get("teach").json()["revision"] == 0


def test_commands_from_other_pages_and_too_large_ones(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"action": "define", "name": "A", "colour": "#000000", "base": 0, "client": "a"}
    assert client.post("teach", json=said, headers={"origin": "http://slides.example"}).status_code == 403
    assert client.post("teach", content=b"{").status_code == 400
    monkeypatch.setattr(app, "MOST_SENT", 10)
    assert client.post("teach", json=said).status_code == 413
