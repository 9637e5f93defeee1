"""Options made from configs, parameters in messages, and progress without a terminal."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

import celldetr
from celldetr.cli.command import Command
from celldetr.cli.from_config import Fields, describe, with_settings
from celldetr.cli.messages import note, options_of_command, with_options
from celldetr.cli.options import split_commas
from celldetr.cli.progress import Progress
from celldetr.config import Config, InferenceOptions, SimilarOptions
from celldetr.errors import InputError


class Inner(Config):
    rate: float = Field(0.5, gt=0, description="A rate.")


class Reading(Config):
    """A config with a field of each kind."""

    tile: int | None = Field(None, ge=32, description="Side of a tile.")
    tissue: bool = Field(True, description="Only tissue.")
    mode: Literal["a", "b"] = Field("a", description="A mode.")
    box: tuple[float, float] | None = Field(None, title="X Y", description="A box.")
    names: tuple[str, ...] = Field((), description="Names.")
    mapping: dict[str, str] | None = Field(None, title="THEIRS=OURS", description="Pairs.")
    inner: Inner = Inner()


class Running(Config):
    threads: int = Field(1, ge=1, description="Threads.")


app = typer.Typer(rich_markup_mode=None)
result: list[Any] = []


@app.command(cls=Command)
@with_settings
def read(
    *,
    out: Annotated[Path, typer.Option("--out", "-o")],
    reading: Annotated[
        Reading, Fields("tile", "tissue=--tissue/--all-tiles", "mode", "box", "names=--name", "mapping=--map")
    ],
    running: Annotated[Running, Fields("threads")],
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
) -> None:
    """Read."""
    if out.exists() and not overwrite:
        raise InputError(
            f"{out}: exists; set `overwrite=True` or another `out`, `threads=2`, `inner.rate=1`, `other=3`"
        )
    result[:] = [reading, running]


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.stderr


def test_options_become_a_config(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("-o", out) == (0, "")
    assert result == [Reading(), Running()]
    assert run(
        "-o", out, "--tile", 64, "--all-tiles", "--mode", "b", "--box", 1, 2.5, "--name", "x", "--name", "y"
    ) == (0, "")
    assert result[0] == Reading(tile=64, tissue=False, mode="b", box=(1, 2.5), names=("x", "y"))
    assert run("-o", out, "--map", "t cell=immune,b cell=immune", "--map", "x=") == (0, "")
    assert result[0].mapping == {"t cell": "immune", "b cell": "immune", "x": ""}
    (tmp_path / "map.yaml").write_text("t: immune\nother:\n")
    assert run("-o", out, "--map", tmp_path / "map.yaml") == (0, "")
    assert result[0].mapping == {"t": "immune", "other": ""}


def test_an_option_wins_over_set_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("tile: 100\nmode: b\nthreads: 3\ninner: {rate: 2}\n")
    assert run("-o", tmp_path / "out", "--config", file, "--set", "threads=4", "--set", "tile=200", "--tile", 300) == (
        0,
        "",
    )
    assert result == [Reading(tile=300, mode="b", inner=Inner(rate=2)), Running(threads=4)]
    assert run("-o", tmp_path / "out", "--set", "inner.rate=1", "--set", "names=[a, b]") == (0, "")
    assert result[0] == Reading(inner=Inner(rate=1), names=("a", "b"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tile", 3), "error: --tile: Input should be greater than or equal to 32, got 3"),
        (("--mode", "c"), "error: --mode: Input should be 'a' or 'b', got 'c'"),
        (("--map", "x"), "error: 'x': expected --map THEIRS=OURS, or a YAML file of such pairs"),
        (("--set", "tile=3"), "error: --set: tile: Input should be greater than or equal to 32, got 3"),
        (("--set", "tiel=64"), "error: --set: unknown key 'tiel'; did you mean 'tile' or 'tissue'?"),
        (("--set", "inner.rat=64"), "error: --set: unknown key 'inner.rat'; did you mean 'rate'?"),
        (("--set", "tile"), "error: 'tile': expected key=value, e.g. training.steps=2000"),
        (("--config", "none.yaml"), "error: none.yaml: no such file"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, arguments: tuple[object, ...], says: str) -> None:
    assert run("-o", tmp_path / "out", *arguments) == (2, f"{says}\n")


def test_help_has_default_and_bounds() -> None:
    text = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "--tile INT Side of a tile. [32 or more]" in text
    assert "--tissue / --all-tiles Only tissue. [default: --tissue]" in text
    assert "--mode a|b A mode. [default: a]" in text
    assert "--box X Y A box. " in text
    assert describe(Inner.model_fields["rate"]) == ("NUMBER", "A rate.  [default: 0.5; above 0]")


def test_parameters_in_messages_become_options(tmp_path: Path) -> None:
    code, said = run("-o", tmp_path)
    assert code == 2
    assert said.endswith("exists; set --overwrite or another --out, --threads 2, --set inner.rate=1, `other=3`\n")
    assert with_options("set `overwrite=True`") == "set `overwrite=True`"  # in Python
    with options_of_command({"tissue": ("--tissue", "--all-tiles")}):
        assert with_options("`tissue=False`, `tissue=True` or `tissue`") == "--all-tiles, --tissue or --tissue"
    with options_of_command({name: (f"--set {name}",) for name in ("read.swap_xy", "read.mpp", "write.mpp")}):
        said = with_options("`swap_xy=False`, `swap_xy`, `mpp=1`")  # one of two parts: which is not known
    assert said == "--set read.swap_xy=False, --set read.swap_xy, `mpp=1`"


def test_values_with_commas() -> None:
    assert split_commas(["csv,geojson", "anndata"]) == ["csv", "geojson", "anndata"]
    assert split_commas(None) == []


def test_defaults_of_python_are_those_of_the_configs() -> None:
    for function, config in ((celldetr.load_model, InferenceOptions), (celldetr.similar, SimilarOptions)):
        fields = config.model_fields
        for name, parameter in inspect.signature(function).parameters.items():
            if name in fields:
                assert parameter.default == fields[name].default, name


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("evaluate", seconds=0.05) as progress:
        time.sleep(0.12)
        count = progress.counter("cells", "images")
        count(10, 40)
        time.sleep(0.12)
        count(20, 40, "row a")
        time.sleep(0.12)
        progress.say("half")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "evaluate: 0:00:00 elapsed"
    assert lines[2] == "cells: 25%, 10 of 40 images, 0:00:00 elapsed"
    assert "cells: 50%, row a: 20 of 40 images, 0:00:00 elapsed, 0:00:00 left" in lines
    assert lines[-1] == "half"
    with Progress("evaluate", quiet=True, seconds=0.01) as progress:
        progress.show("cells", 1, 2)
        time.sleep(0.05)
        progress.say("half")
        progress.say("wrong", warning=True)
    assert capsys.readouterr().err == "wrong\n"


def test_notes_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    note("look")
    assert capsys.readouterr() == ("", "note: look\n")
