"""Laws of every model: it comes back from its JSON, its JSON comes back from it, and no other tree is read."""

import hashlib
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import canonical, parse, pretty
from pipeline.formats.checkpoints import Record
from pipeline.formats.lines import Shard
from pipeline.formats.log import Entry
from pipeline.formats.manifests import KINDS, Checkpoint, Code, TasksMade
from pipeline.formats.release import Revision, Root
from pipeline.formats.tasks import Task, task_file
from pipeline.formats.typed import Declared, Typed

MODELS: list[type[Typed]] = [
    *(kind for kind in KINDS.values() if kind is not Code),
    Record,
    Entry,
    Root,
    Revision,
    Shard,
]
"""All but `Code`, whose digests follow from its files (`tests/pipeline/stages/test_code.py`)."""
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
PATTERNS = {
    r"\A[0-9a-f]{64}\z": HEX,
    r"\Atensors-v1:[0-9a-f]{64}\z": HEX.map("tensors-v1:{}".format),
    r"\Aswh:1:dir:[0-9a-f]{40}\z": HEX.map(lambda text: f"swh:1:dir:{text[:40]}"),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**53 - 1) | TEXT, lambda inner: st.lists(inner, max_size=2)
)


def trees(model: type[Typed]) -> st.SearchStrategy[dict[str, Any]]:
    """Trees that `model` reads; keys that may be missing sometimes are."""
    required: dict[Any, st.SearchStrategy[Any]] = {}
    optional: dict[Any, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        (required if field.is_required() else optional)[field.alias or name] = values(field)
    whole = st.fixed_dictionaries(required, optional=optional)
    if model is Checkpoint:  # the manifest of a model lists stored ones
        return whole.map(lambda tree: tree | {"storage": "stored"})
    if model is Record:
        return whole.map(lambda tree: tree | {"storage": "stored", "nearest_stored_step": tree["step"]})
    if model is Task:
        return whole.map(consistent_task)
    if model is TasksMade:
        return st.tuples(whole, trees(Shard)).map(lambda pair: with_files(*pair))
    if not issubclass(model, Declared):
        return whole
    known = {*required, *optional}
    more = st.dictionaries(TEXT.filter(lambda key: key not in known), JSON, max_size=2)
    return st.tuples(whole, more).map(lambda pair: pair[0] | pair[1])


def consistent_task(tree: dict[str, Any]) -> dict[str, Any]:
    """A task whose counts agree, with the digest of its definition."""
    left_out = {reason: count % 1000 for reason, count in tree["left_out"].items()}
    asked = tree["items"] % 1000 + 1
    digest = hashlib.sha256(canonical(tree["definition"])).hexdigest()
    counts = {"left_out": left_out, "items": asked, "found": asked + sum(left_out.values())}
    return tree | counts | {"definition_sha256": digest}


def with_files(tree: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
    """A manifest of tasks that lists one file for each."""
    files = [shard | {"path": task_file(task)} for task in tree["tasks"]]
    return tree | {"outputs": {"stock": files[:1], "pairs": files[1:]}}


def values(field: FieldInfo) -> st.SearchStrategy[Any]:
    bounds = {type(rule).__name__: rule for rule in field.metadata}
    return of_type(field.annotation, field.metadata, "MinLen" in bounds)


def of_type(kind: Any, rules: Any = (), not_empty: bool = False) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    pattern = next((rule.pattern for rule in rules if getattr(rule, "pattern", None)), None)
    if pattern is not None:
        return PATTERNS[pattern]
    if hasattr(kind, "__metadata__"):  # Annotated
        flat = [item for rule in kind.__metadata__ for item in getattr(rule, "metadata", [rule])]
        return of_type(arguments[0], flat, not_empty)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of(*(of_type(argument) for argument in arguments))
    if origin is list:
        return st.lists(of_type(arguments[0]), min_size=int(not_empty), max_size=2)
    if origin is dict:
        return st.dictionaries(TEXT, of_type(arguments[1]), min_size=int(not_empty), max_size=2)
    if isinstance(kind, type) and issubclass(kind, Typed):
        return trees(kind)
    if kind is int:
        lows = [rule.ge for rule in rules if hasattr(rule, "ge")]
        highs = [rule.le for rule in rules if hasattr(rule, "le")]
        return st.integers(max(lows, default=0), min(highs, default=2**53 - 1))
    if kind is float:
        most = min((rule.le for rule in rules if hasattr(rule, "le")), default=1e300)
        above = max((rule.gt for rule in rules if hasattr(rule, "gt")), default=None)
        below = min((rule.lt for rule in rules if hasattr(rule, "lt")), default=None)
        return st.floats(
            above or 0,
            below or most,
            exclude_min=above is not None,
            exclude_max=below is not None,
            allow_subnormal=False,
        )
    plain = {str: TEXT, bool: st.booleans(), type(None): st.none()}
    return plain.get(kind, JSON)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_what_is_read_is_written_back_with_the_same_bytes(model: type[Typed], data: st.DataObject) -> None:
    tree = parse(pretty(data.draw(trees(model))))
    read = model.from_json(tree, "file")
    assert pretty(read.to_json()) == pretty(tree)
    assert model.parse(pretty(read.to_json()), "file") == read


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@settings(max_examples=5)
@given(data=st.data())
def test_a_key_that_is_missing_unknown_or_of_the_wrong_type_is_named_with_its_file(
    model: type[Typed], data: st.DataObject
) -> None:
    tree = data.draw(trees(model))
    key = data.draw(
        st.sampled_from([field.alias or name for name, field in model.model_fields.items() if field.is_required()])
    )
    with pytest.raises(EverystepError, match=rf"^m\.json: {key}: missing$"):
        model.from_json({name: value for name, value in tree.items() if name != key}, "m.json")
    with pytest.raises(EverystepError, match=rf"^m\.json: {key}\b.*, got"):
        model.from_json(tree | {key: object()}, "m.json")
    with pytest.raises(EverystepError, match=r"^m\.json: speed: unknown key$"):
        model.from_json(tree | {"speed": 1}, "m.json")


@pytest.mark.parametrize("tree", [None, [], "text", 7, 1.5, True])
def test_what_is_no_object_is_refused(tree: Any) -> None:
    with pytest.raises(EverystepError, match=r"^m\.json: the whole: "):
        Shard.from_json(tree, "m.json")


def test_every_field_of_every_model_has_a_docstring() -> None:
    """Read from the source: pydantic keeps them only where it is asked to, which costs every start."""
    import ast
    import inspect

    seen: set[type[Typed]] = set()
    todo: list[type[Typed]] = list(MODELS)
    while todo:
        model = todo.pop()
        if model in seen or model is Typed:
            continue
        seen.add(model)
        todo += [base for base in model.__bases__ if issubclass(base, Typed)]
        todo += [found for field in model.model_fields.values() for found in models_in(field.annotation)]
        (body,) = ast.parse(inspect.getsource(model)).body
        assert isinstance(body, ast.ClassDef) and ast.get_docstring(body), model
        inherited = {name for base in model.__bases__ for name in getattr(base, "model_fields", {})}
        for field, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert said or field.target.id in inherited or "ClassVar" in ast.unparse(field.annotation), (
                    f"{model.__name__}.{field.target.id}"
                )


def models_in(annotation: Any) -> list[type[Typed]]:
    if isinstance(annotation, type) and issubclass(annotation, Typed):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]
