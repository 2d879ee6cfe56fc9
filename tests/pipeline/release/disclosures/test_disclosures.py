"""Disclosures say what the manifests say; what they do not say is marked as somebody's word, or as not declared."""

import hashlib
import json
import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from pipeline.audit.verify import verify
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.yaml import check
from pipeline.formats.manifests import Coverage
from pipeline.formats.model import Initialization, LayerSpec, ModelSpec
from pipeline.release.disclosures.evidence import Evidence, forward_flops, gather_evidence
from pipeline.release.disclosures.model_form import write_model_form
from pipeline.release.disclosures.openness import write_openness
from pipeline.release.disclosures.pages import write_ab2013, write_training_content
from pipeline.release.disclosures.sentences import languages
from pipeline.release.disclosures.summary import summary, write_summary
from pipeline.release.disclosures.word import Word, plain, pointers, told
from pipeline.release.facts import AncestorFacts
from pipeline.release.papers import PAPERS
from pipeline.release.release import Release
from pipeline.release.words import Disclosures
from tests.releases import read_json, reseal_file, unsealed

COMPONENTS = """Model architecture, Data preprocessing code, Training code, Inference code, Evaluation code,
Supporting libraries and tools, Model parameters (Final), Model parameters (Intermediate), Datasets, Evaluation data,
Model metadata, Model card, Data card, Technical report, Research paper, Evaluation results, Sample model outputs"""

QUESTIONS = ("continuous", "code_of_practice", "trademarks", "patents", "personal_information", "consumer_information")
"""Keys that take yes or no alone."""


def test_a_release_with_words_verifies_and_a_changed_word_is_found(released: Path) -> None:
    assert verify(str(released)).faults == []
    path = released / "disclosures/ab2013.md"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"**Trademarked content:** Yes", b"**Trademarked content:** No"))
    reseal_file(released, "disclosures/ab2013.md")
    (fault,) = verify(str(released)).faults
    path.write_bytes(content)
    reseal_file(released, "disclosures/ab2013.md")
    assert fault.startswith("disclosures/ab2013.md: line ") and "Trademarked content" in fault


@pytest.mark.parametrize("write", [write_training_content, write_ab2013, write_model_form])
def test_every_word_is_marked_and_nothing_else(declared: Evidence, silent: Evidence, write: object) -> None:
    """A word of the publisher is in a line that ends with the mark; without words there are no marks but for sources,
    licences and the publisher itself."""
    assert callable(write)
    mark = f"*(word of {declared.release.publisher})*"
    words = declared.release.disclosures
    assert words
    texts = [text for text in words.model_dump().values() if isinstance(text, str) and len(text) > 15]
    lines = write(declared).decode().splitlines()
    assert sum(any(" ".join(text.split())[:15] in line for text in texts) for line in lines) >= 2
    for line in lines:
        if any(" ".join(text.split())[:15] in line for text in texts):
            assert line.endswith(mark), line
    computed = [
        line for line in write(silent).decode().splitlines() if re.match(r"\*\*(Modality|Data type|Text)", line)
    ]
    assert all(mark not in line for line in computed)


def test_pointers_lead_to_the_words_and_to_nothing_computed(declared: Evidence) -> None:
    tree = json.loads(write_summary(declared))
    assert tree["declared_by"] == declared.release.publisher
    words = declared.release.disclosures
    assert words
    said = [at(tree, pointer) for pointer in tree["declared"]]
    assert {words.characteristics, words.illegal_content, words.purpose, words.content} <= set(map(str, said))
    computed = {"/data_sources/publicly_available_datasets/used", "/general_information/linguistic_characteristics"}
    assert computed.isdisjoint(tree["declared"])


def at(tree: object, pointer: str) -> object:
    for key in pointer.split("/")[1:]:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key.replace("~1", "/").replace("~0", "~")]  # type: ignore[index]
    return tree


def test_who_declares_nothing_is_shown_so_and_nothing_is_invented(silent: Evidence) -> None:
    assert silent.release.disclosures is None
    page = write_training_content(silent).decode()
    for question in (
        "Were crawlers used by you or on your behalf?",
        "Have you obtained private datasets from third parties?",
    ):
        assert f"**{question}** *not declared*" in page
    tree = json.loads(write_summary(silent))
    assert tree["data_sources"]["crawled_data"]["crawlers_used"] is None
    assert tree["last_update"] == "not declared"


def test_every_declared_key_is_shown_in_some_paper(declared: Evidence) -> None:
    dates = {"updated": "2026-01-02", "published": "2026-03-04", "first_used": "2026-05-06", "latest_data": "1999-07"}
    texts = {name: f"the word {name}" for name in Disclosures.model_fields if name not in (*dates, *QUESTIONS)}
    words = Disclosures.model_validate(dates | texts)
    evidence = declared.model_copy(update={"release": declared.release.model_copy(update={"disclosures": words})})
    shown = "".join(PAPERS[name](evidence).decode() for name in PAPERS)
    for name, value in words.model_dump(exclude_none=True).items():
        ways = {value, "/".join(reversed(value.split("-"))), "/".join(reversed(value[2:].split("-")))}
        assert any(way in shown or way.replace("_", "\\_") in shown for way in ways), name


def test_a_fork_names_the_model_that_it_went_on_from(declared: Evidence) -> None:
    parent = AncestorFacts(
        release="theirs", version="2", release_sha256="cd" * 32, model="m", step=64, tokens=65536,
        state_digest=f"tensors-v1:{'ab' * 32}",
    )  # fmt: skip
    fork = declared.model_copy(update={"ancestors": [parent]})
    assert "**Model dependencies:** theirs 2 m at step 64" in write_training_content(fork).decode()
    assert f"theirs 2 m at step 64, state {parent.state_digest}" in write_model_form(fork).decode()
    assert yaml.safe_load(write_openness(fork))["release"]["origin"] == "theirs"
    assert "None: every training began with randomly initialized weights" in write_training_content(declared).decode()


def test_a_data_set_too_small_for_the_list_is_described_in_a_sentence(declared: Evidence) -> None:
    first, *others = declared.sources
    small = declared.model_copy(update={"sources": [first.model_copy(update={"tokens": 1}), *others]})
    public = summary(small)["data_sources"]["publicly_available_datasets"]
    assert len(public["large_datasets"]) == len(others)
    said = public["other_datasets_general_description"]
    assert isinstance(said, Word) and all(part in str(said.value) for part in (first.title, "modality text", "01/2020"))


def test_languages_are_named_with_shares_and_those_of_the_union_apart(declared: Evidence) -> None:
    shares = {"de": declared.tokens // 2, "en, ja": declared.tokens - declared.tokens // 2}
    mixed = declared.model_copy(update={"tokens_by_languages": shares, "languages": ["de", "en", "ja"]})
    assert languages(mixed) == (
        "German 50.0%; English, ja 50.0% of the tokens. Official languages of the European Union among these: "
        "German, English."
    )


def test_every_path_of_the_model_openness_framework_exists(released: Path) -> None:
    tree = yaml.safe_load((released / "mof.yml").read_text())["release"]
    names = [component["name"] for component in tree["components"]]
    assert set(names) < set(re.split(r",\s+", COMPONENTS)) and len(names) == len(set(names)) == 15
    for component in tree["components"]:
        assert set(component) == {"name", "description", "license", "license_path", "component_path"}
        listed = re.findall(r"runs/\S+?(?=,|$)", component["description"])
        for path in (component["component_path"], component["license_path"], *listed):
            assert (released / path).exists(), path
    assert all((released / said["path"]).exists() for said in tree["license"].values())
    assert (tree["type"], tree["architecture"], tree["treatment"]) == ("language", "transformer decoder", "pre-trained")


def test_a_model_openness_file_is_the_same_to_every_reader_of_yaml(declared: Evidence) -> None:
    release = declared.release.model_copy(update={"publisher": 'no: "a" #b \\n é'})
    text = write_openness(declared.model_copy(update={"release": release})).decode()
    read = yaml.safe_load(text)
    assert read == YAML(typ="safe", pure=True).load(text) and read["release"]["producer"] == 'no: "a" #b \\n é'


def test_links_of_the_pages_lead_to_files_of_the_release(released: Path) -> None:
    for page in [*released.glob("disclosures/*.md"), released / "README.md"]:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), (page, link)


def test_digests_of_croissant_are_those_of_the_files(released: Path) -> None:
    files = [one for one in read_json(released / "croissant.json")["distribution"] if one["@type"] == "cr:FileObject"]
    assert len(files) > 10
    for one in files:
        assert hashlib.sha256((released / one["contentUrl"]).read_bytes()).hexdigest() == one["sha256"]


def test_a_file_that_sums_do_not_list_is_named(released: Path) -> None:
    release = unsealed(released)
    with pytest.raises(Differs, match=r"data/deduplicated/removals\.parquet: SHA256SUMS does not list it"):
        gather_evidence(release, release.manifest(Coverage), {}, "0" * 64)


def test_operations_are_counted_from_the_shapes() -> None:
    layer = LayerSpec(query_heads=4, kv_heads=2, head_width=8, ffn_width=64)
    spec = ModelSpec(
        vocabulary=100, context=16, width=32, layers=(layer,), applications=(0, 0), ffn_owner=(0,), tied_embedding=True,
        rotary_base=1e4, norm_epsilon=1e-5, initialization=Initialization(rule="normal", std=0.02),
    )  # fmt: skip
    attention, ffn = 32 * (4 + 2 + 2 + 4) * 8, 3 * 32 * 64
    assert forward_flops(spec) == 2 * (2 * (attention + ffn) + 32 * 100) + 4 * 16 * 2 * 4 * 8


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("updated", "25/11/2026", "string should match pattern"),
        ("updated", "2026-02-30", "is no day; write it as '2026-11-25'"),
        ("latest_data", "2026-13", "string should match pattern"),
        ("crawled", True, "disclosures"),
        ("crawld", False, "unknown key"),
    ],
)
def test_a_wrong_declaration_is_refused_by_key(key: str, value: object, said: str) -> None:
    with pytest.raises(EverystepError, match=re.escape(said)):
        check(Disclosures, {key: value}, "params.yaml: release: disclosures")


def test_a_bare_date_is_told_its_fix() -> None:
    with pytest.raises(EverystepError, match=r"updated: is a bare date; put it in quotes: '2026-11-25'"):
        check(Disclosures, {"updated": date(2026, 11, 25)}, "params.yaml")


def test_trees_of_words() -> None:
    tree = {"a": Word("x"), "b/c": [1, Word(False), Word(None)]}
    assert plain(tree) == {"a": "x", "b/c": [1, False, None]}
    assert list(pointers(tree)) == ["/a", "/b~1c/1"]
    assert told(Word("a *b*"), "N") == "a \\*b\\* *(word of N)*"
    assert told(Word(False), "N") == "No *(word of N)*" and told(Word(None), "N") == "*not declared*"


def test_summaries_need_no_words_to_be_written(silent: Evidence) -> None:
    assert [source.tokens for source in silent.sources] and summary(silent)["data_sources"][
        "publicly_available_datasets"
    ]


def test_a_real_release_is_opened_with_its_papers(released: Path) -> None:
    assert {"croissant.json", "mof.yml"} <= Release.open(released).files.keys()
