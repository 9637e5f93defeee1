"""Checkpoints: what is saved comes back, and whatever was done to the files in between is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from celldetr.config import ModelConfig
from celldetr.errors import InputError
from celldetr.model import checkpoint as module
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    Card,
    load_checkpoint,
    read_card,
    save_checkpoint,
)

CONFIG = ModelConfig.model_validate(
    {
        "types": ["a", "b"],
        "backbone": "test_efficientnet",
        "d_model": 32,
        "heads": 4,
        "points": 1,
        "ffn": 32,
        "encoder_layers": 1,
        "detection_layers": 1,
        "representation_layers": 1,
    }
)


@pytest.fixture(scope="module")
def network() -> CellDETR:
    torch.manual_seed(0)
    return CellDETR(CONFIG)


def a_card(**changes: object) -> Card:
    facts = {
        "name": "toy",
        "config": CONFIG,
        "threshold": 0.3,
        "training_data": [{"name": "discs", "licence": "CC0-1.0"}],
        "metrics": {"validation": {"f1_detection": 0.5, "f1_dead": None}},
        "licence": "Apache-2.0",
    }
    return Card.model_validate(facts | changes)


@pytest.fixture
def folder(tmp_path: Path, network: CellDETR) -> Path:
    save_checkpoint(tmp_path / "toy", network, a_card())
    return tmp_path / "toy"


def rewrite_card(folder: Path, **changes: object) -> None:
    """Change a card as somebody would who knows how its hash is made."""
    values = json.loads((folder / CARD_FILE).read_text()) | changes
    values["card_sha256"] = module._card_digest(values)
    (folder / CARD_FILE).write_text(json.dumps(values))


def test_round_trip(folder: Path, network: CellDETR) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.card.model_dump(exclude={"sha256", "card_sha256", "created"}) == a_card().model_dump(
        exclude={"sha256", "card_sha256", "created"}
    )
    own, new = network.state_dict(), loaded.network.state_dict()
    assert own.keys() == new.keys()
    assert all(torch.equal(own[name], new[name]) and own[name].dtype == new[name].dtype for name in own)
    assert not loaded.network.training
    assert sorted(path.name for path in folder.parent.iterdir()) == ["toy"]
    assert sorted(path.name for path in folder.iterdir()) == [CARD_FILE, WEIGHTS_FILE]


def test_float16_halves_the_file_and_loads_as_float32(tmp_path: Path, folder: Path, network: CellDETR) -> None:
    save_checkpoint(tmp_path / "half", network, a_card(), dtype=torch.float16)
    full, half = ((place / WEIGHTS_FILE).stat().st_size for place in (folder, tmp_path / "half"))
    assert half < 0.6 * full
    loaded = load_checkpoint(tmp_path / "half").network.state_dict()
    for name, value in network.state_dict().items():
        assert loaded[name].dtype == value.dtype
        torch.testing.assert_close(loaded[name], value.to(torch.float16).to(value.dtype), rtol=0, atol=0)


def test_weights_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    network = CellDETR(CONFIG)
    with torch.no_grad():
        network.type_head.bias[0] = 70000.0
    with pytest.raises(ValueError, match=r"type_head\.bias.*reaches 7e\+04, too large for torch\.float16"):
        save_checkpoint(tmp_path / "half", network, a_card(), dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_initial_weights_are_never_looked_for(tmp_path: Path, network: CellDETR) -> None:
    hub = CONFIG.model_copy(update={"pretrained": "hub"})
    card = save_checkpoint(tmp_path / "toy", network, a_card(config=hub))
    assert card.config.pretrained == "none"
    assert load_checkpoint(tmp_path / "toy").network.config.pretrained == "none"


@pytest.mark.parametrize("field", ["name", "threshold", "config", "licence", "sha256"])
def test_a_changed_card_is_refused(folder: Path, field: str) -> None:
    values = json.loads((folder / CARD_FILE).read_text())
    old = values[field]
    values[field] = {str: f"{old}x", float: 0.9, dict: {"other": 1}}[type(old)]
    (folder / CARD_FILE).write_text(json.dumps(values))
    with pytest.raises(InputError, match="was changed"):
        load_checkpoint(folder)


def test_a_missing_or_an_added_field_is_refused(folder: Path) -> None:
    values = json.loads((folder / CARD_FILE).read_text())
    for changed in (values | {"extra": 1}, {key: values[key] for key in values if key != "licence"}):
        (folder / CARD_FILE).write_text(json.dumps(changed))
        with pytest.raises(InputError, match="was changed"):
            read_card(folder)


def test_layout_of_the_json_does_not_matter(folder: Path) -> None:
    values = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(dict(reversed(values.items()))))
    assert read_card(folder).name == "toy"


@pytest.mark.parametrize("place", [100, -1])
def test_one_changed_byte_of_the_weights_is_noticed(folder: Path, place: int) -> None:
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[place] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(InputError, match="SHA-256"):
        load_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 1000, -8])
def test_cut_weights_are_noticed(folder: Path, keep: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="truncated"):
        load_checkpoint(folder)


def test_weights_of_another_model_are_noticed(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "other", CellDETR(CONFIG), a_card())
    (folder / WEIGHTS_FILE).write_bytes((tmp_path / "other" / WEIGHTS_FILE).read_bytes())
    with pytest.raises(InputError, match="another checkpoint"):
        load_checkpoint(folder)


def test_a_card_of_another_config_is_noticed(folder: Path) -> None:
    other = CONFIG.model_copy(update={"mpp": 0.25}).model_dump(mode="json")
    rewrite_card(folder, config=other)
    with pytest.raises(InputError, match="another config"):
        load_checkpoint(folder)


def test_weights_that_do_not_fit_are_noticed(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["type_head.bias"]
    save_file(tensors, path, metadata=metadata)
    rewrite_card(folder, sha256=module._digest(path))
    with pytest.raises(InputError, match=r"type_head\.bias"):
        load_checkpoint(folder)


def test_another_kind_of_file_is_noticed(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(b"no safetensors at all")
    rewrite_card(folder, sha256=module._digest(path))
    with pytest.raises(InputError, match="not a safetensors file"):
        load_checkpoint(folder)


def test_a_config_without_a_newer_setting_still_loads(folder: Path) -> None:
    """A later version adds a setting with a default: checkpoints from before do not have it, in card or weights."""
    path = folder / WEIGHTS_FILE
    config = CONFIG.model_dump(mode="json")
    del config["margin"]
    save_file(load_file(path), path, metadata={"config": json.dumps(config)})
    rewrite_card(folder, config=config, sha256=module._digest(path))
    assert load_checkpoint(folder).card.config == CONFIG


def test_what_a_card_of_0_1_0_does_not_say_is_as_in_0_1_0(tmp_path: Path) -> None:
    """Weights fit both ways, so that a wrong default would load in silence: the embeddings tell."""
    old = CONFIG.model_copy(update=module.SETTINGS_OF_0_1)
    network = CellDETR(old).eval()
    folder = tmp_path / "old"
    save_checkpoint(folder, network, Card(name="old", config=old, threshold=0.5))
    config = {k: v for k, v in old.model_dump(mode="json").items() if k not in module.SETTINGS_OF_0_1}
    path = folder / WEIGHTS_FILE
    save_file(load_file(path), path, metadata={"config": json.dumps(config)})
    rewrite_card(folder, config=config, sha256=module._digest(path))
    read = load_checkpoint(folder)
    assert read.card.config == old
    images, boxes = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), torch.tensor([[[0.9, 0.5, 0.1, 0.1]]])
    with torch.no_grad():
        before, after = (each.represent(each.memorise(images), boxes).embeddings for each in (network, read.network))
    assert torch.equal(before, after)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(InputError, match=WEIGHTS_FILE):
        load_checkpoint(folder)
    with pytest.raises(InputError, match=f"nowhere.*{CARD_FILE}"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[1]", "not the card"),
        (b'{"format": 99}', "format 99"),
    ],
)
def test_other_cards_are_refused(folder: Path, content: bytes, complaint: str) -> None:
    (folder / CARD_FILE).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_saving_again_replaces_the_whole_checkpoint(folder: Path) -> None:
    (folder / "left over").write_text("")
    before = read_card(folder).sha256
    torch.manual_seed(1)
    written = save_checkpoint(folder, CellDETR(CONFIG), a_card(name="second"))
    assert load_checkpoint(folder).card == written
    assert written.sha256 != before
    assert sorted(path.name for path in folder.iterdir()) == [CARD_FILE, WEIGHTS_FILE]
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


@pytest.mark.parametrize("when", ["weights", "card", "rename"])
def test_a_save_that_fails_leaves_the_old_checkpoint(
    when: str, folder: Path, network: CellDETR, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    original = Path.rename

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if target == folder and self.suffix != ".old":
            fail()
        return original(self, target)

    if when == "weights":
        monkeypatch.setattr(module, "save_file", fail)
    elif when == "card":
        monkeypatch.setattr(module, "_card_digest", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(folder, network, a_card(name="second"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]
