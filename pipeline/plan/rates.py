"""Rates that a plan reckons with: measured ones of the data stages, published ones of GPUs, each with its source."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import Section, check, load_yaml
from pipeline.plan.sizes import Number

RATES = Path(__file__).with_name("rates.yaml")
BENCHMARKS = "docs/benchmarks.md"
DAY, HOUR = 86400, 3600
STAGES = {"extract", "filter", "dedup", "tokenize", "search", "digest", "check", "train"}
"""What a plan needs a rate of."""


class Rate(Section):
    """How much of what a stage reads it passes in some CPU seconds: of a quoted row of `docs/benchmarks.md`, or one."""

    amount: Number
    unit: str
    row: str | None = None
    cell: int | None = None
    """Column of the row that has the seconds; without one, the amount is of one second."""
    processors: int = 1
    """How many worked for that long."""
    source: Annotated[str | None, Field(alias="from")] = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if not (self.row or self.source):
            raise ValueError("says not where it is from; give row or from")
        return self

    @property
    def per_second(self) -> float:
        """Amount in one CPU second."""
        seconds = float(self.row.split("|")[self.cell]) if self.row and self.cell else 1.0
        return self.amount / (seconds * self.processors)

    @property
    def origin(self) -> str:
        """Where it is from, for a table."""
        return BENCHMARKS if self.row else str(self.source)


class IndexSize(Section):
    """Bytes of the search index for each token."""

    value: Number
    row: str


class Gpu(Section):
    """A kind of GPU, and the published training whose share of its peak is taken for models that nobody published."""

    name: str
    peak: Number
    source: Annotated[str, Field(alias="from")]
    share_of: str


class Published(Section):
    """A training whose cost was published."""

    applied: int
    """Parameters that a token passes through."""
    source: Annotated[str, Field(alias="from")]
    gpus: int | None = None
    days: Number | None = None
    tokens: Number | None = None
    gpu_hours: Number | None = None
    tokens_per_second: Number | None = None

    @property
    def gpu_seconds_per_token(self) -> float:
        if self.gpu_hours and self.tokens:
            return self.gpu_hours * HOUR / self.tokens
        if self.gpus and self.days and self.tokens:
            return self.gpus * self.days * DAY / self.tokens
        if self.gpus and self.tokens_per_second:
            return self.gpus / self.tokens_per_second
        raise EverystepError("published: give (gpus, days, tokens), (gpu_hours, tokens) or (gpus, tokens_per_second)")

    def gpu_days(self, tokens: float) -> float:
        """What this many tokens cost at that speed."""
        return self.gpu_seconds_per_token * tokens / DAY


class Rates(Section):
    """The whole file."""

    stages: dict[str, Rate]
    index_bytes_per_token: IndexSize
    gpu: Gpu
    published: dict[str, Published]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if missing := sorted(STAGES - self.stages.keys()):
            raise ValueError(f"stages: no rate of {', '.join(missing)}")
        if self.gpu.share_of not in self.published:
            raise ValueError(f"gpu.share_of: {self.gpu.share_of!r} is not in published")
        for name, rate in self.stages.items():
            try:
                _ = rate.per_second
            except (IndexError, ValueError, ZeroDivisionError) as error:
                raise ValueError(f"stages.{name}: no seconds in cell {rate.cell} of its row") from error
        return self

    @property
    def share(self) -> float:
        """Share of a GPU's peak that the chosen published training comes to, by 6 N D."""
        run = self.published[self.gpu.share_of]
        return 6 * run.applied / (run.gpu_seconds_per_token * self.gpu.peak)

    def gpu_days(self, applied: int, tokens: float) -> tuple[float, str]:
        """GPU days of a training, and where they are from: a published run of the same size, or 6 N D at that share."""
        for run in self.published.values():
            if run.applied == applied:
                return run.gpu_days(tokens), run.source
        return self.gpu_days_by_share(applied, tokens), (
            f"6 N D at {self.share:.3f} of the peak of an {self.gpu.name}, as {self.gpu.share_of} was trained "
            f"({self.published[self.gpu.share_of].source}; {self.gpu.source})"
        )

    def gpu_days_by_share(self, applied: int, tokens: float) -> float:
        return 6 * applied * tokens / (self.share * self.gpu.peak * DAY)


def load_rates(path: Path = RATES, replaced: list[str] | None = None) -> Rates:
    """Read the rates of a file, with those replaced that are given as STAGE=AMOUNT, an amount a CPU second."""
    tree = load_yaml(path)
    for given in replaced or []:
        stage, _, amount = given.partition("=")
        if stage not in tree.get("stages", {}):
            raise EverystepError(f"--rate {given}: no rate of {stage!r}; there are {', '.join(tree.get('stages', {}))}")
        try:
            number = float(amount)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            unit = tree["stages"][stage]["unit"]
            raise EverystepError(f"--rate {given}: write {stage}=NUMBER, {unit} in a CPU second")
        tree["stages"][stage] = {"amount": number, "unit": tree["stages"][stage]["unit"], "from": "--rate"}
    return check(Rates, tree, str(path))
