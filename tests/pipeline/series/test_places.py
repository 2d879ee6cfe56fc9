"""Series in folders, in object stores, in lists of links and in our own releases."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import sha256_file
from pipeline.formats.release import ROOT
from pipeline.publish.hub import publish_to_hub
from pipeline.release.release import Release
from pipeline.series.lint import Linted, lint
from tests.pipeline.series import published
from tests.pipeline.series.published import PYTHIA, Branches
from tests.releases import copied, everystep, reseal, reseal_model
from tests.servers import stores
from tests.servers.faults import Faults
from tests.servers.hub import OWNER, TOKEN, Hub
from tests.servers.web import serve_folder

STEPS = PYTHIA[:20]


def write(folder: Path, branches: Branches) -> Path:
    """A folder for each checkpoint; `main` is left out, as no folder has that meaning."""
    for name, files in branches.items():
        for path, content in files.items():
            if name != "main":
                (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / name / path).write_bytes(content)
    return folder


def said(found: Linted) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.kind, finding.revisions) for finding in found.findings]


def test_a_folder_is_read_without_any_digest_of_its_own(tmp_path: Path) -> None:
    branches = published.clean(STEPS)
    assert lint(str(write(tmp_path / "clean", branches))).findings == ()
    branches["step16"]["model.safetensors"] = branches["step64"]["model.safetensors"]
    branches["step2000"]["config.json"] = json.dumps({"num_hidden_layers": 1}).encode()
    del branches["step4000"]
    found = lint(f"file://{write(tmp_path / 'wrong', branches)}")
    assert [kind for kind, _ in said(found)] == ["same weights", "missing step", "config"]
    assert found.findings[0].revisions == ("step16", "step64")
    digest = found.findings[0].evidence[0].digest
    done = everystep("lint", tmp_path / "wrong", "--report")
    (command, _) = [line for line in done.out.splitlines() if line.startswith("sha256sum") and "safetensors" in line]
    assert (
        digest
        and digest.removeprefix("sha256:")
        in subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout
    )


def test_large_files_that_differ_at_once_are_not_read_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.series import tree

    monkeypatch.setattr(tree, "BLOCK_BYTES", 1 << 16)
    size = 1 << 20
    for step in range(4):
        path = tmp_path / f"ckpt_{step}" / "weights.pt"
        path.parent.mkdir()
        path.write_bytes(bytes([step // 2]) * size)
    read: list[int] = []
    real = Path.open

    def counted(self: Path, *arguments: Any) -> Any:
        read.append(1)
        return real(self, *arguments)

    monkeypatch.setattr(Path, "open", counted)
    found = lint(str(tmp_path))
    assert said(found) == [("no update", ("ckpt_0", "ckpt_1")), ("same weights", ("ckpt_2", "ckpt_3"))]
    assert len(read) <= 4 * size // (1 << 16) + 8


def test_files_of_weights_that_have_a_step_in_their_own_names_are_checkpoints(tmp_path: Path) -> None:
    for step in (100, 200, 300, 500, 600, 700):
        (tmp_path / f"model_step{step}.pt").write_bytes(b"%d" % step)
    found = lint(str(tmp_path))
    assert found.collection.series[0].title == "model_step#.pt"
    assert [finding.steps for finding in found.findings] == [(400,)]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[stores.Store]:
    with stores.s3() as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.address)
        yield store


def test_in_an_object_store_equal_tags_show_copies_and_are_never_called_a_sha256(s3: stores.Store) -> None:
    branches = published.clean(STEPS)
    branches["step16"]["model.safetensors"] = branches["step64"]["model.safetensors"]
    branches["step32"]["config.json"] = json.dumps({"num_hidden_layers": 1}).encode()
    for name, files in branches.items():
        for path, content in files.items():
            if name != "main":
                s3.put(f"runs/{name}/{path}", content)
    found = lint(f"s3://{stores.BUCKET}/runs")
    assert [kind for kind, _ in said(found)] == ["same weights", "config"]
    assert found.findings[0].revisions == ("step16", "step64")
    assert found.findings[0].evidence[0].digest and found.findings[0].evidence[0].digest.startswith("etag:")
    assert any("keeps no digests" in limit for limit in found.limits)
    assert s3.hide
    s3.hide("runs/step32/config.json")
    found = lint(f"s3://{stores.BUCKET}/runs")
    assert ("not readable", ("step32/config.json",)) in said(found)
    assert ("same weights", ("step16", "step64")) in said(found)


def table(url: str, steps: list[int]) -> str:
    """As OLMo publishes its checkpoints."""
    lines = [f"{step},{url}/ai2-llm/peteish7/step{step}-unsharded/" for step in steps]
    return "\n".join(["Step,Checkpoint Directory", *lines, ""])


def test_links_of_a_table_that_answer_404_are_named(tmp_path: Path) -> None:
    """OLMo-core#729."""
    steps = list(range(0, 40_000, 1000))
    for step in steps:
        if step not in (3000, 5000):
            config = tmp_path / f"web/ai2-llm/peteish7/step{step}-unsharded/config.yaml"
            config.parent.mkdir(parents=True)
            config.write_text("model: {}\n")
    faults = Faults(busy={"step7000-unsharded/": [403] * 9})
    with serve_folder(tmp_path / "web", faults) as web:
        (tmp_path / "web/links.csv").write_text(table(web.url, steps))
        (tmp_path / "links.csv").write_text(table(web.url, steps))
        prefix = f"{web.url}/ai2-llm/peteish7/step"
        for address in (str(tmp_path / "links.csv"), f"{web.url}/links.csv"):
            faults.busy["step7000-unsharded/"] = [403] * 9
            found = lint(address)
            dead = [finding.revisions for finding in found.findings if finding.kind == "dead link"]
            assert dead == [(f"{prefix}3000-unsharded/", f"{prefix}5000-unsharded/")]
            denied = [finding.revisions for finding in found.findings if finding.kind == "not readable"]
            assert denied == [(f"{prefix}7000-unsharded/",)]
            assert {finding.kind for finding in found.findings} == {"dead link", "not readable"}
            assert any("only the answer was looked at" in limit for limit in found.limits)


def test_a_table_of_which_every_link_is_dead_is_one_finding(tmp_path: Path) -> None:
    with serve_folder(tmp_path) as web:
        (tmp_path / "links.csv").write_text(table(web.url, list(range(0, 9000, 1000))))
        done = everystep("lint", tmp_path / "links.csv")
    assert done.code == 1
    assert done.out.startswith(f"{tmp_path / 'links.csv'}: 1 finding: 9 names not read\n")


def test_a_page_of_a_web_server_is_a_list_of_links(tmp_path: Path) -> None:
    write(tmp_path, published.clean([0, 1, 2, 4, 8]))
    with serve_folder(tmp_path) as web:
        found = lint(f"{web.url}/")
    assert found.collection.series[0].steps == [0, 1, 2, 4, 8]
    assert found.findings == ()


def test_a_list_may_name_repositories_of_which_one_is_private(hub: Hub, tmp_path: Path) -> None:
    steps = [10, 20, 30, 40, 60]
    for step in steps:
        files = {**published.SMALL, "model.safetensors": published.weights(step)}
        hub.put_branches("models", f"{OWNER}/tiny-step-{step}k", {"main": files})
    hub.repositories["models", f"{OWNER}/tiny-step-30k"].is_private = True
    (tmp_path / "list.txt").write_text("".join(f"hf://{OWNER}/tiny-step-{step}k\n" for step in steps))
    found = lint(str(tmp_path / "list.txt"))
    assert said(found) == [("missing step", ()), ("not readable", (f"hf://{OWNER}/tiny-step-30k",))]
    assert found.findings[0].steps == (50_000,)


def test_our_release_is_clean_in_a_folder_and_on_the_web(built_project: Path) -> None:
    release = built_project / "release"
    root = f"#sha256={sha256_file(release / ROOT)}"
    with serve_folder(release) as web:
        for address in (str(release), web.url, f"{release}{root}", f"{web.url}{root}"):
            found = lint(address)
            assert found.findings == ()
            assert [series.title for series in found.collection.series] == ["mobilellm", "openelm"]
            assert len(list(found.collection.checkpoints())) == 10
    with pytest.raises(Differs, match="has the SHA-256"):
        lint(f"{release}#sha256={'0' * 64}")


def test_a_broken_server_is_asked_again_and_in_the_end_not_cleared(built_project: Path) -> None:
    with serve_folder(built_project / "release") as web:
        web.faults.busy = {"mobilellm/step000000-tokens0/model.safetensors": [503, 503]}
        assert lint(web.url).findings == ()
        web.faults.busy = {"mobilellm/step000000-tokens0/model.safetensors": [503] * 99}
        found = lint(web.url, links=True)
    assert said(found) == [("not readable", ("runs/mobilellm/step000000-tokens0/model.safetensors",))]


def test_our_release_is_clean_on_the_hub_as_a_data_set_and_as_branches_of_its_models(
    hub: Hub, built_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    publish_to_hub(Release.open(built_project / "release"), f"hf://{OWNER}/demo")
    monkeypatch.delenv("HF_TOKEN")
    models = lint(f"hf://datasets/{OWNER}/demo")
    branches = lint(f"hf://{OWNER}/demo-mobilellm")
    assert (models.findings, branches.findings) == ((), ())
    assert [len(series.checkpoints) for series in models.collection.series] == [5, 5]
    assert [series.steps for series in branches.collection.series] == [[0, 1, 2, 4, 8]]
    assert branches.collection.main is not None


def test_a_copy_in_our_release_is_found_from_its_manifests(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    folders = sorted((release / "runs/mobilellm").glob("step*"))
    shutil.copyfile(folders[1] / "model.safetensors", folders[3] / "model.safetensors")
    reseal_model(release, "mobilellm")
    reseal(release)
    found = lint(str(release))
    assert said(found) == [("same weights", tuple(f"runs/mobilellm/{folders[place].name}" for place in (1, 3)))]


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{", b"\2" + b"\0" * 7 + b"[]", published.weights(1)[:-1]]
)
def test_a_header_that_cannot_be_read_is_not_cleared(tmp_path: Path, content: bytes) -> None:
    branches = published.clean([0, 1, 2, 4, 8])
    branches["step4"]["model.safetensors"] = content
    found = lint(str(write(tmp_path, branches)))
    if content == published.weights(1)[:-1]:
        assert found.findings == ()  # its header is right, and nobody read to the end
    else:
        assert said(found) == [("not readable", ("step4/model.safetensors",))]


@pytest.mark.parametrize("text", ["", "no link here", "https://example.org/v1.0"])
def test_a_list_without_a_step_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.md").write_text(text)
    with pytest.raises(EverystepError, match="no checkpoint there"):
        lint(str(tmp_path / "list.md"))


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match="no such folder or file"):
        lint(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EverystepError, match="no checkpoint there"):
        lint(str(tmp_path / "empty"))


def test_what_is_no_file_is_not_cleared(tmp_path: Path) -> None:
    folder = write(tmp_path, published.clean([0, 1, 2, 4, 8]))
    (folder / "step16").symlink_to("step8")
    (folder / "latest").symlink_to("step8")
    (folder / "step4/vocab.json").symlink_to("nowhere")
    os.mkfifo(folder / "step8/extra.safetensors")
    (folder / "notes").symlink_to("nowhere")  # of no step
    found = lint(str(folder))
    assert said(found) == [
        ("dead link", ("step4/vocab.json",)),
        ("not readable", ("step16",)),
        ("not readable", ("step8/extra.safetensors",)),
    ]
    assert "links to folders are not followed: latest" in found.limits


def test_what_cannot_be_read_is_named_in_the_table(tmp_path: Path) -> None:
    branches = published.clean([0, 1, 2, 4, 8])
    branches["step4"]["model.safetensors"] = b"five!"
    done = everystep("lint", write(tmp_path, branches))
    assert done.code == 1
    assert "step4/model.safetensors: not a readable safetensors file: it ends after 5 bytes" in done.out


def test_a_name_adds_no_line(tmp_path: Path) -> None:
    branches = published.clean([0, 1, 2, 4, 8])
    branches["step16\nnothing found"] = branches.pop("step8")
    done = everystep("lint", write(tmp_path, branches))
    assert (done.code, [line for line in done.out.splitlines() if line.startswith("nothing found")]) == (1, [])


def test_a_server_that_answers_anything_with_a_page_has_no_release(tmp_path: Path) -> None:
    write(tmp_path, published.clean([0, 1, 2, 4, 8]))
    (tmp_path / ROOT).write_text("<!DOCTYPE html><title>not found</title>")
    with serve_folder(tmp_path) as web:
        assert lint(f"{web.url}/").collection.series[0].steps == [0, 1, 2, 4, 8]
