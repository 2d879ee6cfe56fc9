"""A release on the Hub, with its own client against a hub on this machine."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.import_model import digest_folder
from pipeline.audit.verify import verify
from pipeline.base.errors import Differs, EverystepError
from pipeline.formats import checkpoints as ck
from pipeline.formats.release import ROOT, SUMS
from pipeline.publish.hub import publish_to_hub
from pipeline.release.release import Release
from tests.releases import copied, everystep
from tests.servers.faults import ALWAYS
from tests.servers.hub import OWNER, TOKEN, Hub, Manners, environment, running_hub

ADDRESS = f"hf://{OWNER}/demo"
MODEL, REVISION = f"{OWNER}/demo-mobilellm", "step000004-tokens1024"
MODELS = ("mobilellm", "openelm")


@pytest.fixture
def manners() -> Manners:
    return Manners()


@pytest.fixture
def hub(manners: Manners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and this process as its owner."""
    with running_hub(manners) as hub:
        for name, value in environment(hub.url, str(tmp_path / "hub-home"), TOKEN).items():
            monkeypatch.setenv(name, value)
        _point_client_at(hub, monkeypatch)
        yield hub


def _point_client_at(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reads its environment once, when it is imported."""
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def whole(hub: Hub, released: Path) -> None:
    """What is on the hub is the release, and each model with all its checkpoints."""
    assert verify(f"hf://datasets/{OWNER}/demo@v0.1.0").exit_code == 0
    for name in MODELS:
        repository = hub.repositories["models", f"{OWNER}/demo-{name}"]
        states = Release.open(released).states(name).values()
        assert set(repository.branches) == {"main", *(state.revision for state in states)}
        for state in states:
            record = json.loads(hub.read("models", f"{OWNER}/demo-{name}", state.revision, ck.RECORD))
            assert record == state.record.to_json()


def test_a_release_becomes_a_data_set_and_a_repository_for_each_model(hub: Hub, released: Path) -> None:
    done = publish_to_hub(Release.open(released), ADDRESS)
    assert done.repositories == [f"{OWNER}/demo", *(f"{OWNER}/demo-{name}" for name in MODELS)]
    assert done.revisions == 10
    whole(hub, released)


def test_each_checkpoint_is_loaded_by_name_and_is_the_one_that_was_trained(
    hub: Hub, released: Path, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    publish_to_hub(Release.open(released), ADDRESS)
    digests = set()
    for state in Release.open(released).states("mobilellm").values():
        folder = Path(snapshot_download(MODEL, revision=state.revision, local_dir=tmp_path / state.revision))
        found = digest_folder(folder)
        assert found.weights_digest == found.promised == state.record.weights_digest
        assert ck.read_verified(folder, ck.OPTIMIZER).keys()
        digests.add(found.weights_digest)
    assert len(digests) == 5
    final = Path(snapshot_download(MODEL, local_dir=tmp_path / "main"))
    assert digest_folder(final).weights_digest == Release.open(released).state("mobilellm", 8).record.weights_digest
    lines = (final / "revisions.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 4, 8]


def test_transformers_loads_a_revision_without_our_code(hub: Hub, released: Path, tmp_path: Path) -> None:
    from tests.project import run

    publish_to_hub(Release.open(released), ADDRESS)
    code = (
        "import transformers\n"
        f"model = transformers.AutoModelForCausalLM.from_pretrained({MODEL!r}, revision={REVISION!r})\n"
        f"tokenizer = transformers.AutoTokenizer.from_pretrained({MODEL!r}, revision={REVISION!r})\n"
        "print(type(model).__name__, tokenizer.decode(tokenizer('river')['input_ids']))\n"
    )
    more: Any = environment(hub.url, str(tmp_path / "reader"))
    done = run(tmp_path, "python", "-c", code, **more)
    assert done.stdout.split() == ["LlamaForCausalLM", "river"]


def test_what_is_published_twice_makes_no_commit(hub: Hub, released: Path) -> None:
    publish_to_hub(Release.open(released), ADDRESS)
    hub.counted.clear()
    assert publish_to_hub(Release.open(released), ADDRESS).commits == 0
    assert hub.counted.received("upload") == 0


def test_a_release_is_opened_by_its_data_set_by_a_tag_and_by_a_model(hub: Hub, released: Path, tmp_path: Path) -> None:
    publish_to_hub(Release.open(released), ADDRESS)
    for address in (f"hf://datasets/{OWNER}/demo", f"hf://datasets/{OWNER}/demo@v0.1.0", f"hf://{MODEL}@{REVISION}"):
        release = Release.open(address)
        assert release.state("mobilellm", 4).record.revision == REVISION
    out = tmp_path / "pulled"
    done = everystep("pull", f"hf://{MODEL}", "--model", "mobilellm", "--step", "4", "--out", out)
    assert done.code == 0, done.said
    assert digest_folder(out).promised == digest_folder(out).weights_digest


def test_only_what_is_asked_for_moves(hub: Hub, released: Path) -> None:
    publish_to_hub(Release.open(released), ADDRESS)
    hub.counted.clear()
    Release.open(f"hf://datasets/{OWNER}/demo").state("mobilellm", 4).weights()
    weights = released / f"runs/mobilellm/{REVISION}/model.safetensors"
    assert weights.stat().st_size <= hub.counted.sent() < weights.stat().st_size + 200_000


def test_a_snapshot_of_the_data_set_verifies_as_it_lies(hub: Hub, released: Path, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    publish_to_hub(Release.open(released), ADDRESS)
    folder = snapshot_download(f"{OWNER}/demo", repo_type="dataset", local_dir=tmp_path / "snapshot")
    report = verify(folder)
    assert (report.exit_code, report.faults, report.others) == (0, [], [])


def test_the_card_of_a_model_says_what_the_hub_asks_for(hub: Hub, released: Path) -> None:
    from huggingface_hub import ModelCardData
    from ruamel.yaml import YAML

    publish_to_hub(Release.open(released), ADDRESS)
    card = hub.read("models", MODEL, "main", "README.md").decode()
    metadata: Any = YAML(typ="safe").load(card.split("---\n")[1])
    data = ModelCardData(**metadata)
    assert data.datasets == [f"{OWNER}/demo"]
    assert data.language == ["en"]
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "text-generation")


def test_a_busy_hub_is_waited_for(hub: Hub, released: Path, manners: Manners) -> None:
    manners.every, manners.busy = 7, {"/commit/": [429] * 8}  # more often than anything that fails is tried
    publish_to_hub(Release.open(released), ADDRESS)
    manners.every = 0
    whole(hub, released)


def test_errors_and_cut_connections_are_gone_on_with(hub: Hub, released: Path, manners: Manners) -> None:
    manners.busy = {"/commit/": [500, 503, 502], "/preupload/": [500], "/branch/": [503]}
    manners.cut = {"PUT": [100, 5000]}
    publish_to_hub(Release.open(released), ADDRESS)
    whole(hub, released)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: Hub, released: Path, manners: Manners) -> None:
    manners.lost = {"/commit/": 3}
    publish_to_hub(Release.open(released), ADDRESS)
    whole(hub, released)
    main = hub.repositories["models", MODEL]
    assert len({main.branches[branch] for branch in main.branches}) == 6


def test_a_publication_that_is_broken_off_shows_no_release_and_is_gone_on_with(
    hub: Hub, released: Path, manners: Manners
) -> None:
    for after in ("demo-mobilellm/commit/step000002", "demo-openelm/commit/main", "datasets/owner/demo/tag"):
        manners.busy = {after: [400] * 9}
        with pytest.raises(EverystepError, match="run the command again"):
            publish_to_hub(Release.open(released), ADDRESS)
        if "/tag" not in after:
            assert ROOT not in hub.files("datasets", f"{OWNER}/demo")
        for name in MODELS:
            repository = hub.repositories.get(("models", f"{OWNER}/demo-{name}"))
            for branch in repository.branches if repository else ():
                files = set(hub.files("models", f"{OWNER}/demo-{name}", branch)) - {".gitattributes"}
                assert not files or ck.RECORD in files
                if files and branch != "main":
                    assert (
                        json.loads(hub.read("models", f"{OWNER}/demo-{name}", branch, ck.RECORD))["revision"] == branch
                    )
    manners.busy = {}
    publish_to_hub(Release.open(released), ADDRESS)
    whole(hub, released)


def test_another_release_of_the_same_version_is_refused(hub: Hub, released: Path, tmp_path: Path) -> None:
    publish_to_hub(Release.open(released), ADDRESS)
    other = copied(released, tmp_path / "other")
    (other / SUMS).write_bytes((other / SUMS).read_bytes() + b"\n")
    with pytest.raises(EverystepError, match="holds another SHA256SUMS; nothing there was changed"):
        publish_to_hub(Release.open(other), ADDRESS)
    whole(hub, released)


def test_a_later_version_keeps_the_earlier_one_under_tags(hub: Hub, released: Path, tmp_path: Path) -> None:
    publish_to_hub(Release.open(released), ADDRESS)
    later = copied(released, tmp_path / "later")
    root = json.loads((later / ROOT).read_bytes())
    (later / ROOT).write_text(json.dumps(root | {"version": "0.2.0"}))
    publish_to_hub(Release.open(later), ADDRESS)
    repository = hub.repositories["models", MODEL]
    assert {"v0.1.0", "v0.2.0", f"{REVISION}-v0.1.0"} <= set(repository.tags)
    for revision, version in ((REVISION, "0.2.0"), (f"{REVISION}-v0.1.0", "0.1.0"), ("main", "0.2.0")):
        assert json.loads(hub.read("models", MODEL, revision, "everystep.json"))["release_version"] == version
    assert verify(f"hf://datasets/{OWNER}/demo@v0.1.0").exit_code == 0
    before = [dict(each.branches) for each in hub.repositories.values()]
    with pytest.raises(EverystepError, match="is published already, and main holds another version"):
        publish_to_hub(Release.open(released), ADDRESS)
    assert [dict(each.branches) for each in hub.repositories.values()] == before


def test_a_hub_that_lies_about_digests_is_found_before_the_root_goes_out(
    hub: Hub, released: Path, manners: Manners
) -> None:
    manners.lies = ("oid",)
    with pytest.raises(Differs, match="the Hub has other bytes"):
        publish_to_hub(Release.open(released), ADDRESS)
    assert ROOT not in hub.files("datasets", f"{OWNER}/demo")


def test_a_hub_that_serves_other_bytes_gives_no_checkpoint(hub: Hub, released: Path, manners: Manners) -> None:
    publish_to_hub(Release.open(released), ADDRESS)
    weights = released / f"runs/mobilellm/{REVISION}/model.safetensors"
    manners.wrong = {weights.name: ALWAYS, "/objects/": ALWAYS, "/lfs/": ALWAYS, "GET": ALWAYS}
    with pytest.raises(EverystepError):
        Release.open(f"hf://datasets/{OWNER}/demo").state("mobilellm", 4).weights()


@pytest.mark.parametrize("token", ["", "hf_notAKnownToken"])
def test_a_token_that_is_missing_or_wrong_is_said_and_never_shown(
    hub: Hub, released: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(EverystepError) as caught:
        publish_to_hub(Release.open(released), ADDRESS)
    assert "HF_TOKEN" in str(caught.value)
    assert not token or token not in str(caught.value)


def test_the_token_is_in_nothing_that_was_published_or_kept(hub: Hub, released: Path, tmp_path: Path) -> None:
    publish_to_hub(Release.open(released), ADDRESS)
    Release.open(f"hf://datasets/{OWNER}/demo").file("README.md")
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if TOKEN.encode() in path.read_bytes()]
    for (kind, name), repository in hub.repositories.items():
        for branch in repository.branches:
            for path in hub.files(kind, name, branch):
                assert TOKEN.encode() not in hub.read(kind, name, branch, path)
    shutil.rmtree(tmp_path / "cache")
