"""A series on the Hugging Face Hub: a branch or tag for each checkpoint. Two kinds of questions, no file is downloaded.

One question for all refs, and one for the tree of each commit, which has the size of every file and the SHA-256 that
the Hub keeps of large ones. Refs of one commit are asked for once. A ref that is refused or gone is noted, and the
others are looked at.
"""

import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError, how_to_install
from pipeline.series.names import parse_name
from pipeline.series.series import Checkpoint, Collection, File, Unseen, into_series
from pipeline.stores.address import HubAddress
from pipeline.stores.hub import asked_to_wait, is_transient, status
from pipeline.stores.retry import with_retries
from pipeline.stores.store import AccessDenied, Missing, StoreFailed

MAIN = "main"
AT_ONCE = 8
FIRST_WAIT_SECONDS = 1.0
GONE = (404, 410)
Answer = TypeVar("Answer")


def read_hub(address: str) -> Collection:
    """The checkpoints of a repository that have a ref of their own, and `main`."""
    place = Hub(address)
    refs = place.refs()
    commits = dict.fromkeys(refs.values())
    trees: dict[str, dict[str, File] | EverystepError] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool, progress(f"read {address}", len(commits), "revisions") as advance:
        for commit, tree in zip(commits, pool.map(place.tree, commits), strict=True):
            trees[commit] = tree
            advance(1)
    unseen: list[Unseen] = []
    series: dict[str, list[Checkpoint]] = {}
    main: Checkpoint | None = None
    for ref, commit in refs.items():
        found, named = trees[commit], parse_name(ref)
        if isinstance(found, EverystepError):
            unseen.append(Unseen(ref, str(found), isinstance(found, Missing)))
        elif named is None:
            main = Checkpoint(ref, None, found)
        else:
            series.setdefault(named.template, []).append(Checkpoint(ref, named.step, found, named.tokens))
    return Collection(address, place, into_series(series), main, tuple(unseen))


class Hub:
    """A repository of the Hub, through its own client: `HF_ENDPOINT` and `HF_TOKEN` say where and as whom."""

    def __init__(self, address: str) -> None:
        where = HubAddress(address)
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            raise EverystepError(f"{address}: needs the library huggingface_hub; {how_to_install('hub')}") from error
        self._api = HfApi()
        self._name = where.repository
        self._about: dict[str, Any] = {"repo_id": where.repository, "repo_type": where.kind}
        self._prefix = "datasets/" if where.kind == "dataset" else ""
        self._token = get_token()

    def refs(self) -> dict[str, str]:
        """`main`, then branches and tags whose names have a step, with their commits; a tag of a branch is left out."""
        found = self._asked(f"hf://{self._prefix}{self._name}", lambda: self._api.list_repo_refs(**self._about))
        branches = {ref.name: ref.target_commit for ref in found.branches}
        tags = {ref.name: ref.target_commit for ref in found.tags if ref.target_commit not in branches.values()}
        steps = {name: commit for name, commit in {**tags, **branches}.items() if parse_name(name)}
        return ({MAIN: branches[MAIN]} if MAIN in branches else {}) | steps

    def tree(self, revision: str) -> dict[str, File] | EverystepError:
        """What the Hub says of each file of a revision; the error, if it says nothing."""
        from huggingface_hub.hf_api import RepoFile

        def attempt() -> list[Any]:
            return list(self._api.list_repo_tree(**self._about, recursive=True, revision=revision))

        try:
            entries = self._asked(f"hf://{self._prefix}{self._name}@{revision}", attempt)
        except EverystepError as error:
            return error
        return {entry.path: _file(entry) for entry in entries if isinstance(entry, RepoFile)}

    def read(self, name: str, path: str, start: int, stop: int | None) -> bytes:
        """By one request for a range; of a server without ranges no more is taken than is needed."""
        from huggingface_hub import get_session, hf_hub_url

        url = hf_hub_url(self._name, path, repo_type=self._about["repo_type"], revision=name)
        headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"

        def attempt() -> bytes:
            with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
                answer.raise_for_status()
                content, skipped = b"", start if answer.status_code != 206 else 0
                for chunk in answer.iter_bytes():
                    content += chunk
                    if stop is not None and len(content) >= skipped + stop - start:
                        break
                return content[skipped:][: None if stop is None else stop - start]

        return self._asked(f"hf://{self._prefix}{self._name}@{name}/{path}", attempt)

    def command(self, name: str, path: str) -> str:
        """`raw` shows the pointer to a large file: its SHA-256 and its size, in three lines."""
        from huggingface_hub import constants

        place = f"{constants.ENDPOINT}/{self._prefix}{self._name}/raw/{name.replace('/', '%2F')}/{path}"
        return f"curl --location --silent {shlex.quote(place)}"

    def _asked(self, where: str, question: Callable[[], Answer]) -> Answer:
        """Ask, and ask again while the Hub is busy. A token never enters a message."""
        try:
            return with_retries(question, is_transient, FIRST_WAIT_SECONDS, wait=asked_to_wait)
        except EverystepError:
            raise
        except Exception as error:  # the client of the Hub raises anything
            said = str(error).replace(self._token or "\0", "(the token)")
            line = next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
            code = status(error)
            if code in (401, 403):
                fix = "it is private, gated or not there: set HF_TOKEN to a token that may read it"
                raise AccessDenied(f"{where}: HTTP {code}; {fix}") from None
            if code in GONE:
                raise Missing(f"{where}: HTTP {code}; nothing is there") from None
            raise StoreFailed(f"{where}: {type(error).__name__}: {line:.300}; run the command again") from None


def _file(entry: Any) -> File:
    """Of a large file the Hub keeps the SHA-256, of a small one the identifier that Git gives to its bytes."""
    digest = f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}"
    return File(entry.size, digest)
