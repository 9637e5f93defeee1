"""Settings of all steps in one place, as ``celldetr spatial --set`` gives them: ``qc.min_counts=5``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from celldetr.config import Config, override, parse
from celldetr.io.safe_io import read_yaml
from celldetr.spatial.align import AlignOptions
from celldetr.spatial.annotate.cells import TypeOptions
from celldetr.spatial.pair import PairOptions
from celldetr.spatial.patch_layout import WriteOptions
from celldetr.spatial.qc import QualityOptions
from celldetr.spatial.readers.common import ReadOptions


class SpatialOptions(Config):
    """Settings of the steps beside their inputs."""

    read: ReadOptions = ReadOptions()
    qc: QualityOptions = QualityOptions()
    type: TypeOptions = TypeOptions()
    align: AlignOptions = AlignOptions()
    pair: PairOptions = PairOptions()
    write: WriteOptions = WriteOptions()


def spatial_options(assignments: Sequence[str] = (), file: Path | None = None) -> SpatialOptions:
    """Settings from a YAML file, and assignments (``step.key=value``) that win over it.

    Raises:
        InputError: an unknown step or key (near ones are named), or a value out of range.
    """
    values = read_yaml(file) if file is not None else {}
    origin = str(file) if file is not None and not assignments else "--set"
    return parse(SpatialOptions, override(values, list(assignments)), origin)
