"""Familiarity against SciPy's Mahalanobis distance and the definition of a percentile, and through a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.distance import mahalanobis
from scipy.stats import kstest

from celldetr.config import ModelConfig
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import WEIGHTS_FILE, Card, load_checkpoint, save_checkpoint, save_familiarity
from celldetr.model.familiarity import FEWEST, FOLDS, STEPS, Familiarity
from celldetr.model.inference import TilePredictor

DIM = 32
CONFIG = {
    "types": ["a", "b"], "backbone": "test_efficientnet", "d_model": DIM, "heads": 4, "points": 1, "ffn": 32,
    "encoder_layers": 1, "detection_layers": 1, "representation_layers": 1,
}  # fmt: skip


def embeddings(seed: int, count: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, DIM)))[0]
    return rng.normal(size=(count, DIM)) * np.linspace(0.5, 2, DIM) @ turn + 3


@pytest.fixture(scope="module")
def familiarity() -> Familiarity:
    found = Familiarity.of_training(embeddings(0), np.arange(6000) // 100)
    assert found is not None
    return found


def test_the_distance_is_mahalanobis(familiarity: Familiarity) -> None:
    training, others = embeddings(0), embeddings(1, 20)
    inverse = np.linalg.inv(np.cov(training.T))
    expected = [mahalanobis(each, training.mean(0), inverse) for each in others]
    own = np.linalg.norm((others - familiarity.mean) @ familiarity.whitening, axis=1)
    np.testing.assert_allclose(own, expected, rtol=0.01)  # half precision, and the least variance


def test_what_training_could_have_seen_is_uniform(familiarity: Familiarity) -> None:
    values = familiarity(embeddings(1))
    assert values.dtype == np.float32
    assert kstest(values, "uniform").statistic < 0.05
    assert familiarity(embeddings(1) + 50).max() < 0.01
    assert familiarity(familiarity.mean[None]).item() == 1


def test_a_network_remembers_so_groups_are_left_out() -> None:
    """Groups with an offset of their own: nuclei of a new group are as strange as the training says."""
    rng = np.random.default_rng(0)
    groups = np.arange(6000) // 100
    found = Familiarity.of_training(embeddings(0) + 0.5 * rng.normal(size=(60, DIM))[groups], groups)
    new = embeddings(1) + 0.5 * rng.normal(size=(60, DIM))[groups]
    assert found is not None
    assert 0.02 < (found(new) < 0.05).mean() < 0.1


def test_too_few_say_nothing() -> None:
    assert Familiarity.of_training(embeddings(0, FEWEST - 1), np.arange(FEWEST - 1)) is None
    assert Familiarity.of_training(embeddings(0), np.arange(6000) % (FOLDS - 1)) is None


def test_a_checkpoint_keeps_it(tmp_path: Path, familiarity: Familiarity) -> None:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(CONFIG)
    folder = tmp_path / "toy"
    card = save_checkpoint(folder, CellDETR(config), Card(name="toy", config=config, threshold=0.01), dtype=torch.half)
    before = load_file(folder / WEIGHTS_FILE)
    assert load_checkpoint(folder).familiarity is None
    for _ in range(2):  # a second time it is replaced
        save_familiarity(folder, familiarity)
    after, loaded = load_file(folder / WEIGHTS_FILE), load_checkpoint(folder)
    assert {name for name in after if name not in before} == set(familiarity.tensors())
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())
    hashes = {"sha256", "card_sha256"}
    assert loaded.card.model_dump(exclude=hashes) == card.model_dump(exclude=hashes)
    assert loaded.card.sha256 != card.sha256
    assert loaded.familiarity is not None
    np.testing.assert_array_equal(loaded.familiarity(embeddings(1, 50)), familiarity(embeddings(1, 50)))

    predictor = TilePredictor(loaded.network, threshold=0.0, familiarity=loaded.familiarity)
    cells = predictor.predict_tiles([np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)])[0]
    assert len(cells) > 0
    assert cells.familiarity is not None
    np.testing.assert_array_equal(cells.familiarity, familiarity(cells.embeddings))


@pytest.mark.parametrize(
    "wrong",
    [
        {"distances": np.zeros(STEPS, np.float32)},
        {"mean": np.zeros(DIM + 1, np.float32)},
    ],
)
def test_of_another_size_it_is_refused(
    tmp_path: Path, familiarity: Familiarity, wrong: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig.model_validate(CONFIG)
    save_checkpoint(tmp_path / "toy", CellDETR(config), Card(name="toy", config=config, threshold=0.3))
    broken = Familiarity(**{**vars(familiarity), **wrong})
    with pytest.raises(ValueError, match=r"familiarity\.\*"):
        save_familiarity(tmp_path / "toy", broken)
    with monkeypatch.context() as patch:  # as somebody would who makes such a file
        patch.setattr(Familiarity, "from_tensors", classmethod(lambda *_: None))
        save_familiarity(tmp_path / "toy", broken)
    with pytest.raises(InputError, match=r"familiarity\.\*"):
        load_checkpoint(tmp_path / "toy")
