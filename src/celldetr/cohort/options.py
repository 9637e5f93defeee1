"""Where slides are predicted, and in what pieces."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

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


class Adaptive(Config):
    """Jobs come and go with the work."""

    minimum: int = Field(0, description="Fewest jobs.")
    maximum: Count = Field(description="Most jobs.")


class ClusterSettings(Config):
    """A cluster, as a YAML file describes it."""

    kind: Literal["local", "slurm", "pbs", "lsf"] = Field(description="What runs the jobs.")
    jobs: Count | None = Field(None, description="How many; for local: worker processes.")
    adaptive: Adaptive | None = Field(
        None, title="{minimum: INT, maximum: INT}", description="Jobs that come and go with the work, instead of jobs."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        title="{NAME: VALUE}",
        description="Arguments of dask_jobqueue.SLURMCluster and the like; for local: threads (of a worker).",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "local":
            unknown = sorted(set(self.arguments) - {"threads"})
            if unknown or self.adaptive is not None:
                raise ValueError(f"kind local takes jobs and arguments.threads, not {', '.join(unknown) or 'adaptive'}")
        elif (self.jobs is None) == (self.adaptive is None):
            raise ValueError("says how many jobs by exactly one of jobs and adaptive")
        return self
