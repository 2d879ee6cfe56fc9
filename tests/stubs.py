"""Manifests for tests of one stage: what a test does not care about has the smallest value of its kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pipeline.formats.current import Basis, write_manifest
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Manifest
from pipeline.formats.typed import Typed

COMMON = {*Manifest.model_fields}
PATTERNS = {r"\A[0-9a-f]{64}\z": "0" * 64, r"\Atensors-v1:[0-9a-f]{64}\z": f"tensors-v1:{'0' * 64}"}


def write_stub(
    kind: type[Manifest],
    of: str | None = None,
    basis: Basis | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Sequence[Shard]] | None = None,
    digested: Mapping[str, str] | None = None,
    root: Path = Path(),
    **facts: Any,
) -> None:
    """Write a manifest of this kind with the facts that are given."""
    declared: Any = kind.model_fields["parameters"].annotation
    missing = {name: field for name, field in kind.model_fields.items() if name not in COMMON | facts.keys()}
    write_manifest(
        kind,
        of,
        basis or Basis({}, {}),
        parameters=least_of(declared) | dict(parameters or {}),
        outputs=outputs or {},
        digested=digested,
        root=root,
        **{name: least(field) for name, field in missing.items() if field.is_required()},
        **facts,
    )


def least_of(kind: type[Typed]) -> dict[str, Any]:
    """The smallest tree that `kind` reads."""
    fields = kind.model_fields.items()
    return {field.alias or name: least(field) for name, field in fields if field.is_required()}


def least(field: FieldInfo) -> Any:
    """The smallest value of a field."""
    bounds = {type(rule).__name__: rule for rule in field.metadata}
    pattern = next((rule.pattern for rule in field.metadata if hasattr(rule, "pattern")), None)
    if pattern is not None:
        return PATTERNS[pattern]
    value = _least(field.annotation)
    if isinstance(value, int | float) and "Ge" in bounds:
        return type(value)(bounds["Ge"].ge)
    if isinstance(value, float) and "Gt" in bounds:
        return bounds["Gt"].gt + 0.5
    if isinstance(value, list) and "MinLen" in bounds:
        return [_least(get_args(field.annotation)[0])]
    return value


def _least(kind: Any) -> Any:
    origin = get_origin(kind)
    if origin is Literal:
        return get_args(kind)[0]
    if origin in (Union, UnionType):
        return None
    if isinstance(kind, type) and issubclass(kind, Typed):
        return least_of(kind)
    return {dict: {}, list: [], str: "", int: 0, float: 0.0, bool: False, type(None): None}[origin or kind]
