from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import Section, check, load_yaml


class Inner(Section):
    rate: float
    steps: int = 3


class Outer(Section):
    inner: Inner
    names: list[str]


PLAIN = {"inner": {"rate": 0.5}, "names": ["a"]}


def load(folder: Path, text: str) -> dict[str, Any]:
    (folder / "p.yaml").write_text(text, "utf-8")
    return load_yaml(folder / "p.yaml")


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "none: ~\n"
    text += "rate: 3e-4\nten: 010\noctal: 0o10\nword: no\nyes: on\ntext: é\nlist: [1, 2.0, '3']\ntime: 12:30:45\n"
    assert load(tmp_path, text) == {
        "rate": 0.0003,
        "ten": 10,
        "octal": 8,
        "word": "no",
        "yes": "on",
        "text": "é",
        "none": None,
        "list": [1, 2.0, "3"],
        "time": "12:30:45",
    }


REFUSED = {
    "a key that stands twice": "a: 1\na: 2\n",
    "a key that stands twice below": "a: {b: 1, b: 2}\n",
    "a key that is a number": "a: {2024: b}\n",
    "a key that is nothing": "~: b\n",
    "an alias": "a: &x [1]\nb: *x\n",
    "a laughing billion": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a list that holds itself": "a: &a [*a]\n",
    "a merge": "a: &x {b: 1}\nc:\n  <<: *x\n",
    "not a number": "a: .nan\n",
    "an infinity": "a: [1, {b: -.inf}]\n",
    "a number past the doubles": "a: 1e999\n",
    "no mapping": "- 1\n",
    "nothing": "",
    "two documents": "a: 1\n---\nb: 2\n",
    "broken": "a: [1\n",
    "a tab": "a:\n\t- 1\n",
    "a Python object": "a: !!python/object/apply:os.system [ls]\n",
    "an unknown tag": "a: !x 1\n",
    "a number that is none": "a: !!int x\n",
    "a number without an end": f"a: {'1' * 5000}\n",
    "an unprintable character": "a: \x01\n",
    "deep nesting": f"a: {'[' * 5000}{']' * 5000}\n",
    "a key that is a list": "? [1, 2]\n: 3\n? {a: 1}\n: 4\n",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_by_file(tmp_path: Path, fault: str) -> None:
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/p\.yaml: "):
        load(tmp_path, REFUSED[fault])


@given(st.text("a:-?[]{}&*!|>'\"#%@` \n\t01.e,<=~", max_size=25))
def test_anything_gives_a_mapping_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    try:
        assert isinstance(load(tmp_path_factory.getbasetemp(), text), dict)
    except EverystepError as error:
        assert "p.yaml" in str(error)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match=r"nothing\.yaml: no such file"):
        load_yaml(tmp_path / "nothing.yaml")
    (tmp_path / "p.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(EverystepError, match="not valid YAML"):
        load_yaml(tmp_path / "p.yaml")
    with pytest.raises(EverystepError):
        load_yaml(tmp_path)


def test_a_tree_that_fits_becomes_a_frozen_model() -> None:
    model = check(Outer, PLAIN, "p.yaml")
    assert model == Outer(inner=Inner(rate=0.5, steps=3), names=["a"])
    with pytest.raises(ValueError, match="frozen"):
        model.names = []  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (PLAIN | {"name": []}, "p.yaml: name: unknown key; remove it or correct its spelling"),
        ({"names": []}, "p.yaml: inner: missing; add it"),
        (PLAIN | {"inner": {"rate": 1, "steps": "3"}}, "p.yaml: inner.steps: input should be a valid integer, got '3'"),
        (PLAIN | {"names": ["a", 1]}, "p.yaml: names.1: input should be a valid string, got 1"),
        (PLAIN | {1: 2}, "p.yaml: "),
        ([], "p.yaml: "),
        (None, "p.yaml: "),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_key(tree: Any, message: str) -> None:
    with pytest.raises(EverystepError) as caught:
        check(Outer, tree, "p.yaml")
    assert str(caught.value).startswith(message)


def test_every_fault_is_a_line_of_its_own() -> None:
    with pytest.raises(EverystepError) as caught:
        check(Outer, {"inner": {"speed": 1}, "names": 3}, "p.yaml")
    assert sorted(str(caught.value).split("\n")) == [
        "p.yaml: inner.rate: missing; add it",
        "p.yaml: inner.speed: unknown key; remove it or correct its spelling",
        "p.yaml: names: input should be a valid list, got 3",
    ]


def test_a_file_that_would_take_minutes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(f"a: [{'1,' * (1 << 19)}]\n")
    with pytest.raises(EverystepError, match=r"f\.yaml: 1048582 bytes; at most 1048576 are allowed"):
        load_yaml(tmp_path / "f.yaml")
