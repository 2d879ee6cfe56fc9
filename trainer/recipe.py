"""A recipe: one complete file that says how one model is trained. No inheritance, no defaults.

Everything in it is identity: it enters the fingerprint and the manifest of the run. Where that runs, on how many
processes and how fast is execution, and appears nowhere in it.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.base.errors import EverystepError
from pipeline.base.files import PLAIN_NAME, plain_name
from pipeline.base.paths import PARAMS, RECIPES
from pipeline.base.yaml import Section, check, load_yaml
from pipeline.formats.bounds import MAX_CONTEXT, MAX_GLOBAL_BATCH, MAX_STEPS
from pipeline.formats.checkpoints import schedule
from pipeline.formats.families import build_spec
from pipeline.formats.model import ModelSpec
from pipeline.formats.order import first_sample

Positive = Annotated[int, Field(gt=0)]
Steps = Annotated[int, Field(gt=0, le=MAX_STEPS)]
Batch = Annotated[int, Field(gt=0, le=MAX_GLOBAL_BATCH)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]


class DataSection(Section):
    """Rows in `folder`, `width` ids each, and the order in which they are read (`trainer.data`).

    A step reads `global_batch` rows in micro-batches of fixed size. `seed` decides the order; for our own rows it must
    be that of the published order.
    """

    layout: Literal["everystep", "llm360", "mobilellm"]
    folder: str
    width: Annotated[int, Field(ge=2, le=MAX_CONTEXT + 1)]
    seed: Seed
    global_batch: Batch
    micro_batch: Batch

    @field_validator("folder")
    @classmethod
    def _stays_inside(cls, folder: str) -> str:
        path = PurePosixPath(folder)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{folder!r} is not a folder inside the project; name one such as data/tokens")
        return folder

    @model_validator(mode="after")
    def _cuts_into_micro_batches(self) -> "DataSection":
        if self.global_batch % self.micro_batch:
            raise ValueError(f"global_batch {self.global_batch} is not a multiple of micro_batch {self.micro_batch}")
        return self

    @property
    def num_micro_batches(self) -> int:
        return self.global_batch // self.micro_batch

    @property
    def num_leaves(self) -> int:
        """Leaves of the tree in which gradients are summed: the largest power of two that divides the number of
        micro-batches. Each leaf is the same number of micro-batches, summed one after another."""
        return self.num_micro_batches & -self.num_micro_batches


class OptimizerSection(Section):
    """AdamW (Loshchilov and Hutter 2019). `decay`: weight decay acts on `matrices` and embeddings, or on `all`, norms
    and biases too."""

    beta1: Annotated[float, Field(gt=0, lt=1)]
    beta2: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    decay: Literal["matrices", "all"]
    clip_norm: Annotated[float, Field(gt=0)]


class ScheduleSection(Section):
    """Learning rate of every update: linear warm-up from `start` to `peak`, then a decay to `floor` x peak.

    `cosine`: half a cosine over `decay_steps`, from the end of the warm-up down to the floor.
    `cosine-clipped`: half a cosine down to zero, cut off at the floor (GPT-NeoX 1.0; with 10 % it is 9 % lower midway).
    `wsd`: the peak until the last `decay_steps` updates, then a line (warm-up, stable, decay; Hu et al. 2024, eq. 1).

    `peak_batch`: the peak is given for this many rows a step, and is scaled in proportion to `global_batch`
    (MobileLLM). Null: the peak is used as given.
    """

    shape: Literal["cosine", "cosine-clipped", "wsd"]
    start: Annotated[float, Field(ge=0)]
    peak: Annotated[float, Field(gt=0)]
    peak_batch: Positive | None
    floor: Annotated[float, Field(ge=0, le=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    decay_steps: Positive
    steps: Steps

    @model_validator(mode="after")
    def _parts_fit(self) -> "ScheduleSection":
        warmup, decay, steps = self.warmup_steps, self.decay_steps, self.steps
        if warmup >= steps:
            raise ValueError(f"warmup_steps {warmup} must be < steps {steps}")
        if self.shape == "cosine-clipped":
            if decay > steps:
                raise ValueError(
                    f"decay_steps {decay} is more than steps {steps}; the decay of a cosine-clipped schedule is "
                    "counted over all steps, so it must be <= steps"
                )
        elif warmup + decay > steps:
            raise ValueError(
                f"warmup_steps {warmup} + decay_steps {decay} = {warmup + decay}, more than steps {steps}: the rate "
                f"would never reach its floor; decay_steps can be at most {steps - warmup}"
            )
        if warmup and self.start > self.peak:
            raise ValueError(f"start {self.start} is above peak {self.peak}; a warm-up rises from start to peak")
        return self


class ParentSection(Section):
    """The state of another release that the training goes on from: `everystep fork` writes it.

    The digest is that of weights, moments and step, so it pins them. Steps and tokens are counted on from there. The
    order of rows goes on with `first_sample`: the one that would have come next, or 0, the first.
    """

    state_digest: Annotated[str, Field(pattern=r"\Atensors-v1:[0-9a-f]{64}\z")]
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    tokens: Annotated[int, Field(ge=0, lt=2**53)]
    first_sample: Annotated[int, Field(ge=0, lt=2**53)]


class LossSection(Section):
    """Cross entropy plus `z_loss` times the mean square of log Z (0: none)."""

    z_loss: Annotated[float, Field(ge=0)]


class Recipe(Section):
    """A whole recipe. Its `model` section is read by the families. One whose training begins with new weights has no
    section `parent`."""

    name: Annotated[str, Field(pattern=f"^{PLAIN_NAME}$")]
    seed: Seed
    numerics: Literal["portable", "native"]
    precision: Literal["float32", "bfloat16"]
    compiled: bool
    data: DataSection
    loss: LossSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    checkpoints: str
    digest_every: Positive
    model: dict[str, Any]
    parent: ParentSection | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> "Recipe":
        try:
            schedule(self.checkpoints, self.schedule.steps)
        except EverystepError as error:
            raise ValueError(str(error)) from error
        steps = self.schedule.steps
        rule, _, number = self.checkpoints.partition(" ")
        if rule == "every" and int(number) > steps:
            raise ValueError(
                f"checkpoints: {self.checkpoints!r} is more than schedule.steps {steps}: no step before the last would "
                f"be published; write `every {steps}` or a smaller number"
            )
        if self.digest_every > steps:
            raise ValueError(
                f"digest_every: {self.digest_every} is more than schedule.steps {steps}: the weights of no step would "
                f"be digested; write {steps} or a smaller number"
            )
        if self.parent and self.parent.step >= steps:
            raise ValueError(
                f"schedule.steps: {steps} are done at step {self.parent.step} of the parent; steps are counted on from "
                "there, so write more"
            )
        if self.parent and self.data.layout != "everystep" and self.parent.first_sample % self.data.global_batch:
            raise ValueError(
                f"parent.first_sample: {self.parent.first_sample} is not a multiple of data.global_batch "
                f"{self.data.global_batch}, and rows in the layout {self.data.layout} are read step by step; write 0"
            )
        if self.numerics == "portable" and (self.compiled or self.precision != "float32"):
            raise ValueError("numerics: portable is uncompiled float32; set compiled: false and precision: float32")
        return self

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps of the published states; the one that the training began with belongs to its parent."""
        steps = schedule(self.checkpoints, self.schedule.steps)
        return [step for step in steps if step > self.parent.step] if self.parent else steps

    @property
    def begun_at(self) -> int:
        """Step of the state that the training begins with."""
        return self.parent.step if self.parent else 0

    def sample(self, step: int) -> int:
        """Number the first sample that the step from state `step` to the next reads."""
        begun_with = self.parent.first_sample if self.parent else 0
        return first_sample(step, self.data.global_batch, self.begun_at, begun_with)

    def tokens(self, step: int) -> int:
        """Targets trained on until `step`: global batch x context for each step, and those of the parent."""
        before = self.parent.tokens if self.parent else 0
        return before + (step - self.begun_at) * self.data.global_batch * (self.data.width - 1)

    def to_json(self) -> dict[str, Any]:
        """Return the tree of the file."""
        return self.model_dump(exclude_unset=True)


def load_recipe(name: str, root: Path = Path()) -> tuple[Recipe, ModelSpec]:
    """Load `recipes/NAME.yaml` in `root`, and the model that it describes."""
    path = root / RECIPES / f"{plain_name(name, 'a model')}.yaml"
    recipe = check(Recipe, load_yaml(path), str(path))
    if recipe.name != name:
        raise EverystepError(f"{path}: name: the file is called {name}, the recipe {recipe.name!r}; make them equal")
    spec = build_spec(recipe.model, str(path))
    if recipe.data.width != spec.context + 1:
        raise EverystepError(
            f"{path}: data.width: {recipe.data.width} must be model.context + 1 = {spec.context + 1}: "
            "a row is an input and its last target"
        )
    return recipe, spec


def suite_of(name: str, root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Load, as plain YAML, the recipes that params.yaml lists with `name`, or only its own if it is not listed."""
    params = load_yaml(root / PARAMS) if (root / PARAMS).is_file() else {}
    models = params.get("models", [])
    paths = {
        model: root / RECIPES / f"{plain_name(model, f'{PARAMS}: models')}.yaml"
        for model in (models if name in models else [name])
    }
    return {model: load_yaml(path) for model, path in paths.items() if path.is_file()}
