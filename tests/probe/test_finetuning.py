"""``celldetr probe --finetune``: networks that learn on, and the types their own heads give to true boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from celldetr.api import load_model
from celldetr.data.card import load_card
from celldetr.data.sources import load_samples, rescale
from celldetr.model.at_boxes import embed_boxes
from celldetr.probe.finetuning import types_at_boxes
from celldetr.probe.truth import truth_of
from celldetr.recipes import FOLDER
from helpers.cli import call
from helpers.probe_cells import write_data_set


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """finetune-all with a step or two."""
    values = yaml.safe_load((FOLDER / "finetune-all.yaml").read_text())
    values["augment"]["crop"] = 64
    values["training"] |= {"steps": 1, "batch_size": 1, "validate_every": 1, "warmup": 0, "workers": 0}
    values["model"] = {"pretrained": "none"}
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_head_says_the_types_of_true_boxes(tmp_path: Path) -> None:
    card = load_card(str(write_data_set(tmp_path / "data")))
    test = truth_of(load_samples(card, "test"))
    model = load_model("small-20x", "cpu", precision="32")
    network = model.network
    expected = []
    for sample in test.samples:
        image = rescale(sample, network.config.mpp)
        with torch.inference_mode():
            logits = network.type_head(torch.from_numpy(embed_boxes(model, image.image, image.boxes)))
        expected.append(logits.argmax(1).numpy())
    found = types_at_boxes(Path("small-20x"), "cpu", test)
    assert found.tolist() == np.concatenate(expected).tolist()
    assert len(np.unique(found)) > 1


@pytest.mark.slow
def test_networks_learn_on_and_what_is_done_is_kept(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celldetr.training.loop.draw_curves", lambda folder: None)
    monkeypatch.setattr("celldetr.probe.report.save_figure", lambda figure, path: path.touch())
    card, out = write_data_set(tmp_path / "data", images=6), tmp_path / "out"
    command = ("probe", "small-20x", card, "-o", out, "--seeds", 1, "--device", "cpu", "-q", "--against", "handmade")
    for wrong, complaint in [
        (("--finetune", "finetune-everything"), "finetune-everything"),
        (("--finetune", recipe, "--train-images", 1), "leave out --train-images"),
        (("--finetune", "pretrain-small"), "teaches no types"),
    ]:
        assert call(*command, *wrong) == 2
        assert complaint in capsys.readouterr().err
        assert not out.exists()
    assert call(*command, "--finetune", recipe) == 0
    model, handmade = json.loads((out / "report.json").read_text())["rows"]
    assert set(model["finetuned"]["macro_f1"]) == {"0.1", "1.0"}
    assert 0 <= model["finetuned"]["macro_f1"]["1.0"]["value"] <= 1
    assert handmade["finetuned"]["macro_f1"] == {}
    assert "| fine-tuned, 100 % | fine-tuned, 10 % |" in (out / "report.md").read_text()
    run = out / "finetuned" / "small-20x-10-0"
    said = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (said["init"], said["train"][0]["label_share"], said["validation"]) == ("small-20x", 0.1, [])
    counts = json.loads((run / "counts.json").read_text())
    assert np.sum(counts["counts"]) == 54

    stamp = (run / "counts.json").stat().st_mtime_ns
    assert call(*command, "--finetune", recipe, "--against", "random", "--resume") == 0
    assert (run / "counts.json").stat().st_mtime_ns == stamp
    again = json.loads((out / "report.json").read_text())["rows"]
    assert again[0]["finetuned"] == model["finetuned"]
    assert set(again[2]["first_row_minus_this"]["finetuned"]) == {"0.1", "1.0"}
    untrained = yaml.safe_load((out / "finetuned" / "random-100-0" / "recipe.yaml").read_text())
    assert (untrained["init"], untrained["model"]["pretrained"]) == ("", "none")
    # Without being asked it is neither done nor told.
    assert call(*command, "--resume") == 0
    assert "fine-tuned" not in (out / "report.md").read_text()

    # Weights that changed are fine-tuned anew.
    record = json.loads((out / "probe.json").read_text())
    record["steps"]["finetuned/small-20x-10-0"]["fingerprint"] = "of the model of yesterday"
    (out / "probe.json").write_text(json.dumps(record))
    assert call(*command, "--finetune", recipe, "--resume") == 0
    assert (run / "counts.json").stat().st_mtime_ns > stamp
    (out / "finetuned" / "notes.txt").write_text("mine")
    assert call(*command, "--overwrite") == 0
    assert [path.name for path in (out / "finetuned").iterdir()] == ["notes.txt"]
