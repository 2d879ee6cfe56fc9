"""The hub of the tests as its clients see it: the real `huggingface_hub`, the command `hf`, and transformers."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    hf_hub_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from tests.project import run
from tests.servers.faults import ALWAYS
from tests.servers.hub import OWNER, TOKEN, Hub, environment, running_hub
from tests.trainer.exports import build, read_spec, write_pulled

MODEL, DATA = f"{OWNER}/model", f"{OWNER}/data"
WEIGHTS = bytes(range(256)) * 400
SMALL = b'{"a": 1}\n'


@pytest.fixture(autouse=True)
def plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of this process speak HTTP, do not wait long before they ask again, and use no proxy."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


@pytest.fixture
def api(hub: Hub) -> HfApi:
    """The client of the owner, with one model repository."""
    client = HfApi(endpoint=hub.url, token=TOKEN)
    client.create_repo(MODEL)
    return client


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def publish(api: HfApi, revision: str = "main", weights: bytes = WEIGHTS) -> str:
    """Commit a small and a large file; gives the id of the commit."""
    files = [add("config.json", SMALL), add("step/model.safetensors", weights)]
    return api.create_commit(MODEL, files, commit_message="files", revision=revision).oid


def listed(api: HfApi, path: str) -> RepoFile:
    """What the hub says of one file."""
    (file,) = api.get_paths_info(MODEL, path)
    assert isinstance(file, RepoFile)
    return file


def sha256_listed(api: HfApi, path: str) -> tuple[int, str]:
    """(size, SHA-256) of a large file, as the hub says."""
    lfs = listed(api, path).lfs
    assert lfs is not None
    return lfs.size, lfs.sha256


def download(hub: Hub, folder: Path, path: str, revision: str = "main") -> bytes:
    """A file as `hf_hub_download` brings it, with a cache in `folder`."""
    place = hf_hub_download(MODEL, path, revision=revision, cache_dir=folder, endpoint=hub.url, token=False)
    return Path(place).read_bytes()


# Repositories


def test_models_and_data_sets_of_one_name_are_two_repositories(hub: Hub, api: HfApi) -> None:
    assert api.whoami()["name"] == OWNER
    assert api.create_repo(MODEL, repo_type="dataset").repo_type == "dataset"
    publish(api)
    assert hub.files("datasets", MODEL) == [".gitattributes"]
    assert hub.files("models", MODEL) == [".gitattributes", "config.json", "step/model.safetensors"]
    assert [model.id for model in api.list_models(author=OWNER)] == [MODEL]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(MODEL)
    assert api.create_repo(MODEL, exist_ok=True).repo_id == MODEL
    api.delete_repo(MODEL, repo_type="dataset")
    assert not api.repo_exists(MODEL, repo_type="dataset")


def test_branches_and_tags_point_at_commits(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    start = api.repo_info(MODEL).sha
    api.create_branch(MODEL, branch="step1-tokens2", revision=start)
    api.create_branch(MODEL, branch="step1-tokens2", exist_ok=True)
    commit = publish(api, "step1-tokens2")
    api.create_tag(MODEL, tag="v1", revision="step1-tokens2")
    refs = api.list_repo_refs(MODEL)
    assert {branch.name: branch.target_commit for branch in refs.branches} == {"main": start, "step1-tokens2": commit}
    assert [(tag.name, tag.ref, tag.target_commit) for tag in refs.tags] == [("v1", "refs/tags/v1", commit)]
    for revision in ("step1-tokens2", "v1", commit):
        assert download(hub, tmp_path, "config.json", revision) == SMALL
    assert [one.title for one in api.list_repo_commits(MODEL, revision="v1")] == ["files", "initial commit"]
    api.delete_branch(MODEL, branch="step1-tokens2")
    with pytest.raises(RevisionNotFoundError):
        download(hub, tmp_path / "other", "config.json", "step1-tokens2")
    assert api.revision_exists(MODEL, "v1")


def test_ids_of_commits_are_functions_of_content_and_parent() -> None:
    ids = []
    for _ in range(2):
        with running_hub() as hub:
            api = HfApi(endpoint=hub.url, token=TOKEN)
            api.create_repo(MODEL)
            ids.append([publish(api), publish(api, weights=b"others")])
    assert ids[0] == ids[1]
    assert ids[0][0] != ids[0][1]


# Commits


def test_a_commit_on_a_parent_that_is_not_the_head_is_refused(hub: Hub, api: HfApi) -> None:
    start = api.repo_info(MODEL).sha
    publish(api)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(MODEL, [add("late", b"")], commit_message="late", parent_commit=start)
    assert "late" not in hub.files("models", MODEL)


def test_equal_bytes_are_uploaded_once_and_copied_by_the_server(hub: Hub, api: HfApi) -> None:
    publish(api)
    api.create_branch(MODEL, branch="other")
    hub.counted.clear()
    copies = [CommitOperationCopy(path, f"copy/{path}", src_revision="main") for path in hub.files("models", MODEL)]
    api.create_commit(MODEL, copies, commit_message="copies", revision="other")
    assert hub.counted.of("upload", "download") == []
    assert hub.read("models", MODEL, "other", "copy/step/model.safetensors") == WEIGHTS
    api.create_commit(MODEL, [add("again.safetensors", WEIGHTS)], commit_message="again", revision="other")
    assert hub.counted.of("upload") == []
    api.create_commit(MODEL, [CommitOperationDelete("copy/")], commit_message="no copies", revision="other")
    assert "again.safetensors" in hub.files("models", MODEL, "other")
    assert not [path for path in hub.files("models", MODEL, "other") if path.startswith("copy/")]


def test_files_that_a_repository_has_are_not_committed_again(hub: Hub, api: HfApi) -> None:
    first = publish(api)
    assert publish(api) == first
    assert len(hub.counted.of("commit")) == 1


def test_large_files_are_uploaded_in_parts_that_the_hub_asks_for(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.manners.part_bytes = 40000
    publish(api)
    assert len(hub.counted.of("upload_part")) == 3
    assert hub.counted.received("upload_part") == len(WEIGHTS)
    assert download(hub, tmp_path, "step/model.safetensors") == WEIGHTS


# Reading


def test_listings_come_in_pages_and_say_the_digests_of_large_files(hub: Hub, api: HfApi) -> None:
    many = [add(f"many/{number:02d}.txt", b"%d" % number) for number in range(25)]
    api.create_commit(MODEL, many, commit_message="many")
    publish(api)
    hub.manners.page = 10
    tree = list(api.list_repo_tree(MODEL, recursive=True, expand=True))
    assert len(tree) == len({item.path for item in tree}) == 25 + 2 + 3
    assert len(hub.counted.of("tree")) == 3
    assert sorted(api.list_repo_files(MODEL)) == hub.files("models", MODEL)
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert sha256_listed(api, "step/model.safetensors") == (len(WEIGHTS), sha256)
    assert api.get_paths_info(MODEL, ["absent"]) == []
    info = api.model_info(MODEL, files_metadata=True)
    assert info.siblings is not None
    assert [file.lfs.sha256 for file in info.siblings if file.lfs] == [sha256]


def test_a_file_system_lists_globs_and_reads_ranges(hub: Hub, api: HfApi) -> None:
    publish(api)
    files = HfFileSystem(endpoint=hub.url, token=TOKEN, skip_instance_cache=True, use_listings_cache=False)
    assert files.glob(f"{MODEL}@main/**/*.safetensors") == [f"{MODEL}@main/step/model.safetensors"]
    assert files.ls(f"{MODEL}/step", detail=False) == [f"{MODEL}/step/model.safetensors"]
    hub.counted.clear()
    with files.open(f"{MODEL}/step/model.safetensors", "rb", block_size=1000) as file:
        file.seek(70000)
        assert file.read(10) == WEIGHTS[70000:70010]
    assert hub.counted.sent("download") < 20000
    assert files.cat_ranges([f"{MODEL}/config.json"], [2], [5]) == [SMALL[2:5]]


def test_a_snapshot_is_the_files_of_a_revision(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    publish(api)
    api.snapshot_download(MODEL, local_dir=tmp_path / "folder")
    cached = Path(api.snapshot_download(MODEL, cache_dir=tmp_path / "cache", token=False))
    for folder in (tmp_path / "folder", cached):
        assert (folder / "step/model.safetensors").read_bytes() == WEIGHTS
        assert (folder / "config.json").read_bytes() == SMALL


def test_ranges_are_answered_as_the_standard_says(hub: Hub, api: HfApi) -> None:
    publish(api)
    for path, content in {"config.json": SMALL, "step/model.safetensors": WEIGHTS}.items():
        address = f"{hub.url}/{MODEL}/resolve/main/{path}"
        for wanted, part in {"bytes=2-4": content[2:5], "bytes=5-": content[5:], "bytes=-3": content[-3:]}.items():
            answer = httpx2.get(address, headers={"Range": wanted}, follow_redirects=True)
            assert (answer.status_code, answer.content) == (206, part)
        assert httpx2.get(address, headers={"Range": "bytes=999999-"}, follow_redirects=True).status_code == 416


# Who may


def test_tokens_decide_who_writes(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.manners.users["hf_guest"] = "guest"
    hub.manners.readers = ("hf_reader",)
    hub.manners.users["hf_reader"] = OWNER
    publish(api)
    for token, status in (("hf_wrong", "401"), (False, "401"), ("hf_guest", "403"), ("hf_reader", "403")):
        other = HfApi(endpoint=hub.url, token=token)
        with pytest.raises(HfHubHTTPError, match=status):
            other.create_commit(MODEL, [add("intruder", b"")], commit_message="no")
        with pytest.raises(HfHubHTTPError, match=status):
            other.create_repo(f"{OWNER}/other")
    assert "intruder" not in hub.files("models", MODEL)


def test_gated_and_private_repositories_are_for_those_who_may_read_them(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    publish(api)
    hub.manners.gated[MODEL] = "hf_allowed"
    with pytest.raises(GatedRepoError):
        download(hub, tmp_path, "config.json")
    assert hf_hub_download(MODEL, "config.json", cache_dir=tmp_path, endpoint=hub.url, token="hf_allowed")
    api.create_repo(DATA, repo_type="dataset", private=True)
    assert api.repo_exists(DATA, repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token=False).dataset_info(DATA)


def test_credentials_stay_on_the_hub(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    """As on the real one: large files are somewhere else, where the token is nobody's business."""
    publish(api)
    hf_hub_download(MODEL, "step/model.safetensors", cache_dir=tmp_path, endpoint=hub.url, token=TOKEN)
    assert all(request.token for request in hub.counted.of("resolve"))
    assert not any(request.token for request in hub.counted.of("upload", "download"))


# Faults


def test_refusals_and_bursts_of_errors_are_waited_for(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.manners.busy = {"PUT /objects/": [503, 500], "/preupload/": [429], "GET /objects/": [429]}
    publish(api)
    assert download(hub, tmp_path, "step/model.safetensors") == WEIGHTS
    statuses = [request.status for request in hub.counted.requests]
    assert [statuses.count(status) for status in (429, 500, 503)] == [2, 1, 1]


def test_an_answer_can_be_too_late(hub: Hub, api: HfApi) -> None:
    hub.manners.slow = {"/api/models/": [0.3]}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(f"{hub.url}/api/models/{MODEL}", timeout=0.1)
    assert httpx2.get(f"{hub.url}/api/models/{MODEL}", timeout=10).status_code == 200


def test_every_nth_request_can_be_refused(hub: Hub, api: HfApi) -> None:
    hub.manners.every, hub.counted.started = 3, 0
    assert [httpx2.get(f"{hub.url}/api/models/{MODEL}").status_code for _ in range(6)] == [200, 200, 429] * 2


def test_uploads_and_downloads_that_are_cut_are_done_again(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.manners.cut = {"PUT /objects/": [50000], "GET /objects/": [70000]}
    publish(api)
    assert download(hub, tmp_path, "step/model.safetensors") == WEIGHTS
    assert [request.sent for request in hub.counted.of("download")] == [70000, len(WEIGHTS)]
    assert [request.status for request in hub.counted.of("upload")] == [0, 200]


def test_wrong_bytes_come_once_or_always(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    publish(api)
    hub.manners.wrong = {"GET /objects/": 1, "config.json": ALWAYS}
    wrong = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]
    read = [download(hub, tmp_path / str(number), "step/model.safetensors") for number in range(2)]
    assert read == [wrong, WEIGHTS]
    assert [download(hub, tmp_path / str(number), "config.json")[0] ^ SMALL[0] for number in range(2)] == [1, 1]


def test_a_listing_can_lie(hub: Hub, api: HfApi) -> None:
    publish(api)
    size, sha256 = sha256_listed(api, "step/model.safetensors")
    hub.manners.lies = ("size",)
    assert sha256_listed(api, "step/model.safetensors") == (size + 1, sha256)
    hub.manners.lies = ("oid",)
    assert sha256_listed(api, "step/model.safetensors")[0] == size
    assert sha256_listed(api, "step/model.safetensors")[1] != sha256


def test_a_commit_whose_answer_is_lost_is_done(hub: Hub, api: HfApi) -> None:
    hub.manners.lost = {"/commit/": 1}
    with pytest.raises(HfHubHTTPError, match="500"):
        publish(api)
    assert hub.read("models", MODEL, "main", "config.json") == SMALL
    assert publish(api) == hub.repositories["models", MODEL].branches["main"]


def test_a_file_can_be_redirected_to_another_host(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    publish(api)
    with running_hub() as other:
        other.put("models", MODEL, {"a" * 40: {"config.json": b"of another"}})
        hub.manners.moved = {"/config.json": other.url}
        answer = httpx2.get(f"{hub.url}/{MODEL}/resolve/main/config.json", follow_redirects=True)
    assert answer.content == b"of another"


def test_what_does_not_exist_is_said_to_be_missing(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        download(hub, tmp_path, "absent")
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(MODEL, "absent"))
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(f"{OWNER}/absent")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(MODEL, [add("file", b"")], commit_message="no", revision="absent")


# Programs


def test_the_command_hf_publishes_and_downloads(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/rows.parquet").write_bytes(WEIGHTS)
    (tmp_path / "folder/README.md").write_text("---\nlicense: mit\n---\nRows.\n")
    env: dict[str, Any] = environment(hub.url, str(tmp_path / "home"), TOKEN)
    run(tmp_path, "hf", "repos", "create", DATA, "--type", "dataset", **env)
    run(tmp_path, "hf", "upload", DATA, "folder", ".", "--type", "dataset", **env)
    run(tmp_path, "hf", "repos", "tag", "create", DATA, "v1", "--type", "dataset", **env)
    listed = run(tmp_path, "hf", "datasets", "list", DATA, "--quiet", **env).stdout.split()
    assert listed == [".gitattributes", "README.md", "rows.parquet"]
    run(tmp_path, "hf", "download", DATA, "--type", "dataset", "--revision", "v1", "--local-dir", "down", **env)
    assert (tmp_path / "down/rows.parquet").read_bytes() == WEIGHTS


LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
for revision in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], revision=revision)
    print(revision, model.num_parameters(), len(tokenizer("river")["input_ids"]) > 0)
"""


def test_transformers_loads_a_pulled_model_by_branch_and_by_tag(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    model = build(read_spec("mobilellm"))
    (tmp_path / "scratch").mkdir()
    write_pulled(model, tmp_path / "pulled", tmp_path / "scratch")
    api.create_branch(MODEL, branch="step128-tokens131072")
    api.upload_folder(repo_id=MODEL, folder_path=tmp_path / "pulled", revision="step128-tokens131072")
    api.create_tag(MODEL, tag="v1", revision="step128-tokens131072")
    client = [sys.executable, "-c", LOAD, MODEL, "step128-tokens131072", "v1"]
    env = os.environ | environment(hub.url, str(tmp_path / "home"))
    done = subprocess.run(client, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count = sum(parameter.numel() for parameter in model.parameters())
    assert done.stdout.splitlines() == [f"step128-tokens131072 {count} True", f"v1 {count} True"]
