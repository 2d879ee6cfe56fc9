"""The page of a release: the same bytes for the same evidence, words of people as text, and nothing from outside."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.log import Entry
from pipeline.formats.scores import Score
from pipeline.release.comparison import Siblings
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.markup import Column, Marked, element, markup, outside, table
from pipeline.release.report.page import policy, write_report
from pipeline.release.report.trainings import thinned
from tests.releases import evidence_of

EMPTY = {"meta", "link", "rect", "path", "circle", "polyline"}


class Outline(HTMLParser):
    """What a parser finds: open elements at the end, ids, headings in their order, texts, and links."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self.open += [] if tag == "input" else [tag]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY, tag
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open and "script" not in self.open else ""

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [str(has[name]) for found, has in self.found if name in has and tag in (None, found)]


@pytest.fixture(scope="module")
def evidence(built_project: Path) -> Evidence:
    return evidence_of(built_project / "release")


def test_the_page_is_whole_and_its_links_lead_somewhere(built_project: Path, evidence: Evidence) -> None:
    page = write_report(evidence)
    assert page == write_report(evidence) == (built_project / "release/report/index.html").read_bytes()
    outline = Outline(page)
    assert outline.open == []
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby",):
        assert set(outline.values(name)) <= set(ids)
    for href in outline.values("href", "a"):
        inside, file = href.removeprefix("#"), href.removeprefix("../")
        assert inside in ids or href.startswith("https://") or (built_project / "release" / file).is_file(), href
    levels = [int(tag[1]) for tag, _ in outline.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for model in evidence.models:
        assert f"everystep pull RELEASE --model {model.name} --step {model.steps[-1]}" in outline.text


def test_a_browser_may_load_nothing_and_run_only_what_the_page_holds(evidence: Evidence) -> None:
    page = write_report(evidence).decode()
    rules = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert len(rules) == 1 and "default-src 'none'" in rules[0] and "unsafe" not in rules[0]
    for tag in ("style", "script"):
        for content in re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.S):
            assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in rules[0]
    assert not re.search(r'\s(style|on\w+|src)="', page)
    assert "connect-src" not in policy("<style>a</style>")
    assert policy("<script>a</script>").endswith("connect-src 'self'")


SAID = "a <script>alert(1)</script> & \"b\" 'c' {d} \u202fe"


def test_words_of_people_are_text(evidence: Evidence) -> None:
    words = evidence.release.model_copy(update={"title": SAID, "publisher": SAID, "limits": f"{SAID}\n\n{SAID}"})
    source = evidence.sources[0].model_copy(update={"title": SAID, "issuer": SAID, "evidence": "javascript:alert(1)"})
    sources = [source, *evidence.sources[1:]]
    changed = evidence.model_copy(update={"release": words, "sources": sources})
    page = write_report(changed)
    outline, before = Outline(page), Outline(write_report(evidence))
    assert [tag for tag, _ in outline.found].count("script") == [tag for tag, _ in before.found].count("script")
    assert outline.text.count(SAID) >= 6
    assert not any(href.startswith("javascript") for href in outline.values("href"))


@given(st.text(), st.text())
def test_a_text_in_an_element_is_read_back_as_it_was(content: str, value: str) -> None:
    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert attributes == [("title", value)]

        def handle_data(self, data: str) -> None:
            said.append(data)

    said: list[str] = []
    Reader().feed(f"{element('p', content, title=value)}")
    assert "".join(said) == content


def test_a_table_names_itself_its_columns_and_its_rows() -> None:
    drawn = table("What & where", ["name", Column("number", True)], [["a", 1234], [Marked("b", "c"), None]])
    assert '<caption id="table-what-where">What &amp; where</caption>' in drawn
    assert 'aria-labelledby="table-what-where"' in drawn and 'tabindex="0"' in drawn
    assert '<th scope="col">name</th>' in drawn and '<th scope="col" class="n">number</th>' in drawn
    assert '<th scope="row">a</th>' in drawn and '<td class="n">1,234</td>' in drawn
    assert '<th scope="row" class="c">b</th>' in drawn and '<td class="n"></td>' in drawn


def test_only_an_address_of_the_web_becomes_a_link() -> None:
    assert outside("https://a.example/b?c=d&e").startswith('<a href="https://a.example/b?c=d&amp;e"')
    for text in ("javascript:alert(1)", "LICENSE", "see https://a.example", "data:text/html,a", "http://a b"):
        assert outside(text) == markup(text)


def test_a_long_log_becomes_a_short_curve_of_means() -> None:
    def entry(step: int) -> Entry:
        digests: Any = {"weights_digest": None}
        return Entry(step=step, tokens=8 * step, loss=step, gradient_norm=2 * step, learning_rate=1 / step, **digests)

    curve = list(thinned(map(entry, range(1, 1001)), 1000, most=100))
    assert len(curve) == 100 and [point.step for point in curve] == list(range(10, 1001, 10))
    assert (curve[0].loss, curve[0].gradient_norm, curve[0].learning_rate, curve[0].tokens) == (5.5, 11.0, 0.1, 80)
    assert [point.loss for point in thinned(map(entry, range(1, 4)), 3)] == [1, 2, 3]
    assert [point.step for point in thinned(map(entry, range(1, 12)), 11, most=5)] == [3, 6, 9, 11]


def test_siblings_have_one_colour_and_the_table_of_seeds(evidence: Evidence) -> None:
    one, other = (model.name for model in evidence.models[:2])
    alone = evidence.model_copy(update={"siblings": Siblings(seeds=[], weights=[], orders=[])})
    alike = Siblings(seeds=[[one, other]], weights=[[one, other]], orders=[])
    text = Outline(write_report(alone)).text
    assert "No two models here differ only in a seed" in text and "Models that differ in seeds alone" not in text
    page = write_report(evidence.model_copy(update={"siblings": alike}))
    assert "Models that differ in seeds alone" in Outline(page).text
    assert b'class="line c0 sibling"' in page and b"line c1" not in page


def test_scores_are_in_the_order_of_the_papers_with_chance_and_noise(evidence: Evidence) -> None:
    def score(task: str, value: float, metric: str = "acc", chance: float | None = 0.25) -> Score:
        about: dict[str, Any] = {"revision": "step000001-tokens1", "step": 1, "too_long": 0, "within_noise": None}
        return Score(task=task, metric=metric, value=value, standard_error=0.02, items=100, chance=chance, **about)

    scores = {
        model.name: [
            *(score(task, 0.26 + 0.4 * place) for task in ("sciq", "winogrande", "arc_easy")),
            score("arc_easy", 3.0 + place, "bits_per_byte", None),
        ]
        for place, model in enumerate(evidence.models)
    }
    page = write_report(evidence.model_copy(update={"scores": scores})).decode()
    papers = page[page.index("in the order of columns of the papers") :]
    assert papers.index("ARC-e") < papers.index("WinoGrande") < papers.index("average") < papers.index("SciQ")
    assert '<td class="n noise">26.0<small> ± 2.0</small></td>' in papers
    assert '<td class="n best">66.0<small> ± 2.0</small></td>' in papers
    assert "Bits per byte of the right answers" in papers and '<td class="n soft">25.0</td>' in papers
