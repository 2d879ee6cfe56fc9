"""What people write in `params.yaml`: it is shown letter by letter, or refused by key; it builds no data again."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import dumps_yaml, parse_yaml
from huggingface_hub import ModelCard
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from ruamel.yaml import YAML

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.formats.manifests import Coverage
from pipeline.release.card import write_card, write_notice
from pipeline.release.disclosures.evidence import Evidence, described, gather_evidence
from pipeline.release.facts import AncestorFacts
from pipeline.release.front_matter import front_matter
from pipeline.release.markdown import percent
from pipeline.release.words import MAX_LINE, MAX_TEXT, check_words, check_words_on_rows
from tests.project import SOURCES, params, repro, run
from tests.releases import contents_of, copied, everystep, read_json, unsealed

LINES = (
    *("descriptions.letters.title", "descriptions.tales.issuer", "descriptions.notes.evidence"),
    *("release.version", "release.title", "release.publisher"),
)
TEXTS = ("descriptions.letters.attribution", "release.limits")
NASTY = [
    "no", "---", "a|b", "| a | b |", "`code`", "<b>bold</b>", "<!-- x", "# heading", "- item", "+ item", "1. item",
    "12) item", "> quote", "=====", "***", "_emphasis_", "snake_case", "[link](https://example.org)", "![i](x)",
    "&amp; &copy; &#65;", "\\| \\\\(x\\\\) \\", "$x$ ~~y~~", "{braces} {0} %s ${sources}", "0o10", "1984", "null", "~",
    "🎉 👩‍👩‍👧", "שלום\u200f world\u200e", "e\u0301\u0301", "\u200d\u200b", "it's \"quoted\"", "a: b #c",
    "x" * MAX_LINE, "a  b", "doi:10.7910/DVN/L4OAKN", "© ™ €5 | 5 €", "C#", "ends with #", "\ufdd0", "\U0010ffff",
]  # fmt: skip
REFUSED = [
    "", " ", "\u3000", "\u200b", " a", "a ", "\u00a0a", "a\n", "a\nb", "a\tb", "\x1b[31mred", "nul\0", "a\x85b",
    "a\u2028b", "\u202egnp.exe", "\u2066a", "\ud800", "\ufeffa", "a\x7f", "x" * (MAX_LINE + 1),
]  # fmt: skip
word = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=30)
text = st.one_of(
    st.sampled_from(NASTY), word, st.lists(st.sampled_from([*NASTY[:-20], *" \\`*_|<&#~$[]()!>-+=.1a"])).map("".join)
)


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


def is_accepted(tree: dict[str, Any], key: str, value: str) -> bool:
    """Whether the words of `tree` are; a refusal names the key."""
    put(tree, key, value)
    try:
        check_words(tree, SOURCES, "params.yaml")
    except EverystepError as error:
        assert str(error).startswith(f"params.yaml: {key}: ")
        return False
    return True


@pytest.fixture(scope="module")
def bare(built_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the card of a release is made of, to be written with other words."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(built_project / "release" / "manifests", folder / "manifests", copy_function=shutil.copyfile)
    read = ("params.yaml", "runs/*/log.jsonl", "results/*/samples.jsonl", "scores/*/scores.jsonl")
    for path in [path for pattern in read for path in (built_project / "release").glob(pattern)]:
        place = folder / path.relative_to(built_project / "release")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return folder


def with_words(bare: Path, words: dict[str, str]) -> Evidence:
    """The evidence of a release with those of these words that `params.yaml` accepts; card and notice are written."""
    tree = read_json(bare / "params.yaml")
    for key, value in words.items():
        if not is_accepted(json.loads(json.dumps(tree)), key, value):
            continue
        put(tree, key, value)
    (bare / "params.yaml").write_bytes(pretty(tree))
    facts = facts_about(bare)
    (bare / "README.md").write_bytes(write_card(facts))
    (bare / "NOTICE").write_bytes(write_notice(facts))
    return facts


def facts_about(bare: Path) -> Evidence:
    """The evidence of a folder without a root manifest."""
    release = unsealed(bare)
    sums = dict.fromkeys(described(release), "0" * 64)
    return gather_evidence(release, release.manifest(Coverage), sums, contents_of(release.files))


# Shown letter by letter


def shown(inline: Token) -> str:
    """The text that a reader sees; anything but text fails: a link, code, HTML, emphasis."""
    kinds = {"text": None, "hardbreak": "\n", "softbreak": "\n"}
    assert {child.type for child in inline.children or []} <= set(kinds)
    return "".join(kinds[child.type] or child.content for child in inline.children or [])


def after(tokens: list[Token], kind: str) -> list[Token]:
    """The inline token in each block of a kind."""
    return [tokens[i + 1] for i, token in enumerate(tokens) if token.type == kind]


@settings(max_examples=40, phases=(Phase.explicit, Phase.generate))  # what is drawn is short
@given(words=st.fixed_dictionaries(dict.fromkeys([*LINES, *TEXTS], text)))
@example(words=dict.fromkeys([*LINES, *TEXTS], "---"))
@example(words=dict.fromkeys([*LINES, *TEXTS], "no"))
@example(words={"release.limits": "- one\n  2. two\n===\n\n \n| three |\n", "descriptions.letters.attribution": "a\nb"})
def test_every_accepted_text_is_shown_as_it_is_written(bare: Path, words: dict[str, str]) -> None:
    facts = with_words(bare, words)
    card = (bare / "README.md").read_bytes().decode()
    _, front, body = card.split("---\n", 2)
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body)
    release = facts.release
    assert shown(after(tokens, "heading_open")[0]) == f"{release.name} {release.version}"
    publisher = f"{release.title}. Published by {release.publisher}; built by Everystep with "
    assert (after(tokens, "paragraph_open")[0].children or [])[0].content == publisher
    data = next(i for i, token in enumerate(tokens) if token.type == "inline" and token.content == "Data")
    cells = [shown(cell) for cell in after(tokens[data:], "td_open") if cell.type == "inline"]
    for source in facts.sources:
        assert cells[cells.index(source.name) + 7] == source.title
        notice = (bare / "NOTICE").read_bytes().decode()
        assert f"{source.name}: {source.title}. {source.issuer}. {source.license}.\n" in notice
        for line in (source.attribution or "").split("\n"):
            assert f"    {line}".rstrip() in notice.split("\n") or not line.strip()
    quote = next(i for i, token in enumerate(tokens) if token.type == "blockquote_open")
    limits = "\n".join(shown(inline) for inline in after(tokens[quote:], "paragraph_open"))
    assert limits.split("\n") == [line.strip() for line in release.limits.split("\n") if line.strip()]
    assert tokens[-1].type == "blockquote_close"
    assert yaml.safe_load(front) == YAML(typ="safe", pure=True).load(front)
    said = {"release": release.model_dump(), "descriptions": [source.title for source in facts.sources]}
    assert parse_yaml(dumps_yaml(said), "dvc.lock") == said


@pytest.mark.parametrize("key", [*LINES, *TEXTS])
def test_nasty_texts_are_accepted_and_harmful_ones_refused_by_key(corpora: Path, key: str) -> None:
    tree = params(corpora)
    accepted = [value for value in NASTY if is_accepted(tree, key, value)]
    assert [value for value in NASTY if value not in accepted] == ["\u200d\u200b"]
    paragraphs = {" a", "a ", "\u00a0a", "a\n", "a\nb", "x" * (MAX_LINE + 1)} if key in TEXTS else set()
    assert {value for value in REFUSED if is_accepted(tree, key, value)} == paragraphs
    assert not is_accepted(tree, key, "x" * (MAX_TEXT + 1))


def test_a_folded_text_is_told_its_fix(corpora: Path) -> None:
    tree = params(corpora)
    tree["descriptions"]["letters"]["title"] = YAML(typ="safe", pure=True).load("title: >\n  folded\n  words\n")[
        "title"
    ]
    with pytest.raises(EverystepError, match=r"letters\.title: ends with a line end; write `>-` instead of `>`"):
        check_words(tree, SOURCES, "params.yaml")


# What the Hub reads


def test_every_language_code_is_the_same_to_every_reader_of_yaml(bare: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    languages = [one + other for one in letters for other in letters]
    facts = facts_about(bare).model_copy(update={"languages": languages})
    front = front_matter(facts).split("---\n")[1]
    for read in (yaml.safe_load(front), YAML(typ="safe", pure=True).load(front)):
        assert read["language"] == languages
    assert ModelCard(write_card(facts).decode()).data.to_dict()["language"] == languages


@pytest.mark.parametrize(
    ("license", "read"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "MIT OR Apache-2.0"}),
    ],
)
def test_the_hub_is_told_a_licence_that_it_knows_and_the_data_sets_but_no_library(
    bare: Path, license: str, read: dict[str, str]
) -> None:
    """A library's name makes the Hub offer a snippet that loads the folder as a whole, which nothing can."""
    facts = with_words(bare, {"release.license": license})
    first = facts.sources[0].model_copy(update={"repository": "owner/on"})
    facts = facts.model_copy(update={"sources": [first, *facts.sources[1:]]})
    data = ModelCard(write_card(facts).decode()).data.to_dict()
    tags = {"language": ["en"], "datasets": ["owner/on"], "tags": ["everystep", "reproducible"]}
    assert data == read | tags


def test_the_card_of_a_fork_names_its_parent_to_people_and_to_the_hub(bare: Path) -> None:
    facts = facts_about(bare)
    digest, root = f"tensors-v1:{'ab' * 32}", "cd" * 32
    parent = AncestorFacts(
        release="theirs", version="1 *", release_sha256=root, model="m", step=64, tokens=65536, state_digest=digest
    )
    first = facts.models[0].model_copy(update={"steps": [96]})
    words = facts.release.model_copy(update={"base_model": "owner/theirs"})
    fork = {"release": words, "ancestors": [parent], "models": [first, *facts.models[1:]]}
    card = write_card(facts.model_copy(update=fork)).decode()
    data = ModelCard(card).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("owner/theirs", "finetune")
    assert "`m` at step 64 (65,536 tokens) of the release theirs 1 \\*: state" in card
    assert f"`{digest}`, SHA-256 of `release.json` `{root}`" in card
    assert "replay release --model mobilellm --from 64 --to 96  #" in card


def test_the_card_pulls_and_asks_for_steps_that_are_stored(bare: Path) -> None:
    facts = facts_about(bare)
    for steps, start, stop in (([0, 1, 2, 4, 8], 2, 4), ([0, 4, 8], 0, 4), ([0, 8], 0, 8)):
        first = facts.models[0].model_copy(update={"steps": steps})
        card = write_card(facts.model_copy(update={"models": [first, *facts.models[1:]]})).decode()
        assert f"pull release --model mobilellm --step {stop} --out mobilellm-{stop}\n" in card
        assert f"replay release --model mobilellm --from {start} --to {stop}  #" in card


def test_little_is_not_called_nothing() -> None:
    assert [percent(share) for share in (0, 1e-9, 0.0167, 1)] == ["0.0%", "under 0.1%", "1.7%", "100.0%"]


# What is built again


def test_a_corrected_title_builds_the_release_again_and_nothing_else(built_project: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    run(tmp_path, "cp", "--archive", str(built_project), str(project))
    before = read_json(project / "release" / "release.json")["files"]
    tree = load_yaml(project / "params.yaml")
    tree["descriptions"]["letters"] |= {"title": "Letters | ${sources} [corrected]", "attribution": "By nobody."}
    tree["release"]["title"] = "Corrected"
    (project / "params.yaml").write_bytes(pretty(tree))
    assert re.findall(r"^> (.*)$", repro(project, "--dry").stdout, re.M) == ["python -m pipeline.stages release"]
    run(project, sys.executable, "-m", "pipeline.stages", "release")
    changed = run(project, "git", "status", "--porcelain").stdout.split("\n")
    assert changed == [" M manifests/release.json", " M params.yaml", ""]
    after = read_json(project / "release" / "release.json")["files"]
    assert {path for path in before | after if before.get(path) != after.get(path)} == {
        "NOTICE",
        "README.md",
        "croissant.json",
        "disclosures/ab2013.md",
        "disclosures/training-content.json",
        "disclosures/training-content.md",
        "params.yaml",
        "report/index.html",
    }
    done = everystep("verify", project / "release")
    assert done.code == 0, done.said
    assert "| Letters \\| ${sources}" not in (project / "release" / "README.md").read_text()
    assert "Letters \\| \\${sources} \\[corrected\\] |" in (project / "release" / "README.md").read_text()


def test_what_is_said_of_published_rows_is_checked_and_not_fetched_with_them() -> None:
    tree = load_yaml(Path(__file__).parents[3] / "examples/amber/params.yaml")
    check_words_on_rows(tree, "params.yaml")
    assert not {"title", "license", "issuer", "evidence", "attribution"} & set(tree["rows"])
    del tree["descriptions"]["rows"]["license"]
    with pytest.raises(EverystepError, match=r"^params.yaml: descriptions\.rows\.license: missing; add it$"):
        check_words_on_rows(tree, "params.yaml")
    with pytest.raises(EverystepError, match=r"descriptions\.rows: missing; say its title"):
        check_words_on_rows({"descriptions": {}}, "params.yaml")


def test_words_of_a_release_that_params_would_refuse_are_no_release(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    path = release / "params.yaml"
    for change in (b"[]", b"{}", path.read_bytes().replace(b"The letters", b"\\u001b[31m")):
        path.write_bytes(change)
        with pytest.raises(EverystepError, match=r"params\.yaml: "):
            facts_about(release)
