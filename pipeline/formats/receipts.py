"""A receipt: what an auditor says of the stretches that a beacon chose and that they replayed.

It is the predicate of an in-toto statement. What of it follows from the release and the beacon is written again, and
compared, by `pipeline.signing.receipts`.
"""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from pipeline.formats.checkpoints import Numerics
from pipeline.formats.sampling import BEACON
from pipeline.formats.typed import Count, Declared, Sha256, TensorsDigest, Typed

PREDICATE = "urn:everystep:receipt:1"
BAD = (1, 5)
"""Numbers of bad stretches for which a receipt gives the chance that one would have been caught."""
MAX_TEXT = 400
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


def is_step_of(step: int, start: int, stop: int) -> bool:
    """Whether `step` may be the first one of a stretch that differs. The state at step 0 is not believed, but computed
    from the recipe, so it may differ as well."""
    return start < step <= stop or step == start == 0


class Beacon(Typed):
    """The public number that chose."""

    value: Annotated[str, Field(pattern=BEACON)]
    """16 to 64 bytes in hex, lower case."""
    source: Text | None
    """What it is, and where it was published; the auditor's word."""


class Chance(Typed):
    """How probable it was to catch bad stretches."""

    bad: Count
    """Number of bad stretches among all."""
    caught: Annotated[float, Field(gt=0, le=1)]
    """Probability that at least one of them was chosen."""


class Verdict(Typed):
    """A stretch, and what came out of it."""

    model: str
    """Name of the model."""
    start: Count
    """Step that it begins at."""
    stop: Count
    """Step that it ends at."""
    start_state: TensorsDigest
    """State digest that the release gives for `start`."""
    stop_state: TensorsDigest
    """State digest that the release gives for `stop`."""
    digests: Count
    """Digests of all weights in the log that were compared, besides those of the state at its end."""
    verdict: Literal["same", "differs"]
    """Whether every step came out as the release says."""
    first_difference: Count | None
    """The first step that did not, which may be 0 in the first stretch; null if all did."""
    detail: Text | None
    """What differed there; null if nothing did."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        first = self.first_difference
        if (self.verdict == "same") != (first is None) or (first is None) != (self.detail is None):
            raise ValueError("a stretch that differs names the step and what differs there, and no other does")
        if first is not None and not is_step_of(first, self.start, self.stop):
            raise ValueError(f"first_difference {first} is not a step of {self.start} to {self.stop}")
        return self


class Program(Typed):
    """What replayed."""

    version: Text
    """Version of Everystep."""
    code: Sha256
    """Digest of the files that the release's stage `train` loads, as they were in the auditor's installation."""


class Receipt(Typed):
    """The predicate of the statement."""

    beacon: Beacon
    """The public number that chose."""
    models: Annotated[list[str], Field(min_length=1)]
    """Models whose stretches it chose from, sorted."""
    stretches: Count
    """How many stretches these have."""
    sample: Count
    """How many were chosen."""
    chances: list[Chance]
    """How probable it was to catch 1 and 5 bad ones, where there are as many."""
    verdicts: Annotated[list[Verdict], Field(min_length=1)]
    """The chosen ones, by model and step."""
    program: Program
    """What replayed them; the auditor's word."""
    numerics: dict[str, Numerics]
    """Settings and libraries that decided the bits, by model; the auditor's word."""
    processor: Text
    """Maker, family and model of the processor; the auditor's word."""


class Subject(Declared):
    """What a receipt is about."""

    name: str
    """Path in the release."""
    digest: dict[str, str]
    """Its digests."""


class Statement(Typed):
    """The statement, before it was compared with a release."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    """Version of in-toto's form."""
    subject: Annotated[list[Subject], Field(min_length=1)]
    """The root manifest first, then the weights at the end of each stretch."""
    predicate_type: Literal["urn:everystep:receipt:1"] = Field(alias="predicateType")
    """Version of the receipt."""
    predicate: Receipt
    """The receipt."""


class Finding(NamedTuple):
    """What an auditor found in a stretch: the first step that did not come out the same and what differs there, or
    nothing."""

    first_difference: int | None
    detail: str | None


class Words(NamedTuple):
    """What only the auditor knows."""

    source: str | None
    program: Program
    findings: list[Finding]
    """Of each stretch that the beacon chose, in their order."""
    numerics: dict[str, Numerics]
    processor: str
