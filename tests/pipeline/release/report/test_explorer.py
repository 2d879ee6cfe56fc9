"""The explorer in a real browser, on every kind of server: what it shows is what the release holds and the commands
print."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.audit.trace import trace_document, trace_step
from pipeline.audit.trace_text import step_texts
from pipeline.base.files import plain_lines
from pipeline.formats import log
from pipeline.formats.canonical import parse
from pipeline.formats.manifests import Tokens
from pipeline.release.release import Release
from tests.browser import needs_chromium, violations
from tests.pipeline.audit.test_serve import served
from tests.releases import copied, read_json, write_json
from tests.servers.web import serve_folder

pytestmark = needs_chromium
MODEL, STORED, OTHER = "mobilellm", 4, 6
HOSTILE = "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script>"


@pytest.fixture
def folder(built_project: Path) -> Path:
    return built_project / "release"


@pytest.fixture
def release(folder: Path) -> Release:
    return Release.open(folder)


@contextmanager
def shown(browser: Any, url: str, hash: str = "", **options: Any) -> Iterator[Any]:
    """A page with the explorer, once it has read what the address asks for."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(f"{url}/report/index.html{hash}")
    if options.get("java_script_enabled", True) and url.startswith("http"):
        wait(page)
    yield page
    context.close()


def wait(page: Any) -> None:
    """Wait until a step is shown, and a document, if there is one in the address."""
    page.wait_for_selector("#explorer-status:text-matches(' read |Not shown')")
    if "document=" in page.url:
        page.wait_for_selector("#explorer-document h4, #explorer-document p")


def pieces(page: Any) -> list[list[str]]:
    """Row, document, source, licence and ids of each piece that the page shows."""
    found: list[list[str]] = page.eval_on_selector_all(
        ".explorer-row",
        """rows => rows.flatMap(row => [...row.querySelectorAll(".explorer-piece")].map(piece => [
            row.querySelector("h4").firstChild.textContent.replaceAll(",", ""),
            ...[...piece.children].slice(0, 4).map(child => child.textContent)]))""",
    )
    return found


def texts(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(".explorer-tokens", "all => all.map(one => one.textContent)")
    return found


def traced(release: Release, step: int) -> list[list[str]]:
    """The pieces that `everystep trace` prints."""
    return [
        [f"Row {one['row']}", one["id"], one["source"], one["license"], f"ids {one['start']} to {one['stop'] - 1}"]
        for one in trace_step(release, MODEL, step)
    ]


@contextmanager
def python_server(folder: Path) -> Iterator[str]:
    """`python -m http.server`, which knows no ranges."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().split(' port ')[1].split()[0]}"
        finally:
            process.terminate()


@contextmanager
def everystep_serve(folder: Path) -> Iterator[str]:
    with served(folder) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    with serve_folder(folder) as web:
        yield web.url


@pytest.mark.parametrize("server", [everystep_serve, python_server, web_server])
def test_a_step_shows_the_documents_that_trace_prints_on_every_server(
    browser: Any, folder: Path, release: Release, server: Any
) -> None:
    with server(folder) as url, shown(browser, url, f"#model={MODEL}&step={STORED}") as page:
        all_pieces = traced(release, STORED)
        assert pieces(page) == all_pieces[: len(pieces(page))] != all_pieces
        page.click("text=Show 4 more of 8 rows")
        page.wait_for_selector(".explorer-row >> nth=7")
        assert pieces(page) == all_pieces
        assert texts(page) == [piece.text for row in step_texts(release, MODEL, STORED) for piece in row.pieces]
        page.click("#explorer-after")
        page.click("#explorer-after")
        page.wait_for_selector(f"#explorer-status:text-matches('^Step {OTHER} ')")
        assert page.url.endswith(f"#model={MODEL}&step={OTHER}")
        assert pieces(page) == traced(release, OTHER)[: len(pieces(page))] != []


def test_losses_of_tokens_are_those_of_the_record(browser: Any, folder: Path, release: Release) -> None:
    table = pq.read_table(release.file(f"results/{MODEL}/losses.parquet"))
    table = table.filter(np.array(table["split"].to_pylist()) == "train")
    states, guess = release.states(MODEL), np.log(release.manifest(Tokens).vocabulary)
    with everystep_serve(folder) as url, shown(browser, url, f"#model={MODEL}&step={STORED}") as page:
        rows = page.query_selector_all(".explorer-row:has([data-level])")
        assert rows
        for step in (STORED, 0):
            page.select_option("#explorer-shade", str([*states].index(step)))
            for row in rows:
                number = int(row.query_selector("h4").text_content().split()[1].replace(",", ""))
                exact = table.filter(np.array(table["row"].to_pylist()) == number)[states[step].revision].to_numpy()
                levels = row.eval_on_selector_all("[data-place]", "all => all.map(one => one.dataset.level)")
                assert levels[0] is None
                assert levels[1:] == [str(min(7, int(loss * 8 / guess))) for loss in np.rint(exact * 1000) / 1000]
        text = rows[0].query_selector(".explorer-text")
        text.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        number = int(rows[0].query_selector("h4").text_content().split()[1].replace(",", ""))
        exact = table.filter(np.array(table["row"].to_pylist()) == number)[states[0].revision].to_numpy()
        chosen = page.text_content(".explorer-chosen")
        told = page.text_content(".explorer-readout")
        assert page.get_attribute(".explorer-chosen", "data-place") == "4"
        assert told.startswith(f"{chosen} {np.rint(exact[3] * 1000) / 1000:.3f} nats, probability ")


def test_a_step_shows_its_log_its_samples_and_what_vouches_for_it(browser: Any, folder: Path, release: Release) -> None:
    entries = {entry.step: entry for entry in log.read(release.file(f"runs/{MODEL}/log.jsonl"))}
    samples = [parse(line, "samples") for line in plain_lines(release.file(f"results/{MODEL}/samples.jsonl"))]
    for step, start in ((STORED, 2), (OTHER, STORED)):
        with everystep_serve(folder) as url, shown(browser, url, f"#model={MODEL}&step={step}") as page:
            assert f"{entries[step].loss:.3f} nats" in page.text_content("#explorer-about")
            said = [sample for sample in samples if sample["step"] == STORED]
            quotes = page.eval_on_selector_all("#explorer-samples blockquote", "all => all.map(one => one.textContent)")
            assert quotes == [sample["prompt"] + sample["text"] for sample in said] != []
            verdict = page.text_content("#explorer-verdict")
            assert entries[step].weights_digest in verdict
            assert f"everystep replay {folder} --model {MODEL} --from {start} --to {step}" in verdict
            assert "This page has computed nothing of it." in verdict
            assert f"No receipt beside the release is about step {step}." in verdict


@pytest.mark.parametrize("server", [everystep_serve, python_server])
def test_a_document_that_is_found_was_read_at_the_steps_that_trace_prints(
    browser: Any, folder: Path, release: Release, server: Any
) -> None:
    read = [piece["id"] for step in (1, OTHER) for piece in trace_step(release, MODEL, step)]
    with server(folder) as url, shown(browser, url) as page:
        for id in (read[0], read[-1]):
            page.fill("#explorer-text", id[:-1])
            page.press("#explorer-text", "Enter")
            page.click(f"#explorer-results a:text-is('{id}')")
            page.wait_for_selector(f"#explorer-document h4:text-is('{id}')")
            for place, model in enumerate(release.models()):
                found = trace_document(release, model, id)
                item = page.query_selector_all("#explorer-document li")[place]
                assert [int(link.text_content()) for link in item.query_selector_all("a")] == found["steps"]
                last = found["first_checkpoint"]
                assert item.text_content().startswith(f"{model} read it at ")
                assert item.text_content().endswith(f"; first checkpoint after it: {last}" if last else "no step.")
        page.fill("#explorer-text", "ALES 11")
        page.press("#explorer-text", "Enter")
        page.wait_for_selector("#explorer-found:has-text('these words')")
        ids = page.eval_on_selector_all("#explorer-results a", "all => all.map(one => one.textContent)")
        index = pq.read_table(release.file("data/tokens/train.parquet"))["id"].to_pylist()
        assert ids == sorted(id for id in index if "ales" in id and "11" in id)[:20] != []
        page.fill("#explorer-text", "nothing like this")
        page.press("#explorer-text", "Enter")
        page.wait_for_selector("#explorer-found:has-text('No id of')")


def test_a_link_shows_the_same_view_and_nonsense_in_it_shows_the_last_step(browser: Any, folder: Path) -> None:
    with web_server(folder) as url:
        for hash in (
            "#model=openelm&step=3&document=nowhere%2F1",
            "#model=nobody&step=-1",
            "#model=openelm&step=1e9",
            "",
        ):
            with shown(browser, url, hash) as page:
                model = "openelm" if "openelm" in hash else page.input_value("#explorer-model")
                step = "3" if "step=3" in hash else "8"
                assert (page.input_value("#explorer-model"), page.input_value("#explorer-step")) == (model, step)
        with shown(browser, url, "#model=openelm&step=3") as page:
            page.select_option("#explorer-model", MODEL)
            page.wait_for_selector(f"#explorer-status:has-text('of {MODEL} read')")
            assert page.url.endswith(f"#model={MODEL}&step=3")
            page.go_back()
            page.wait_for_selector("#explorer-status:has-text('of openelm read')")
            assert page.input_value("#explorer-model") == "openelm"


def test_no_text_of_a_release_becomes_markup(browser: Any, folder: Path, tmp_path: Path) -> None:
    release = copied(folder, tmp_path / "release")
    tokenizer = read_json(release / "data/tokenizer/tokenizer.json")
    tokenizer["added_tokens"][0]["content"] = HOSTILE
    write_json(release / "data/tokenizer/tokenizer.json", tokenizer)
    quoted = HOSTILE.replace('"', '\\"')
    for path in (release / "results").rglob("samples.jsonl"):
        path.write_text(path.read_text().replace('"prompt":""', f'"prompt":"{quoted}"'))
    documents = release / "report/data/documents.jsonl"
    documents.write_text(documents.read_text().replace("CC0-1.0", "<b>C1.0"))
    with web_server(release) as url, shown(browser, url, f"#model={MODEL}&step={STORED}") as page:
        page.click("text=Show 4 more of 8 rows")
        page.wait_for_selector(".explorer-row >> nth=7")
        assert HOSTILE in "".join(texts(page))
        assert HOSTILE in page.text_content("#explorer-samples")
        assert pieces(page)[0][3] == "<b>C1.0"
        assert page.query_selector_all("#explorer img, #explorer script:not([type=module]), #explorer b") == []
        assert page.title() != "harmed"


def test_damage_and_absence_are_said_in_a_sentence(browser: Any, folder: Path, tmp_path: Path) -> None:
    release = copied(folder, tmp_path / "release")
    (release / f"report/data/{MODEL}.losses").unlink()
    (release / "data/search/000000.ids").unlink()
    with web_server(release) as url, shown(browser, url, f"#model={MODEL}&step={STORED}") as page:
        assert page.text_content("#explorer-status") == "Not shown: data/search/000000.ids is not on this server."


def test_without_a_server_or_without_javascript_the_page_says_what_the_explorer_needs(
    browser: Any, folder: Path
) -> None:
    with shown(browser, folder.resolve().as_uri()) as page:
        assert page.is_visible("#explorer-off") and not page.is_visible("#explorer-on")
        assert "everystep serve RELEASE" in page.text_content("#explorer-off")
    with web_server(folder) as url, shown(browser, url, java_script_enabled=False) as page:
        assert page.is_visible("#explorer-off") and not page.is_visible("#explorer-on")


def test_nothing_is_asked_of_another_server_and_only_this_script_runs(browser: Any, folder: Path) -> None:
    asked: list[str] = []
    with everystep_serve(folder) as url:
        context = browser.new_context()
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/#model={MODEL}&step={STORED}")
        wait(page)
        assert f"{url}/data/tokenizer/tokenizer.json" in asked
        assert all(address.startswith((url, "data:")) for address in asked)
        page.evaluate(
            "() => document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
        )
        assert page.title() != "1"
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_needs_no_sideways_scrolling(browser: Any, folder: Path, scheme: str) -> None:
    with everystep_serve(folder) as url:
        phone = {"width": 360, "height": 740}
        options = {"color_scheme": scheme, "viewport": phone}
        with shown(browser, url, f"#model={MODEL}&step={STORED}&document=tales%2F011", **options) as page:
            page.focus(".explorer-text[tabindex]")
            page.keyboard.press("ArrowRight")
            assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
            assert violations(page) == []
