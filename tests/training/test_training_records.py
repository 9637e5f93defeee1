"""What a run keeps: its state, its log, its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from celldetr.config import Recipe
from celldetr.errors import InputError
from celldetr.training.folder import check_folder, open_folder
from celldetr.training.logs import RunLog, draw_curves, read_log
from celldetr.training.state import STATE_FILE, load_state, save_state

Parts = tuple[nn.Module, nn.Module, torch.optim.Optimizer]


def parts(seed: int, width: int = 4, steps: int = 2) -> Parts:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(steps):
        network(torch.randn(2, 3, 5, 5)).square().mean().backward()
        optimizer.step()
    return network, nn.Linear(2, 2), optimizer


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved, fresh = parts(0), parts(1, steps=0)
    save_state(tmp_path, *saved, {"step": 7, "best": 0.25})
    assert load_state(tmp_path, *fresh) == {"step": 7, "best": 0.25}
    for old, new in zip(saved[:2], fresh[:2], strict=True):
        for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    for a, b in zip(saved[2].state.values(), fresh[2].state.values(), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name])
            assert a[name].stride() == b[name].stride()  # else sums are taken in another order
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_an_interrupted_save_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = parts(0), parts(1)
    save_state(tmp_path, *old, {"step": 1})
    monkeypatch.setattr("celldetr.training.state.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_state(tmp_path, *new, {"step": 2})
    assert load_state(tmp_path, *new) == {"step": 1}


@pytest.mark.parametrize("keep", [0, 5, 400])
def test_a_cut_state_is_refused(tmp_path: Path, keep: int) -> None:
    save_state(tmp_path, *parts(0), {"step": 1})
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a training state"):
        load_state(tmp_path, *parts(0))


def test_another_file_or_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / STATE_FILE)
    with pytest.raises(InputError, match="not a training state"):
        load_state(tmp_path, *parts(0))
    save_state(tmp_path, *parts(0), {"step": 1})
    with pytest.raises(InputError, match="another network"):
        load_state(tmp_path, *parts(0, width=5))


def test_log_keeps_rows_before_the_step_resumed_from(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    for step in range(6):
        log.write("train", step, {"loss": 1.0 / (step + 1), "bad": float("nan"), "none": None})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # cut short
    assert len(read_log(tmp_path)) == 6
    RunLog(tmp_path, 4).close()
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[1] == {"kind": "train", "step": 1, "loss": 0.5, "bad": None, "none": None}
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4
    assert list((tmp_path / "tensorboard").iterdir())


def test_curves_are_drawn_when_there_is_something_to_draw(tmp_path: Path) -> None:
    assert draw_curves(tmp_path) is None
    rows = [{"kind": "train", "step": s, "loss": 2.0 / (s + 1), "layer0/l1": 0.5, "layer0/giou": None} for s in (0, 1)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = draw_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    without = Image.open(path).convert("L").histogram()
    validation = {"kind": "validation", "step": 1, "f1_detection": 0.5, "f1_round": None, "threshold": 0.3}
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps(validation) + "\n")
    draw_curves(tmp_path)
    assert Image.open(path).convert("L").histogram() != without
    assert not list(tmp_path.glob(".*"))


def prepare(folder: Path, recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> None:
    check_folder(folder, recipe, resume=resume, overwrite=overwrite)
    with open_folder(Fabric(accelerator="cpu"), folder, recipe, resume=resume, overwrite=overwrite):
        pass


def test_a_new_folder_gets_the_recipe(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    folder = tmp_path / "a" / "run"
    prepare(folder, tiny_recipe())
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml", "run.json"]
    assert json.loads((folder / "run.json").read_text())["status"] == "incomplete"


def test_resuming_names_the_setting_that_changed(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    prepare(tmp_path / "run", tiny_recipe())
    prepare(tmp_path / "run", tiny_recipe(), resume=True)
    with pytest.raises(InputError, match=r"differs \(recipe\.training\.lr: 0\.0004, now 0\.001\)"):
        prepare(tmp_path / "run", tiny_recipe(lr=1e-3), resume=True)


def test_overwriting_removes_what_the_run_left_and_nothing_else(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    folder = tmp_path / "run"
    prepare(folder, tiny_recipe())
    (folder / "model").mkdir()
    (folder / "tensorboard").mkdir()
    for name in (STATE_FILE, "log.jsonl", "curves.png", "notes.txt", "model/card.json", "tensorboard/events.out.1"):
        (folder / name).write_text("old")
    prepare(folder, tiny_recipe(lr=1e-3), overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "recipe.yaml", "run.json"]
    assert "lr: 0.001" in (folder / "recipe.yaml").read_text()


def test_the_model_to_start_from_is_not_overwritten(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    folder = tmp_path / "run"
    prepare(folder, tiny_recipe())
    (folder / "model").mkdir()
    (folder / "model" / "card.json").write_text("{}")
    with pytest.raises(InputError, match="holds the model to start from"):
        prepare(folder, tiny_recipe().model_copy(update={"init": str(folder)}), overwrite=True)


def test_a_folder_of_0_1_is_neither_resumed_nor_overwritten(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    (tmp_path / "recipe.yaml").write_text("name: of 0.1.0\n")
    for modes in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(
            InputError, match=r"holds other files than those of the training run .*; name another folder"
        ):
            prepare(tmp_path, tiny_recipe(), **modes)
