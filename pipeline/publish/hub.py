"""A release on the Hugging Face Hub: a data set repository with the release itself, and one repository for each model.

    datasets/OWNER/NAME      the release folder as it lies; a tag `vVERSION` for each version
    OWNER/NAME-MODEL         `main` is the final model, a branch `step{N}-tokens{M}` each stored checkpoint, as a folder
                             that transformers loads, with its optimizer and record beside it

Every file goes by `create_commit`. Each commit names the one before it, so that of two publications at once the Hub
refuses one. A branch begins at the first, empty commit of its repository, never at `main`: a checkpoint is there as a
whole or there is nothing that loads. Branches come first, `main` and the root manifest of the release last, after the
Hub was asked for every other file: for the SHA-256 of a large one, for the Git identifier of a small one.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.audit.import_model import ABOUT, digest_folder
from pipeline.audit.pull import origin, write_folder
from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError, how_to_install
from pipeline.base.files import list_files, read_small, sha256_file, write_bytes
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, parse
from pipeline.formats.manifests import Coverage
from pipeline.formats.release import REVISIONS, ROOT, SIGNATURES, SUMS, revision_line
from pipeline.release.facts import gather
from pipeline.release.notices import PLACE as NOTICE
from pipeline.release.release import Release, Stored
from pipeline.stores.address import HubAddress
from pipeline.stores.hub import TRANSIENT, asked_to_wait, is_transient
from pipeline.stores.hub import status as status_of
from pipeline.stores.retry import with_retries

FILES_A_COMMIT = 200
MAIN = "main"
LEFT_BY_HUB = (".gitattributes",)
FIRST_WAIT_SECONDS = 1.0
Result = TypeVar("Result")
Files = Mapping[str, Path]


@dataclass(frozen=True)
class OnHub:
    """What a publication did on the Hub."""

    repositories: list[str]
    revisions: int
    """Branches that hold a checkpoint."""
    commits: int
    """Commits that this run made."""
    compared: int
    """Files that the Hub was asked for."""


def publish_to_hub(release: Release, address: str) -> OnHub:
    """Publish a release that passed the gate to `hf://OWNER/NAME`. Run again, it goes on where it was."""
    where = HubAddress(address)
    if where.revision:
        raise EverystepError(f"{address}: publish to a repository, without a revision; the version becomes a tag")
    hub = _Hub(address)
    tag = f"v{release.version}"
    dataset = _Repository(hub, where.repository, "dataset")
    models = {name: _Repository(hub, f"{where.repository}-{name}", "model") for name in release.models()}
    files = {path: release.folder / path for path in _release_files(release)}
    dataset.create()
    dataset.refuse_another(files, tag)
    about = {"release_address": f"hf://datasets/{where.repository}@{tag}", "root_sha256": sha256_file(files[ROOT])}
    but_root = {path: file for path, file in files.items() if path != ROOT}
    if not dataset.holds(MAIN, files):
        dataset.commit(MAIN, but_root, f"{release.name} {release.version}, but for its root manifest", keep=False)
        dataset.compare(MAIN, but_root)
    revisions = 0
    for name, repository in models.items():
        revisions += _publish_model(repository, release, name, about, where.repository, tag)
    dataset.commit(MAIN, files, f"{release.name} {release.version}")
    dataset.compare(MAIN, files)
    dataset.tag(tag)
    return OnHub([where.repository, *(model.name for model in models.values())], revisions, hub.commits, hub.compared)


def _publish_model(
    repository: "_Repository", release: Release, name: str, about: dict[str, Json], dataset: str, tag: str
) -> int:
    """Publish the checkpoints of a model to branches, then the last one to `main`."""
    repository.create()
    branches = repository.branches()
    states = list(release.states(name).values())
    metadata = {
        "repository": repository.name,
        "datasets": [dataset],
        "languages": gather(release, release.manifest(Coverage)).languages,
    }
    with progress(f"publish {name}", len(states), "checkpoints") as advance:
        for state in states:
            with _model_folder(release, state, about | metadata) as files:
                repository.checkpoint(state.entry.revision, files, branches)
            advance(1, state.entry.revision)
    with _model_folder(release, states[-1], about | metadata) as files:
        lines = [revision_line(state.record) for state in states]
        write_bytes(files["README.md"].parent / REVISIONS, b"".join(lines))
        final = {**files, REVISIONS: files["README.md"].parent / REVISIONS}
        repository.commit(MAIN, final, f"{name} of {release.name} {release.version}", keep=False)
        repository.compare(MAIN, final)
    repository.tag(tag)
    return len(states)


@contextmanager
def _model_folder(release: Release, state: Stored, about: dict[str, Json]) -> Iterator[dict[str, Path]]:
    """The files of one checkpoint; the weights in the very file that goes out were found to be those of its record."""
    with tempfile.TemporaryDirectory(prefix="everystep-publish-") as scratch:
        folder = Path(scratch)
        write_folder(
            release,
            folder,
            state.spec,
            state.weights(),
            {**origin(release, state.model), **about, **state.record.to_json()},
        )
        found = digest_folder(folder)
        if found.weights_digest != state.record.weights_digest:
            raise Differs(f"{state.folder}: in the Hub's form its weights are no longer those of the record")
        for name in (ck.OPTIMIZER, ck.RECORD):
            (folder / name).symlink_to(state.file(name).resolve())
        yield {path: folder / path for path in list_files(folder)}


class _Hub:
    """The client of the Hub, which waits while the Hub is busy. A token never enters a message."""

    def __init__(self, address: str) -> None:
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            raise EverystepError(f"{address}: needs the library huggingface_hub; {how_to_install('hub')}") from error
        self.address = address
        self.api = HfApi()
        self.commits = self.compared = 0
        self._token = get_token()
        if not self._token:
            raise EverystepError(
                f"{address}: the Hub takes files from its users only; set HF_TOKEN to a token that may write"
            )

    def ask(self, question: Callable[[], Result]) -> Result:
        try:
            return with_retries(question, is_transient, FIRST_WAIT_SECONDS, wait=asked_to_wait)
        except EverystepError:
            raise
        except Exception as error:  # the client of the Hub raises anything
            status = status_of(error)
            said = f"{type(error).__name__}: {error}".replace(self._token or "\0", "(the token)")
            if status in (401, 403):
                raise EverystepError(f"{self.address}: {said}; set HF_TOKEN to a token that may write there") from None
            if status == 412:
                raise EverystepError(
                    f"{self.address}: another publication is under way; wait for it, and run the command again"
                ) from None
            raise EverystepError(f"{self.address}: {said}; run the command again: it goes on where it was") from None


class _Repository:
    """One repository of the Hub, to write to."""

    def __init__(self, hub: _Hub, name: str, kind: str) -> None:
        self.name = name
        self._hub = hub
        self._about: dict[str, Any] = {"repo_id": name, "repo_type": kind}

    def create(self) -> None:
        """Create it unless it is there, and note its first commit."""
        api, about = self._hub.api, self._about
        self._hub.ask(lambda: api.create_repo(**about, exist_ok=True))
        commits = self._hub.ask(lambda: api.list_repo_commits(**about))
        self._first = commits[-1].commit_id

    def branches(self) -> dict[str, str]:
        """Each branch and its commit."""
        refs = self._hub.ask(lambda: self._hub.api.list_repo_refs(**self._about))
        return {branch.name: branch.target_commit for branch in refs.branches}

    def tags(self) -> dict[str, str]:
        """Each tag and its commit."""
        refs = self._hub.ask(lambda: self._hub.api.list_repo_refs(**self._about))
        return {tag.name: tag.target_commit for tag in refs.tags}

    def checkpoint(self, branch: str, files: Files, branches: Mapping[str, str]) -> None:
        """Put a checkpoint on a branch of its own. One that is there must be the same."""
        head = branches.get(branch)
        if head is None:
            api, about = self._hub.api, self._about
            self._hub.ask(lambda: api.create_branch(**about, branch=branch, revision=self._first, exist_ok=True))
            head = self._first
        there = self._tree(head) if head != self._first else {}
        differing = self._differing(files, there)
        if there and differing:
            self._keep_version(branch, head, files, differing[0])
        if differing:
            gone = [path for path in there if path not in files and path not in LEFT_BY_HUB]
            self._commit(branch, files, branch, parent=head, gone=gone)
            self.compare(branch, files)

    def _keep_version(self, branch: str, head: str, files: Files, differing: str) -> None:
        """Tag the checkpoint of an earlier version before this one takes its branch; refuse one of the same version."""
        before, now = self._read(ABOUT, head).get("release_version"), parse(files[ABOUT].read_bytes(), ABOUT)
        if before in (None, now["release_version"]):
            raise self._of_another(branch, differing)
        api, about = self._hub.api, self._about
        self._hub.ask(lambda: api.create_tag(**about, tag=f"{branch}-v{before}", revision=head, exist_ok=True))

    def commit(self, branch: str, files: Files, message: str, keep: bool = True) -> None:
        """Commit those of `files` that the branch lacks or has otherwise; without `keep`, remove every other file."""
        head = self.branches()[branch]
        there = self._tree(head)
        wanted = {path: file for path, file in files.items() if not self._is_there(path, file, there)}
        gone = [] if keep else [path for path in there if path not in files and path not in LEFT_BY_HUB]
        paths = sorted(wanted)
        for start in range(0, max(len(paths), 1), FILES_A_COMMIT):
            some = {path: wanted[path] for path in paths[start : start + FILES_A_COMMIT]}
            if some or gone:
                head = self._commit(branch, some, message, parent=head, gone=gone)
            gone = []

    def holds(self, revision: str, files: Files) -> bool:
        """Whether a revision has exactly these files."""
        return not self._wrong(revision, files)

    def compare(self, revision: str, files: Files) -> None:
        """Ask the Hub for every file of a revision, and for no other."""
        self._hub.compared += len(files)
        wrong = self._wrong(revision, files)
        if wrong:
            raise Differs(
                f"{self._place(revision)}: the Hub has other bytes at {wrong[0]} than were sent, or the file of "
                "another publication; run the command again"
            )

    def tag(self, tag: str) -> None:
        """Tag `main`; a tag that is there must be at it."""
        api, about, head = self._hub.api, self._about, self.branches()[MAIN]
        there = self.tags()
        if tag not in there:
            self._hub.ask(lambda: api.create_tag(**about, tag=tag, revision=head, exist_ok=True))
            there = self.tags()
        if there.get(tag) != head:
            raise EverystepError(f"{self._place(tag)}: is another commit than {MAIN}; a version is published once")

    def refuse_another(self, files: Files, tag: str) -> None:
        """Refuse to publish a version again with other bytes, or after a later one."""
        if tag not in self.tags():
            return
        differing = self._differing(files, self._tree(tag))
        if differing:
            raise self._of_another(tag, differing[0])
        if not self.holds(MAIN, files):
            raise EverystepError(
                f"{self._place(tag)}: is published already, and {MAIN} holds another version; nothing there was changed"
            )

    def _commit(self, branch: str, files: Files, message: str, parent: str, gone: Iterable[str] = ()) -> str:
        """Make one commit on top of `parent`, and return it."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def attempt() -> str:
            operations: list[Any] = [CommitOperationAdd(path, str(file)) for path, file in sorted(files.items())]
            operations += [CommitOperationDelete(path) for path in gone]
            try:
                made = self._hub.api.create_commit(
                    **self._about, operations=operations, commit_message=message, revision=branch, parent_commit=parent
                )
            except Exception as error:
                lost = status_of(error) in (412, *TRANSIENT)
                if lost and files and not self._differing(files, self._tree(branch)):
                    return self.branches()[branch]  # it was made, and only its answer was lost
                raise
            return str(made.oid)

        self._hub.commits += 1
        return self._hub.ask(attempt)

    def _read(self, path: str, revision: str) -> dict[str, Json]:
        """A small JSON file of a revision; empty if there is none."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        def attempt() -> dict[str, Json]:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    file = hf_hub_download(**self._about, filename=path, revision=revision, local_dir=scratch)
                except EntryNotFoundError:
                    return {}
                found = parse(read_small(Path(file)), path)
            return found if isinstance(found, dict) else {}

        return self._hub.ask(attempt)

    def _tree(self, revision: str) -> dict[str, Any]:
        """What the Hub says of each file of a revision."""
        from huggingface_hub.hf_api import RepoFile

        def attempt() -> list[Any]:
            return list(self._hub.api.list_repo_tree(**self._about, recursive=True, revision=revision))

        return {entry.path: entry for entry in self._hub.ask(attempt) if isinstance(entry, RepoFile)}

    def _wrong(self, revision: str, files: Files) -> list[str]:
        there = self._tree(revision)
        return [*self._differing(files, there), *sorted(there.keys() - files.keys() - {*LEFT_BY_HUB})]

    def _differing(self, files: Files, there: Mapping[str, Any]) -> list[str]:
        return [path for path, file in sorted(files.items()) if not self._is_there(path, file, there)]

    def _is_there(self, path: str, file: Path, there: Mapping[str, Any]) -> bool:
        about = there.get(path)
        if about is None or about.size != file.stat().st_size:
            return False
        if about.lfs:
            return bool(about.lfs.sha256 == sha256_file(file))
        return bool(about.blob_id == _git_identifier(file.read_bytes()))

    def _place(self, revision: str) -> str:
        prefix = "datasets/" if self._about["repo_type"] == "dataset" else ""
        return f"hf://{prefix}{self.name}@{revision}"

    def _of_another(self, revision: str, path: str) -> EverystepError:
        return EverystepError(
            f"{self._place(revision)}: holds another {path}; nothing there was changed: publish under another name, "
            "or as another version"
        )


def _release_files(release: Release) -> Iterator[str]:
    yield from sorted([SUMS, ROOT, *release.files])
    yield from (f"{SIGNATURES}/{path}" for path in list_files(release.folder / SIGNATURES))
    yield from [NOTICE] * (release.folder / NOTICE).is_file()


def _git_identifier(content: bytes) -> str:
    """The SHA-1 by which Git, and the Hub, name a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
