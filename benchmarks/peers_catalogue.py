"""The peers that ``peers.py`` measures, and how each comes into an environment of its own.

Only what PyPI has. LSP-DETR and DeNuC are not there (November 2026), hence left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """A row of the table.

    Attributes:
        title: its name, for people.
        gives: what a user gets of each nucleus.
        script: its worker.
        packages: what pip installs; none for the Python that runs this.
        environment: name of the environment, shared by peers of the same packages.
        variant: passed to the worker.
        answers: part of the tile's area that the output covers.
        weights: whether the package has some.
    """

    title: str
    gives: str
    script: str
    packages: tuple[str, ...] = ()
    environment: str = ""
    variant: str = ""
    answers: float = 1.0
    weights: bool = False


DETR = ("torch", "torchvision", "transformers", "timm")
BOXES, OUTLINES = "boxes, types", "outlines"
PEERS = {
    "celldetr": Peer(
        "CellDETR small-20x", "boxes, types, embeddings", "celldetr_small.py", variant="auto", weights=True
    ),
    "celldetr-float32": Peer(
        "CellDETR small-20x, float32", "boxes, types, embeddings", "celldetr_small.py", variant="32", weights=True
    ),
    "stardist": Peer("StarDist 2D H&E", OUTLINES, "stardist_he.py", ("stardist", "tensorflow-cpu"), "stardist"),
    # pandas and seaborn: imported by instanseg-torch 0.1.2, which does not ask for them
    "instanseg": Peer(
        "InstanSeg", OUTLINES, "instanseg_nuclei.py", ("instanseg-torch", "pandas", "seaborn"), "instanseg"
    ),
    "deformable-detr": Peer("Deformable DETR R50", BOXES, "deformable_detr.py", DETR, "transformers", "r50"),
    "cellnuc-detr": Peer(
        "CellNuc-DETR Swin-T, strides 8-32", BOXES, "deformable_detr.py", DETR, "transformers", "swin-8-32"
    ),
    "cellnuc-detr-4": Peer(
        "CellNuc-DETR Swin-T, strides 4-32", BOXES, "deformable_detr.py", DETR, "transformers", "swin-4-32"
    ),
    "cellvit": Peer("CellViT-256", "outlines, types, tokens", "cellvit_256.py", ("cellvit",), "cellvit"),
    "hovernet": Peer(
        "HoVer-Net fast",
        "outlines, types",
        "hovernet_fast.py",
        ("tiatoolbox",),
        "tiatoolbox",
        answers=(164 / 256) ** 2,
    ),
}


class PeerError(Exception):
    """A peer cannot be installed or run; one line."""


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def interpreter(peer: Peer, envs: Path) -> Path:
    """The Python of a peer's environment, made if it is not there.

    Raises:
        PeerError: a package cannot be installed.
    """
    if not peer.packages:
        return Path(sys.executable)
    home = envs / peer.environment
    python, stamp = home / "bin" / "python", home / "installed.txt"
    wanted = "\n".join(peer.packages)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv:
        commands = [[uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)]]
        commands += [[uv, "pip", "install", "--quiet", "--python", str(python), *peer.packages]]
    else:
        commands = [[sys.executable, "-m", "venv", "--clear", str(home)]]
        commands += [[str(python), "-m", "pip", "install", "--quiet", *peer.packages]]
    environment = {"UV_SYSTEM_CERTS": "1"} | os.environ  # as .ci/install.sh
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise PeerError(f"cannot be installed: {last_line(done.stderr)}")
    stamp.write_text(wanted)
    return python
