"""The card: its digest is that of what it is made from, its tables have the manifests' numbers, samples are text."""

import hashlib
import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.release.card_results import results_section
from pipeline.release.comparison import Siblings
from pipeline.release.markdown import literal
from pipeline.release.papers import PAPERS
from tests.project import ROOT
from tests.releases import evidence_of, read_json


def test_the_contents_digest_is_what_a_reader_computes_from_the_root_manifest(built_project: Path) -> None:
    release = built_project / "release"
    files = read_json(release / "release.json")["files"]
    written = r"README\.md|NOTICE|.*\.svg|.*\.html|croissant\.json|mof\.yml|disclosures/.*"
    papers = [path for path in files if re.fullmatch(written, path)]
    lines = [f"{files[path]['digest']}  {path}\n" for path in sorted(files) if path not in papers]
    assert sorted(papers) == sorted(PAPERS)
    assert hashlib.sha256("".join(lines).encode()).hexdigest() in (release / "README.md").read_text()


def test_the_formats_name_every_paper(built_project: Path) -> None:
    text = (ROOT / "docs/formats.md").read_text()
    told = text.partition("**Contents digest.**")[2].partition("\n\n")[0]
    assert [name for name in PAPERS if f"`{name}`" not in told and not name.startswith("disclosures/")] == []


def test_results_are_those_of_the_manifests(built_project: Path) -> None:
    card = (built_project / "release" / "README.md").read_text()
    for path in sorted((built_project / "release/manifests/evaluations").glob("*.json")):
        last = json.loads(path.read_text())["results"][-1]
        assert f"{last['bits_per_byte']:.3f} ± {last['standard_error']:.3f}" in card
    for path in sorted((built_project / "release/manifests/scores").glob("*.json")):
        for metrics in json.loads(path.read_text())["last"].values():
            assert f"{100 * metrics['acc']:.1f} ± " in card


def test_siblings_change_the_rule_and_add_what_seeds_do(built_project: Path) -> None:
    evidence = evidence_of(built_project / "release")
    first, second = (model.name for model in evidence.models)
    alone = results_section(evidence)
    assert "what another seed would have done is not known" in alone and "| deviation of" not in alone
    groups = Siblings(seeds=[[first, second]], weights=[[first, second]], orders=[])
    siblings = results_section(evidence.model_copy(update={"siblings": groups}))
    assert "from seed to seed, as the siblings show it" in siblings
    assert "| deviation of first weights |" in siblings and "deviation of orders" not in siblings
    assert f"What `{first}` writes" in siblings and f"What `{second}` writes" not in siblings


@given(st.text(st.sampled_from("a1 \t\n\r|`*<&-\x0b\u2028\u202e\ufffd🎉"), max_size=40))
def test_whatever_a_model_writes_is_a_block_of_text(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(f"Before:\n\n{literal('the old|' + text)}\n\nAfter.")
    kinds = [token.type for token in tokens if token.type not in ("paragraph_open", "paragraph_close")]
    assert kinds == ["inline", "code_block", "inline"]
    assert all(letter == "\n" or letter.isprintable() for letter in tokens[3].content)
