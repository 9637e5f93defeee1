"""Both losses of pretraining from both starts (losses.yaml), then probes of the frozen embeddings of all of them.

    CELLDETR_DATA=<folder of the data sets> python benchmarks/pretraining/losses.py --jobs 2

Twelve trainings of some 35 to 50 minutes of one core each, in runs/pretraining/losses, and the two probes of
docs/reports/pretraining.md, in runs/probe. What is finished is kept: the same command goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from celldetr.research.ablation.study import load_study

HERE = Path(__file__).parent
STUDY = HERE / "losses.yaml"
PATCHES, PROBES = Path("runs/pretraining"), Path("runs/probe")
TYPES = {"consep": ("inflammatory", "epithelial", "spindle"), "brca-m2c": ()}  # that are looked at; none: all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    options = parser.parse_args()
    if not (PATCHES / "brca" / "set.json").is_file():
        do(sys.executable, str(HERE / "sets.py"), str(PATCHES))
    do("celldetr", "ablate", str(STUDY), "-o", str(PATCHES), "--jobs", str(options.jobs))
    study = load_study(STUDY)
    first, *others = [str(PATCHES / study.name / name / "seed$seed" / "model") for name in study.variants]
    rows = [f"--against={row}" for row in (*others, "imagenet", "random")]
    for dataset, types in TYPES.items():
        chosen = [f"--type={name}" for name in types]
        do("celldetr", "probe", first, dataset, *chosen, *rows, "-o", str(PROBES / f"losses-{dataset}"), "--resume")


def do(*command: str) -> None:
    """Run a command, and end with it where it fails."""
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
