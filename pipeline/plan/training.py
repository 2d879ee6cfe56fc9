"""What a recipe asks for, as far as it costs something: `trainer.planned` takes it from the recipe."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes on one device of a training in this many processes, in parts."""

    what: str
    processes: int
    peak: int
    parts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training of one model."""

    name: str
    parameters: int
    applied: int
    """Parameters that a token passes through: a layer that is used twice counts twice."""
    context: int
    global_batch: int
    steps: int
    """Those that this project trains."""
    tokens: int
    stored: int
    """Checkpoints whose bytes are kept."""
    virtual: int
    """Other states with a digest, which come back by replay."""
    is_portable: bool
    memory: tuple[DeviceMemory, ...]
