"""Strict YAML 1.2, and the one way of turning it into a checked model.

PyYAML and DVC's ruamel disagree on `3e-4` and `010`; this loader is YAML 1.2 on both sides. Duplicate keys,
keys that are not text, aliases, NaN and infinities are refused. An error names file, key and fix.
"""

import math
from collections.abc import Iterable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event

from pipeline.base.errors import EverystepError

MAX_DEPTH = 50
MAX_BYTES = 1 << 20  # takes up to 40 seconds to parse


class Section(BaseModel):
    """Base of everything that is read from `params.yaml` or a recipe: frozen, no unknown keys, no coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file, as plain dicts, lists and scalars."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise EverystepError(f"{path}: {size} bytes; at most {MAX_BYTES} are allowed")
        return deepcopy(_parsed(path.read_text("utf-8"), path))
    except FileNotFoundError as error:
        raise EverystepError(f"{path}: no such file") from error
    except OSError as error:
        raise EverystepError(f"{path}: cannot be read: {error.strerror}") from error
    except (YAMLError, ValueError, TypeError) as error:
        raise EverystepError(f"{path}: not valid YAML 1.2: {error}") from error


@lru_cache(maxsize=4)  # a stage asks for its sections one by one, and parsing takes 25 ms
def _parsed(text: str, path: Path) -> dict[str, Any]:
    loader = YAML(typ="safe", pure=True)
    loader.allow_duplicate_keys = False
    _refuse_tricks(loader.parse(text), path)
    tree = loader.load(text)
    if not isinstance(tree, dict):
        raise EverystepError(f"{path}: expected a mapping at the top, got {type(tree).__name__}")
    _refuse_what_json_lacks(tree, str(path), "")
    return tree


def check(model: type[Model], tree: Any, where: str) -> Model:
    """Validate `tree` as `model`; each fault becomes a line `where: key: what is wrong`."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [f"{where}: {_location(fault['loc'])}{_explain(dict(fault))}" for fault in error.errors()]
        raise EverystepError("\n".join(lines)) from error


def _location(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) + ": " if loc else ""


def _explain(fault: dict[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if fault["type"] == "missing":
        return "missing; add it"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"{fault['msg'][:1].lower()}{fault['msg'][1:]}, got {fault['input']!r}"


def _refuse_tricks(events: Iterable[Event], path: Path) -> None:
    """Refuse aliases, which can make a short file endless, and deep nesting, of which parsing time is the square."""
    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise EverystepError(f"{path}: aliases are not supported; write out the value in place of *{event.anchor}")
        if depth > MAX_DEPTH:
            raise EverystepError(f"{path}: nested more than {MAX_DEPTH} levels deep; flatten it")


def _refuse_what_json_lacks(value: Any, where: str, key: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise EverystepError(f"{where}: {key}: {value} is not a number that JSON can hold")
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        if isinstance(value, dict) and not isinstance(name, str):
            raise EverystepError(f"{where}: {key}: the key {name!r} is not text; put it in quotes")
        _refuse_what_json_lacks(child, where, f"{key}.{name}".lstrip("."))
