from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.sources.declaration import Declared, HuggingfaceSource, PackageSource, UrlSource, parse_source
from pipeline.sources.readers import READERS
from tests.pipeline.sources.declared import declared, tree


def refusal(kind: str, **changes: Any) -> str:
    with pytest.raises(EverystepError) as caught:
        declared(kind, **changes)
    return str(caught.value)


def test_every_kind_is_told_by_its_name() -> None:
    assert isinstance(declared("package"), PackageSource)
    assert isinstance(declared("url"), UrlSource)
    assert isinstance(declared("huggingface"), HuggingfaceSource)


def test_readers_that_may_be_declared_are_those_that_exist() -> None:
    annotation = Declared.model_fields["reader"].annotation
    assert annotation is not None
    assert set(annotation.__args__) == set(READERS)


@pytest.mark.parametrize("kind", ["package", "url"])
def test_missing_digest_names_the_key_and_the_fix(kind: str) -> None:
    assert refusal(kind, sha256=None).startswith("params.yaml: sources.demo.sha256: missing; pin the bytes")


def test_branch_name_is_refused_because_it_moves() -> None:
    message = refusal("huggingface", revision="main")
    assert message.startswith("params.yaml: sources.demo.revision: 'main' is a name that can move")
    assert "missing; pin the 40 hex digits" in refusal("huggingface", revision=None)


def test_unknown_key_is_refused_by_its_place() -> None:
    assert refusal("url", licence="MIT") == (
        "params.yaml: sources.demo.licence: unknown key; remove it or correct its spelling"
    )


def test_kind_and_name_of_a_source_are_checked() -> None:
    with pytest.raises(
        EverystepError, match=r"sources\.demo\.kind: expected one of package, url, huggingface, got 'ftp'"
    ):
        parse_source("demo", tree("url") | {"kind": "ftp"}, "params.yaml")
    with pytest.raises(EverystepError, match=r"params.yaml: sources: 'De mo' cannot be a name"):
        parse_source("De mo", tree("url"), "params.yaml")
    with pytest.raises(EverystepError, match=r"sources\.de\.mo: remove the dot from this name"):
        parse_source("de.mo", tree("url"), "params.yaml")


@pytest.mark.parametrize(
    "license_",
    ["Apache-2.0", "CC-PDM-1.0", "MIT OR (Apache-2.0 AND CC-BY-4.0)", "GPL-2.0-only WITH Classpath-exception-2.0"],
)
def test_spdx_expression_is_accepted(license_: str) -> None:
    assert declared("url", license=license_).license == license_


@pytest.mark.parametrize(
    "license_",
    ["", "public domain", "MIT OR", "(MIT", "MIT)", "MIT and CC0-1.0", "AND", "MIT/X11", "()", "mit", "Apache-2.1"],
)
def test_what_is_no_spdx_expression_is_refused(license_: str) -> None:
    assert "sources.demo.license: " in refusal("url", license=license_)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.zip?download=1",
        "s3://bucket/a.zip",
        "gs://bucket/a.txt",
        "file:///data/a.txt",
        "file:a/b.txt",
    ],
)
def test_plain_address_is_accepted(url: str) -> None:
    source = declared("url", url=url)
    assert isinstance(source, UrlSource) and source.url == url


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a",
        "zip://a.txt::https://example.org/a.zip",
        "https://user:word@example.org/a",
        "https://example.org/a?X-Amz-Signature=1f",
        "https://example.org/a?access_token=1f",
        "https://example.org/",
        "https:///a",
        "file://host/a",
        "a.zip",
        "https://example.org/a b",
    ],
)
def test_address_with_a_chain_a_secret_or_no_file_is_refused(url: str) -> None:
    assert "sources.demo.url: " in refusal("url", url=url)


def test_rows_of_the_hub_are_read_as_json_lines() -> None:
    assert "write `reader: jsonl`" in refusal("huggingface", reader="parquet")


@pytest.mark.parametrize(
    "changes",
    [
        {"languages": []},
        {"languages": ["english"]},
        {"cap_bytes": 0},
        {"sha256": "A" * 64},
        {"priority": "1"},
    ],
)
def test_value_out_of_its_range_is_refused(changes: dict[str, Any]) -> None:
    assert f"sources.demo.{next(iter(changes))}" in refusal("url", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license_column": "terms"}, "sources.demo: license_column, licenses: one names the column"),
        ({"licenses": {"CC-BY-4.0": ["by"]}}, "sources.demo: license_column, licenses: one names the column"),
        ({"license_column": "a", "licenses": {"MIT": ["by"]}}, "sources.demo: license_column: the reader text has"),
        ({"license_column": "a", "licenses": {"CC BY 4": ["by"]}}, "'CC BY 4' is not an SPDX"),
        ({"license_column": "a", "licenses": {"MIT": [""]}}, "sources.demo.licenses.MIT.0: "),
        ({"license_column": "a", "licenses": {"MIT": "by"}}, "sources.demo.licenses.MIT: "),
        ({"license_column": "a", "licenses": {"MIT": ["a"], "ISC": ["a"]}}, "sources.demo: licenses: the same words"),
        ({"unknown_license": "keep"}, "sources.demo.unknown_license: "),
        ({"max_failed_share": 2}, "sources.demo.max_failed_share: "),
    ],
)
def test_licences_of_documents_and_the_share_of_failures_are_checked(changes: dict[str, Any], message: str) -> None:
    assert message in refusal("url", **changes)


def test_columns_are_named_once_in_the_order_of_their_use() -> None:
    source = declared(
        "url",
        reader="jsonl",
        license_column="about.terms",
        licenses={"CC-BY-4.0": ["by", "BY"]},
        metadata_columns=["url", "about.terms"],
    )
    assert source.columns == ["text", "about.terms", "url"]
    assert source.meanings == {"by": "CC-BY-4.0", "BY": "CC-BY-4.0"}
