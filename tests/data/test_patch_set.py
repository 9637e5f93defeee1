"""A patch set gives back what was written, one patch at a time, and refuses what is not one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from celldetr.config import AugmentConfig, DataSource, Recipe
from celldetr.data import patch_writer, shards
from celldetr.data.autocard import find_card, read_own
from celldetr.data.dataset import TrainingSet, collate
from celldetr.data.patch_set import PatchSet
from celldetr.data.sample import LazySamples, areas, cell_counts, join
from celldetr.data.sources import load_samples, load_source
from celldetr.errors import InputError
from celldetr.recipes import load_recipe
from celldetr.recipes.own_data import patch_sources
from celldetr.training.card import provenance
from celldetr.training.data import load_data
from helpers.cli import call
from helpers.patches import random_patch, write_set

CONFIG = AugmentConfig(crop=24)


def make(folder: Path, slides: int = 3, patches: int = 7, **options: Any) -> PatchSet:
    kinds = len(options.get("types", ()))
    rows = {f"s{s}": [random_patch(f"s{s}", i, types=kinds) for i in range(patches)] for s in range(slides)}
    write_set(folder, rows, **options)
    return PatchSet(folder)


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    per_shard=st.integers(1, 70),
    group=st.integers(1, 4),
)
def test_round_trip(counts: list[int], per_shard: int, group: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("set")
    rows = {f"s{s}": [random_patch(f"s{s}", i, types=2) for i in range(count)] for s, count in enumerate(counts)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_writer, "GROUP", group)
        info = write_set(folder, rows, types=("a", "b"), per_shard=per_shard)
        written = [row for each in rows.values() for row in each]
        back = PatchSet(folder)
        assert len(back) == len(written) == info.patches
        assert len(list(folder.glob("*.arrow"))) == -(-len(written) // per_shard)
        for i in np.random.default_rng(0).permutation(len(written)).tolist():
            sample, row = back[i], written[i]
            assert np.array_equal(sample.image, row.image)
            assert np.array_equal(sample.boxes, row.boxes)
            assert sample.types.tolist() == row.types.tolist()
            assert np.array_equal(back.nuclei(i)[1], row.scores)
            assert sample.group == row.slide
            assert sample.name == f"{row.slide} [x={row.x:.0f},y={row.y:.0f}]"


def test_other_programs_read_a_shard(tmp_path: Path) -> None:
    make(tmp_path)
    table = pa.ipc.open_file(tmp_path / "patches-00000.arrow").read_all()
    assert table.num_rows == 5
    assert table["slide"].to_pylist() == ["s0"] * 5
    assert table["boxes"][1].as_py() == pytest.approx(random_patch("s0", 1).boxes.reshape(-1).tolist())


def test_jpeg_is_near_the_picture_and_all_of_its_colours(tmp_path: Path) -> None:
    ys, xs = np.mgrid[:32, :32]
    image = np.stack([xs * 8, ys * 8, 255 - xs * 8], axis=-1).astype(np.uint8)
    one = random_patch("s", 0)
    write_set(tmp_path, {"s": [shards.Patch("s", 0, 0, 0.5, image, one.boxes, one.scores, one.types)]}, encoding="jpeg")
    difference = np.abs(PatchSet(tmp_path)[0].image.astype(int) - image)
    assert difference.mean() < 2  # with colour at half resolution it is 3 and more


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches = make(tmp_path)
    decoded: list[int] = []
    real = shards.Shards.patch
    monkeypatch.setattr(shards.Shards, "patch", lambda self, row: decoded.append(row) or real(self, row))
    data = TrainingSet(patches, CONFIG, seed=0, length=50)
    assert decoded == []
    before = pa.total_allocated_bytes()
    for index in range(50):
        data[index]
    assert len(decoded) == 50
    assert pa.total_allocated_bytes() - before < 1000  # rows are pieces of the mapped file
    decoded.clear()
    assert len(patches[2:5]) == 3
    assert len(decoded) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_training_sees_what_it_sees_of_a_list(tmp_path: Path, workers: int) -> None:
    patches = make(tmp_path)
    patches[0]  # open files before the fork
    listed = list(patches)
    one, other = (
        list(
            DataLoader(
                TrainingSet(samples, CONFIG, seed=3, length=12),
                batch_size=4,
                collate_fn=collate,
                num_workers=number,
                multiprocessing_context="fork" if number else None,
            )
        )
        for samples, number in ((patches, workers), (listed, 0))
    )
    for ours, theirs in zip(one, other, strict=True):
        assert torch.equal(ours.images, theirs.images)
        for a, b in zip(ours.targets, theirs.targets, strict=True):
            assert torch.equal(a.boxes, b.boxes)
            assert torch.equal(a.types, b.types)


def test_crops_around_cells_are_those_of_a_list(tmp_path: Path) -> None:
    patches = make(tmp_path, types=("a", "b"))
    assert cell_counts(patches).tolist() == cell_counts(list(patches)).tolist()
    assert cell_counts(patches).all(axis=1).any()  # of both types and unknown
    one, other = (TrainingSet(each, CONFIG, 1, 8, around_cells=True) for each in (patches, list(patches)))
    assert all(torch.equal(one[i].image, other[i].image) for i in range(8))


def test_sequences_joined_are_one(tmp_path: Path) -> None:
    patches = make(tmp_path)
    listed = [patches[i] for i in (3, 1)]
    both = join([listed, patches, listed[:1]])
    assert isinstance(both, LazySamples)
    expected = [*listed, *patches, listed[0]]
    assert [sample.name for sample in both] == [sample.name for sample in expected]
    assert both[-1].name == expected[-1].name
    assert areas(both).tolist() == areas(expected).tolist()
    assert cell_counts(both).tolist() == cell_counts(expected).tolist()
    assert join([listed, listed]) == listed * 2
    with pytest.raises(IndexError):
        both[len(expected)]


def test_splits_are_disjoint_by_slide(tmp_path: Path) -> None:
    make(tmp_path, slides=8, patches=3)
    train, val = ({s.group for s in PatchSet(tmp_path, split)} for split in ("train", "val"))
    assert len(val) == 2
    assert train | val == {f"s{s}" for s in range(8)}
    assert not train & val
    names = [[s.name for s in PatchSet(tmp_path, split)] for split in ("train", "val", "all")]
    assert sorted(names[0] + names[1]) == sorted(names[2])


def test_one_slide_is_split_by_patch(tmp_path: Path) -> None:
    make(tmp_path, slides=1, patches=8)
    train, val = ({s.name for s in PatchSet(tmp_path, split)} for split in ("train", "val"))
    assert (len(train), len(val), len(train & val)) == (6, 2, 0)


def test_pickled_it_opens_its_files_anew(tmp_path: Path) -> None:
    patches = make(tmp_path)
    expected = patches[4].image
    assert np.array_equal(pickle.loads(pickle.dumps(patches))[4].image, expected)


def test_a_recipe_names_it(tmp_path: Path) -> None:
    make(tmp_path)
    source = DataSource(card=str(tmp_path), split="all")
    same = load_source(source, ("x",), 0.5)
    assert isinstance(same, LazySamples)
    assert same.counts.tolist() == [[0, len(sample)] for sample in PatchSet(tmp_path)]
    assert same[3].image.shape == (32, 32, 3)
    assert set(same[3].types.tolist()) <= {-1}
    finer = load_source(source, ("x",), 0.25)
    assert finer[3].image.shape == (64, 64, 3)
    assert finer[3].boxes == pytest.approx(same[3].boxes * 2)
    assert areas(finer).tolist() == [64.0**2] * 21
    assert len(load_samples(find_card(tmp_path), "val")) == 7
    with pytest.raises(InputError, match="the model has no type 'z'"):
        load_source(DataSource(card=str(tmp_path), split="all", types={"nucleus": "z"}), ("x",), 0.5)
    with pytest.raises(InputError, match=r"mpp=0\.25, but this patch set is at 0\.5"):
        find_card(tmp_path, 0.25)
    with pytest.raises(InputError, match="name it in a recipe"):
        read_own(tmp_path)


def recipe(folder: Path, **training: Any) -> Recipe:
    held_out = [] if training else [{"card": str(folder), "split": "val"}]
    train = [{"card": str(folder), "split": "train" if held_out else "all"}]
    return Recipe.model_validate(
        {"name": "r", "model": {"types": ["x"]}, "train": train, "validation": held_out, "training": training}
    )


def test_a_run_loads_it_lazily_and_keeps_its_licence(tmp_path: Path) -> None:
    make(tmp_path)
    data = load_data(recipe(tmp_path))
    assert isinstance(data.samples, LazySamples)
    assert (len(data.samples), len(data.held_out), data.counts) == (14, 7, [0])
    assert data.weights == [1.0] * 14
    assert provenance(recipe(tmp_path))[0]["licence"] == "unknown"
    with pytest.raises(InputError, match="name its splits"):
        load_data(recipe(tmp_path, hold_out=0.2))


def change(folder: Path, **values: Any) -> None:
    path = folder / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a patch set"):
        PatchSet(tmp_path)
    make(tmp_path)
    with pytest.raises(InputError, match="did you mean 'train'"):
        PatchSet(tmp_path, "trian")
    for values, message in (
        ({"status": "incomplete"}, "is not finished"),
        ({"version": 2}, "version: "),
        ({"format": "other"}, "not of a patch set"),
        ({"px": 10**9}, "px"),
    ):
        original = (tmp_path / "set.json").read_text()
        change(tmp_path, **values)
        with pytest.raises(InputError, match=message):
            PatchSet(tmp_path)
        (tmp_path / "set.json").write_text(original)
    shard = tmp_path / "patches-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"patches-00001\.arrow: has .* bytes, set\.json says"):
        PatchSet(tmp_path)
    shard.unlink()
    with pytest.raises(InputError, match="is missing"):
        PatchSet(tmp_path)


def test_a_file_that_is_no_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"a\.arrow: cannot be read .*; copy or make the patch set again"):
        shards.Shards([tmp_path / "a.arrow"], 0)
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), pa.schema([("slide", pa.string())])):
        pass
    with pytest.raises(InputError, match=r"b\.arrow: no shard of a patch set, it has no column 'x'"):
        shards.Shards([tmp_path / "b.arrow"], 0)


def test_shards_of_version_0_1_are_read(tmp_path: Path) -> None:
    """Sets without soft types had no columns for them."""
    make(tmp_path)
    for path in tmp_path.glob("*.arrow"):
        table = pa.ipc.open_file(path).read_all().drop_columns(["confidence", "spots", "compositions"])
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        change(
            tmp_path,
            shards=[
                each | {"bytes": (tmp_path / each["file"]).stat().st_size}
                for each in json.loads((tmp_path / "set.json").read_text())["shards"]
            ],
        )
    sample = PatchSet(tmp_path)[4]
    assert np.array_equal(sample.boxes, random_patch("s0", 4).boxes)
    assert (sample.confidence, sample.spots) == (None, None)


@pytest.mark.parametrize("types", [(), ("a", "b")])
def test_pretraining_takes_a_set_by_its_folder(types: tuple[str, ...], tmp_path: Path) -> None:
    make(tmp_path / "set", slides=4, types=types)
    recipe = load_recipe("pretrain-small", ["training.objective=contrastive"], patch_sources(tmp_path / "set"))
    assert recipe.model.types == (types or ("lymphocyte", "epithelial", "stromal"))
    found = load_data(recipe)
    assert (len(found.samples), len(found.held_out)) == (21, 7)
    assert sum(found.counts) == (0 if not types else sum((s.types >= 0).sum() for s in found.samples))
    with pytest.raises(InputError, match="no patch set; make one with celldetr data sample"):
        patch_sources(tmp_path)


@pytest.mark.slow
def test_pretraining_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celldetr.training.pretraining.VIEWS", 4)
    make(tmp_path / "set", slides=4)
    small = ["model.pretrained=none", "model.d_model=32", "model.encoder_layers=1", "model.detection_layers=1"]
    short = [
        "training.steps=1",
        "training.batch_size=1",
        "training.workers=0",
        "training.contrastive.border=0",
        "augment.crop=32",
        "model.num_queries=9",
    ]
    out = tmp_path / "run"
    told = ("--data", tmp_path / "set", "-o", out, "--device", "cpu")
    assert call("pretrain", "pretrain-small", *small, *short, *told) == 0
    said = yaml.safe_load((out / "recipe.yaml").read_text())
    assert [(each["card"], each["split"]) for each in said["train"]] == [(str(tmp_path / "set"), "train")]
    assert said["training"]["objective"] == "contrastive"
    # It is what a recipe with types starts from.
    typed = load_recipe("finetune-all", [f"init={out}", "model.types=[a, b]"])
    assert (typed.model.d_model, typed.model.content, typed.model.types) == (32, "features", ("a", "b"))
