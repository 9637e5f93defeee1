"""What a fresh clone relies on: the lock, the Makefile's promises, the sample slide, and what goes into the wheel."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from celldetr.demo_slide import sample_slide

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = (
    {"sys_platform": "linux", "platform_machine": "x86_64"},
    {"sys_platform": "darwin", "platform_machine": "arm64"},
)


def lock() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines]


def declared() -> list[Requirement]:
    """All that pyproject.toml asks for, to run, to test and to build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"], *(r for e in extras for r in e)]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "celldetr"]


# What only older Pythons get, because newer ones have it themselves: dask's importlib-metadata and what that needs.
BACKPORTS = {"importlib-metadata", "lazy-importer", "zipp"}


def pinned(**environment: str) -> dict[str, str]:
    """Name -> version that the lock installs in an environment."""
    here = {name: str(value) for name, value in default_environment().items()} | environment
    found: dict[str, str] = {}
    for requirement in lock():
        if requirement.marker is None or requirement.marker.evaluate(here):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            assert canonicalize_name(requirement.name) not in found, f"{requirement.name} is pinned twice"
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def test_lock_names_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|@|--|#|\.whl|\+", text)  # addresses, options, comments, files, local versions
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line) for line in text.splitlines())


@pytest.mark.parametrize("python", SUPPORTED)
@pytest.mark.parametrize("system", SYSTEMS, ids=["linux", "macos"])
def test_lock_covers_what_is_declared(python: str, system: dict[str, str]) -> None:
    pins = pinned(python_version=python, python_full_version=f"{python}.1", **system)
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in requirements.lock: run make lock"
        assert requirement.specifier.contains(pins[name]), f"{requirement} but the lock has {pins[name]}: run make lock"


def test_lock_is_the_same_for_every_python() -> None:
    # The versions that are tested are those that everybody gets.
    of_each = [pinned(python_version=python, python_full_version=f"{python}.1") for python in SUPPORTED]
    everything = {name: found for pins in of_each for name, found in pins.items()}
    assert all(everything[name] == found for pins in of_each for name, found in pins.items())
    of_some = {name for name in everything if any(name not in pins for pins in of_each)}
    assert of_some <= BACKPORTS


# Of PyTorch's build with CUDA, which .ci/install.sh takes only where there is a card, or no other build.
OF_CUDA = ("nvidia-", "cuda-", "triton")


def test_what_is_installed_is_what_is_locked() -> None:
    if not (ROOT / ".venv").is_dir() or Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("the tests run in an environment that make did not create")
    different, without_cuda = {}, version("torch").endswith("+cpu")
    for name, expected in pinned().items():
        if without_cuda and name.startswith(OF_CUDA):
            continue
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "nothing"
        if found.partition("+")[0] != expected:
            different[name] = f"locked {expected}, installed {found}"
    assert different == {}


def test_sample_slide_is_the_one_of_its_card() -> None:
    card = (ROOT / "src" / "celldetr" / "assets" / "README.md").read_text(encoding="utf-8")
    digest = hashlib.sha256(sample_slide().read_bytes()).hexdigest()
    assert f"`{digest}`" in card
    assert "CC0" in card


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("celldetr-*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_wheel_has_every_file_of_the_package(wheel: set[str]) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git clone: nothing says which files belong to the package")
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = {line.removeprefix("src/") for line in listed.splitlines() if (ROOT / line).is_file()}
    assert len(expected) > 10
    assert expected - wheel == set()


@pytest.mark.slow
def test_wheel_has_what_is_not_python(wheel: set[str]) -> None:
    assert "celldetr/assets/CMU-1-Small-Region.svs" in wheel
    assert "celldetr/py.typed" in wheel
    assert any(name.startswith("celldetr/data/cards/") and name.endswith(".yaml") for name in wheel)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


@pytest.mark.slow
def test_wheel_has_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"celldetr"}
    assert not [name for name in wheel if "__pycache__" in name or name.endswith((".nbi", ".nbc", ".pyc"))]


def test_make_does_nothing_twice(tmp_path: Path) -> None:
    """The stamp of an installation holds until the lock or the package's metadata changes."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()

    def plan(target: str) -> str:
        return subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert ".ci/install.sh dev" in plan("test")
    assert ".ci/install.sh\n" in plan("demo")  # the demo needs no test tools
    (tmp_path / ".venv" / ".installed-dev").touch()
    assert ".ci/install.sh" not in plan("test")
    assert ".ci/install.sh" not in plan("lint")
    later = (tmp_path / ".venv" / ".installed-dev").stat().st_mtime + 10
    lock_file = tmp_path / "requirements.lock"
    lock_file.touch()
    os.utime(lock_file, (later, later))
    assert ".ci/install.sh dev" in plan("test")


@pytest.mark.parametrize("script", [".ci/run", ".ci/install.sh", ".ci/wheel.sh"])
def test_scripts_can_be_run(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    interpreter = "bash" if "bash" in path.read_text(encoding="utf-8").splitlines()[0] else "sh"
    assert subprocess.run([interpreter, "-n", str(path)], check=False).returncode == 0


def test_installing_without_a_python_says_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci" / "install.sh", tmp_path / ".ci" / "install.sh")
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "python-that-is-not-there"}
    done = subprocess.run(
        [tmp_path / ".ci" / "install.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "python-that-is-not-there" in done.stderr
    assert not (tmp_path / ".venv").exists()


# Stands in for uv, and notes what it is asked.
UV = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in *{refused}*) exit 1;; esac
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only PyTorch's wheels for Linux bring CUDA")
@pytest.mark.parametrize("reachable", [True, False])
def test_without_a_card_the_cpu_build_is_taken_where_it_can_be_had(tmp_path: Path, reachable: bool) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci" / "install.sh", tmp_path / ".ci" / "install.sh")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    log, uv = tmp_path / "log", tmp_path / "uv"
    uv.write_text(UV.format(log=log, refused="nothing" if reachable else "--torch-backend"))
    uv.chmod(0o755)

    def installed(**environment: str) -> str:
        """The last command of uv."""
        log.unlink(missing_ok=True)
        given = {"PATH": "/usr/bin:/bin", "UV": str(uv)} | environment
        subprocess.run([tmp_path / ".ci" / "install.sh", "view"], env=given, capture_output=True, check=True)
        return log.read_text().splitlines()[-1]

    if shutil.which("nvidia-smi", path="/usr/bin:/bin") is None:
        assert ("--torch-backend cpu" in installed()) is reachable
    assert "--torch-backend" not in installed(UV_TORCH_BACKEND="auto")  # uv reads it itself
    assert installed().endswith("--editable .[view]")
