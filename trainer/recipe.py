"""A recipe: one complete file that says how one model is trained. No inheritance, no defaults elsewhere.

Everything in it is identity: it enters the fingerprint of the run and the manifest. Where it runs, on how
many processes and how fast is execution, and stands nowhere in it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.formats.checkpoints import schedule
from pipeline.formats.errors import EverystepError
from pipeline.formats.project import RECIPES
from pipeline.formats.yaml import Section, check, load_yaml
from trainer.description import ModelSpec
from trainer.families import build_spec

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]


class DataSection(Section):
    """Rows a step reads, in micro-batches of fixed size; `seed` must be that of the published order."""

    seed: Seed
    global_batch: Positive
    micro_batch: Positive

    @model_validator(mode="after")
    def _micro_batches_form_a_tree(self) -> "DataSection":
        micro_batches, rest = divmod(self.global_batch, self.micro_batch)
        if rest or micro_batches & (micro_batches - 1):
            raise ValueError(
                f"global_batch {self.global_batch} is not micro_batch {self.micro_batch} times a power of two; "
                "gradients are summed in a binary tree over the micro-batches"
            )
        return self

    @property
    def num_micro_batches(self) -> int:
        return self.global_batch // self.micro_batch


class OptimizerSection(Section):
    """AdamW (Loshchilov and Hutter 2019); weight decay on matrices and embeddings, not on norms."""

    beta1: Annotated[float, Field(gt=0, lt=1)]
    beta2: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]


class ScheduleSection(Section):
    """Linear warm-up from 0, then half a cosine down to `floor` times the peak."""

    shape: Literal["cosine"]
    peak: Annotated[float, Field(gt=0)]
    floor: Annotated[float, Field(ge=0, le=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    steps: Positive

    @model_validator(mode="after")
    def _warmup_ends_before_training(self) -> "ScheduleSection":
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be < steps {self.steps}")
        return self


class Recipe(Section):
    """The whole file but its `model` section, which the families read."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    seed: Seed
    numerics: Literal["portable", "native"]
    data: DataSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    checkpoints: str
    digest_every: Positive
    model: dict[str, Any]

    @field_validator("checkpoints")
    @classmethod
    def _is_a_schedule(cls, rule: str) -> str:
        try:
            schedule(rule, 1)
        except EverystepError as error:
            raise ValueError(str(error).removeprefix("checkpoints: ")) from error
        return rule

    @property
    def checkpoint_steps(self) -> list[int]:
        return schedule(self.checkpoints, self.schedule.steps)


def load_recipe(name: str, root: Path = Path()) -> tuple[Recipe, ModelSpec]:
    """The recipe `recipes/NAME.yaml` below `root` and the model that it describes."""
    path = root / RECIPES / f"{name}.yaml"
    recipe = check(Recipe, load_yaml(path), str(path))
    if recipe.name != name:
        raise EverystepError(f"{path}: name: the file is called {name}, the recipe {recipe.name!r}; make them equal")
    return recipe, build_spec(recipe.model, str(path))
