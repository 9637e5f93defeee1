"""Settings of all steps of ``celldetr spatial`` in one place, e.g. ``qc.min_counts``."""

from __future__ import annotations

from celldetr.config import Config
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
