"""Where slides are predicted, and in what pieces."""

from __future__ import annotations

from pydantic import Field

from celldetr.config import Config, Count


class CohortOptions(Config):
    """How slides are shared out among processes and machines."""

    cluster: str | None = Field(
        None,
        title="local|ADDRESS|FILE",
        description="Share the work out: local (a process per GPU), tcp://HOST:PORT of a scheduler, or a YAML file "
        "(Slurm, PBS, LSF); default: this process.",
    )
    # Some seconds of work: far more than handing it out costs, little to lose with a worker.
    task_tiles: Count = Field(128, description="Least tiles of a task on a cluster.")
