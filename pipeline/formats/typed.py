"""Typed JSON: one model for each manifest, record and line, read strictly and written back as it was.

Laws: `T.from_json(x.to_json()) == x`, and what was read and is written again has the same bytes. A key that a model
declares with a default may be missing in the file; then it is missing again in what is written.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import Json, parse

SHOWN = 100
"""Characters of a wrong value that an error shows."""
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
TensorsDigest = Annotated[str, Field(pattern=r"\Atensors-v1:[0-9a-f]{64}\z")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Counts = dict[str, Count]


class Typed(BaseModel):
    """Base of what is read from JSON of a known form: frozen, no unknown keys, no coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    @classmethod
    def from_json(cls, tree: Json, where: object) -> Self:
        """The model of `tree`; each key that is missing, unknown or wrong is a line `where: key: what is wrong`."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            faults = [f"{where}: {_told(fault)}" for fault in error.errors()]
            raise EverystepError("\n".join(faults)) from error

    @classmethod
    def parse(cls, content: bytes, where: object) -> Self:
        """The model of the JSON in `content`, which was read from the file or line `where`."""
        return cls.from_json(parse(content, str(where)), where)

    def to_json(self) -> dict[str, Json]:
        """The tree that `from_json` reads."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Declared(Typed):
    """What somebody declared in `params.yaml` or a recipe, of which only some keys are asked for here.

    The other keys are those of `docs/reference`; they are kept as they are.
    """

    model_config = ConfigDict(extra="allow")


def _told(fault: ErrorDetails) -> str:
    key = ".".join(map(str, fault["loc"])) or "the whole"
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    got: Any = fault["input"]
    return f"{key}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, got {got!r:.{SHOWN}}"
