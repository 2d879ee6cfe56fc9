"""The section `executor` of `params.yaml`: where the parts of a data stage run."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.base.params import Positive
from pipeline.base.yaml import Section

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,-]+$")]


class RayParams(Section):
    """Ray cluster to connect to (`RAY_ADDRESS` overrides `address`), and resources for each part."""

    address: str = "auto"
    cpus: Positive = 1
    memory_gb: Positive = 2


class SlurmParams(Section):
    """Slurm partition and time limit, and resources for each part. `memory_gb` is per processor, as Slurm counts."""

    partition: Word
    time: Annotated[str, Field(pattern=r"^([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}$")]
    cpus: Positive = 1
    memory_gb: Positive = 2
    qos: Word | None = None


class ExecutorParams(Section):
    """Executor of the parts of a data stage. `executor: ray` is short for `executor: {name: ray}`."""

    name: Literal["local", "ray", "slurm"] = "local"
    workers: Positive | None = None
    """Parts at a time. Default: one for each processor of this machine, or as many as the cluster takes."""
    ray: RayParams = RayParams()
    slurm: SlurmParams | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, tree: Any) -> Any:
        return {"name": tree} if isinstance(tree, str) else tree
