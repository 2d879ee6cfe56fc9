"""A Hugging Face Hub on this machine: as much of it as `huggingface_hub`, `datasets`, `transformers` and the command
`hf` need to read repositories and to publish them, without Xet and pull requests.

Point clients at it with `environment(url, home)`, set before `huggingface_hub` is imported. Large files come from, and
go to, a second address, as they do on the real Hub: credentials must not follow there.
"""

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.servers.faults import Counted, Faults, Watched
from tests.servers.loopback import serve
from tests.servers.repositories import (
    ATTRIBUTES,
    DATE,
    SMALL_BYTES,
    SUFFIXES,
    Blob,
    Commit,
    Refused,
    Repository,
    Store,
    entries,
    file_entry,
    folder_entry,
    git_oid,
    pointer_text,
)

Repositories = dict[str, dict[str, dict[str, bytes]]]
"""owner/name -> commit -> path -> content. The last commit is `main`."""

KINDS = ("datasets", "models", "spaces")
OWNER = "owner"
TOKEN = "hf_secretOfTheTests"
"""The token with which `OWNER` may write."""


@dataclass
class Manners(Faults):
    """How a hub behaves, besides its faults."""

    users: dict[str, str] = field(default_factory=lambda: {TOKEN: OWNER})
    """Token -> user, who may write below that name; another token is refused."""
    readers: tuple[str, ...] = ()
    """Those of the tokens that may only read."""
    gated: dict[str, str] = field(default_factory=dict)
    """owner/name -> the token that may read it."""
    large: tuple[str, ...] = SUFFIXES
    """Files that end in one of these are kept as the Hub keeps large files, with their SHA-256."""
    part_bytes: int = 64 << 20
    """Larger files are uploaded in parts of this size."""
    page: int = 1000
    """Entries of a page of a listing."""
    lies: tuple[Literal["oid", "size"], ...] = ()
    """What listings say wrongly of large files."""


@dataclass
class Hub:
    """A hub that runs. `url` is for `HF_ENDPOINT`, `objects_url` is where large files are."""

    url: str
    objects_url: str
    manners: Manners
    counted: Counted
    store: Store
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    """(kind, owner/name) -> repository. Kinds are `models`, `datasets`, `spaces`."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, kind: str, name: str, commits: dict[str, dict[str, bytes]]) -> None:
        """Make a repository with these commits on `main`."""
        repository = self.repositories[kind, name] = Repository()
        for commit_id, files in commits.items():
            blobs = {path: self._keep(repository, path, content) for path, content in files.items()}
            repository.add("main", blobs, "put", commit_id)

    def put_branches(self, kind: str, name: str, branches: Mapping[str, Mapping[str, bytes]]) -> None:
        """Make a repository whose branches have nothing in common but the files of equal bytes, each kept once."""
        repository = self.repositories[kind, name] = Repository()
        kept: dict[tuple[str, bytes], Blob] = {}
        for branch, files in branches.items():
            for path, content in files.items():
                if (path, content) not in kept:
                    kept[path, content] = self._keep(repository, path, content)
            blobs = {path: kept[path, content] for path, content in files.items()}
            repository.add(branch, blobs, branch, git_oid(branch.encode()))

    def read(self, kind: str, name: str, revision: str, path: str) -> bytes:
        """The bytes of a file."""
        content = self.store.content(self.repositories[kind, name].at(revision).files[path])
        return content if isinstance(content, bytes) else content.read_bytes()

    def files(self, kind: str, name: str, revision: str = "main") -> list[str]:
        """The paths at a revision, sorted."""
        return sorted(self.repositories[kind, name].at(revision).files)

    def is_large(self, path: str, size: int) -> bool:
        return size > SMALL_BYTES or (size > 0 and path.endswith(self.manners.large or (" ",)))

    def _keep(self, repository: Repository, path: str, content: bytes) -> Blob:
        if not self.is_large(path, len(content)):
            return self.store.put(content)
        blob = self.store.put_large(content)
        repository.objects.add(blob.sha256)
        return blob


def environment(url: str, home: str, token: str = "") -> dict[str, str]:
    """Variables for a process whose clients shall see only this hub, with caches below `home`."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_TOKEN": token,
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def serve_hub(repositories: Repositories, kind: str = "datasets", manners: Manners | None = None) -> Iterator[str]:
    """Serve repositories of a kind (`datasets` or `models`); gives the URL for `HF_ENDPOINT`."""
    with running_hub(manners) as hub:
        for name, commits in repositories.items():
            hub.put(kind, name, commits)
        yield hub.url


@contextmanager
def running_hub(manners: Manners | None = None) -> Iterator[Hub]:
    """An empty hub, until the block ends."""
    ways, counted = manners or Manners(), Counted()

    class Bound(HubHandler):
        pass

    Bound.faults, Bound.counted = ways, counted
    with tempfile.TemporaryDirectory() as folder, serve(Bound) as url, serve(Bound) as objects_url:
        Bound.hub = Hub(url, objects_url, ways, counted, Store(Path(folder)))
        yield Bound.hub


Action = tuple[Any, ...]
"""A method of the handler, whose name is the kind of the request, and its arguments."""


class HubHandler(Watched):
    """The requests of the Hub. Names and answers are those that `huggingface_hub` 2.4 sends and reads."""

    hub: Hub

    def respond(self) -> None:
        place = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        try:
            action, *arguments = self.route(self.command.replace("HEAD", "GET"), place)
            self.asked.kind = action.__name__
            action(*arguments)
        except Refused as no:
            headers = {"x_error_code": no.code} if no.code else {}
            self.answer(no.status, json.dumps({"error": no.message}).encode(), x_error_message=no.message, **headers)

    def route(self, method: str, place: list[str]) -> Action:
        match method, place:
            case "GET", ["api", "whoami-v2"]:
                return (self.whoami,)
            case "POST", ["api", "validate-yaml"]:
                return (self.validate,)
            case "POST", ["api", "repos", "create"]:
                return (self.create,)
            case "DELETE", ["api", "repos", "delete"]:
                return (self.delete,)
            case "GET", ["api", kind] if kind in KINDS:
                return self.search, kind
            case _, ["api", kind, owner, name, *rest] if kind in KINDS:
                return self.route_api(method, kind, f"{owner}/{name}", rest)
            case "GET", ["objects", sha256]:
                return self.download, sha256
            case "PUT", ["objects", kind, owner, name, sha256]:
                return self.upload, kind, f"{owner}/{name}", sha256
            case "PUT", ["objects", _, _, _, sha256, part]:
                return self.upload_part, sha256, int(part)
            case "POST", ["objects", kind, owner, name, sha256]:
                return self.complete, kind, f"{owner}/{name}", sha256
            case _, [kind, *rest] if kind in KINDS:
                return self.route_files(method, kind, rest)
        return self.route_files(method, "models", place)

    def route_api(self, method: str, kind: str, name: str, rest: list[str]) -> Action:
        match method, rest:
            case "GET", []:
                return self.info, kind, name, "main"
            case "GET", ["revision", revision]:
                return self.info, kind, name, revision
            case "GET", ["refs"]:
                return self.refs, kind, name
            case "GET", ["commits", revision]:
                return self.commits, kind, name, revision
            case "GET", ["tree", revision, *path]:
                return self.tree, kind, name, revision, "/".join(path)
            case "GET", ["auth-check", *write]:
                return self.auth_check, kind, name, bool(write)
            case "POST", ["paths-info", revision]:
                return self.paths_info, kind, name, revision
            case "POST", ["preupload", revision]:
                return self.preupload, kind, name, revision
            case "POST", ["commit", branch]:
                return self.commit, kind, name, branch
            case "POST", ["branch", branch]:
                return self.branch, kind, name, branch
            case "POST", ["tag", revision]:
                return self.tag, kind, name, revision
            case "DELETE", ["branch" | "tag" as what, ref]:
                return self.delete_ref, kind, name, what, ref
            case "PUT", ["settings"]:
                return self.settings, kind, name
        raise Refused(404, f"{method} {'/'.join(rest)}: this hub does not know that")

    def route_files(self, method: str, kind: str, rest: list[str]) -> Action:
        match method, rest:
            case "GET", [owner, name, "resolve", revision, *path]:
                return self.resolve, kind, f"{owner}/{name}", revision, "/".join(path)
            case "GET", [owner, name, "raw", revision, *path]:
                return self.raw, kind, f"{owner}/{name}", revision, "/".join(path)
            case "POST", [owner, name, "info", "lfs", "objects", "batch"]:
                return self.batch, kind, f"{owner}/{name.removesuffix('.git')}"
            case "POST", [owner, name, "info", "lfs", "objects", "verify"]:
                return self.verify, kind, f"{owner}/{name.removesuffix('.git')}"
        raise Refused(404, "no such page")

    # Who asks

    def user(self) -> str | None:
        """The user whose token came along; None without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in {*self.hub.manners.users, *self.hub.manners.gated.values()}:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.manners.users.get(token)

    def check_writer(self, owner: str) -> None:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if user != owner or self.headers["Authorization"].removeprefix("Bearer ") in self.hub.manners.readers:
            raise Refused(403, f"You don't have the rights to write under the namespace {owner}")

    def repository(self, kind: str, name: str, *, write: bool = False) -> Repository:
        """A repository that the sender of the request may read, or write."""
        user = self.user()
        repository = self.hub.repositories.get((kind, name))
        if repository is None or (repository.is_private and user != name.split("/")[0]):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        needed = self.hub.manners.gated.get(name)
        if needed and self.headers.get("Authorization") != f"Bearer {needed}":
            raise Refused(403 if user else 401, f"Access to {kind}/{name} is restricted.", "GatedRepo")
        if write:
            self.check_writer(name.split("/")[0])
        return repository

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        is_reader = self.headers["Authorization"].removeprefix("Bearer ") in self.hub.manners.readers
        access = {"displayName": "a token", "role": "read" if is_reader else "write"}
        auth = {"type": "access_token", "accessToken": access}
        self.send_json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})

    def auth_check(self, kind: str, name: str, write: bool) -> None:
        self.repository(kind, name, write=write)
        self.send_json({})

    # Repositories

    def create(self) -> None:
        wanted = self.json()
        kind, name = f"{wanted.get('type') or 'model'}s", self._full_name(wanted)
        self.check_writer(name.split("/")[0])
        url = f"{self.hub.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repositories:
                self.send_json({"error": "You already created this repo", "url": url}, 409)
                return
            repository = Repository(is_private=wanted.get("visibility") == "private")
            repository.add("main", {".gitattributes": self.hub.store.put(ATTRIBUTES)}, "initial commit")
            self.hub.repositories[kind, name] = repository
        self.send_json({"url": url, "name": name, "id": name})

    def delete(self) -> None:
        wanted = self.json()
        kind, name = f"{wanted.get('type') or 'model'}s", self._full_name(wanted)
        self.repository(kind, name, write=True)
        del self.hub.repositories[kind, name]
        self.send_json({})

    def settings(self, kind: str, name: str) -> None:
        wanted = self.json()
        repository = self.repository(kind, name, write=True)
        if "visibility" in wanted or "private" in wanted:
            repository.is_private = wanted.get("private", wanted.get("visibility") == "private")
        self.send_json({})

    def search(self, kind: str) -> None:
        author = f"{self.query('author')}/" if self.query("author") else ""
        names = sorted(name for of, name in self.hub.repositories if of == kind and name.startswith(author))
        self.send_json([self._about(kind, name, "main") for name in names])

    def info(self, kind: str, name: str, revision: str) -> None:
        self.repository(kind, name)
        self.send_json(self._about(kind, name, revision))

    def _about(self, kind: str, name: str, revision: str) -> dict[str, Any]:
        repository = self.hub.repositories[kind, name]
        commit = repository.at(revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
        if self.query("blobs").lower() in ("1", "true"):
            for sibling in siblings:
                entry = self._listed(file_entry(sibling["rfilename"], commit.files[sibling["rfilename"]]))
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["lfs"]["size"], "pointerSize": 130}
        about: dict[str, Any] = {"_id": name, "id": name, "author": name.split("/")[0]}
        about |= {"sha": commit.id, "siblings": siblings}
        about |= {"private": repository.is_private, "gated": "auto" if name in self.hub.manners.gated else False}
        about |= {"disabled": False, "downloads": 0, "likes": 0, "tags": []}
        return about | {"createdAt": DATE, "lastModified": DATE}

    def refs(self, kind: str, name: str) -> None:
        repository = self.repository(kind, name)
        listed = {
            field: [
                {"name": ref, "ref": f"refs/{place}/{ref}", "targetCommit": commit}
                for ref, commit in sorted(refs.items())
            ]
            for field, place, refs in [("branches", "heads", repository.branches), ("tags", "tags", repository.tags)]
        }
        self.send_json(listed | {"converts": [], "pullRequests": []})

    def commits(self, kind: str, name: str, revision: str) -> None:
        fixed = {"message": "", "authors": [], "date": DATE}
        history = self.repository(kind, name).history(revision)
        self.send_page([{"id": commit.id, "title": commit.title} | fixed for commit in history])

    def branch(self, kind: str, name: str, branch: str) -> None:
        start = self.json().get("startingPoint")
        repository = self.repository(kind, name, write=True)
        with self.hub.lock:
            if branch in repository.branches:
                raise Refused(409, f"Reference already exists: {branch}")
            repository.branches[branch] = repository.at(start or "main").id
        self.send_json({})

    def tag(self, kind: str, name: str, revision: str) -> None:
        tag = self.json()["tag"]
        repository = self.repository(kind, name, write=True)
        with self.hub.lock:
            if tag in repository.tags:
                raise Refused(409, f"Tag reference exists already: {tag}")
            repository.tags[tag] = repository.at(revision).id
        self.send_json({})

    def delete_ref(self, kind: str, name: str, what: str, ref: str) -> None:
        repository = self.repository(kind, name, write=True)
        refs = repository.branches if what == "branch" else repository.tags
        with self.hub.lock:
            if ref not in refs:
                raise Refused(404, f"Invalid rev id: {ref}", "RevisionNotFound")
            if (what, ref) == ("branch", "main"):
                raise Refused(403, "The branch main cannot be deleted")
            del refs[ref]
        self.send_json({})

    # Listings

    def tree(self, kind: str, name: str, revision: str, under: str) -> None:
        commit = self.repository(kind, name).at(revision)
        found = entries(commit.files, under, recursive=self.query("recursive").lower() == "true")
        if under and not found:
            raise Refused(404, f"{under} does not exist on {revision}", "EntryNotFound")
        self.send_page([self._listed(entry, commit) for entry in found])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        body = self.read_body().decode()
        wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        files = self.repository(kind, name).at(revision).files
        folders = {path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)}
        found = [file_entry(path, files[path]) for path in wanted if path in files]
        found += [folder_entry(path) for path in wanted if path in folders]
        self.send_json([self._listed(entry) for entry in found])

    def _listed(self, entry: dict[str, Any], commit: Commit | None = None) -> dict[str, Any]:
        """An entry of a listing, with the lies that are told."""
        if "lfs" in entry and "oid" in self.hub.manners.lies:
            entry["lfs"]["oid"] = hashlib.sha256(entry["lfs"]["oid"].encode()).hexdigest()
        if "lfs" in entry and "size" in self.hub.manners.lies:
            entry["lfs"]["size"] += 1
            entry["size"] += 1
        if commit and self.query("expand").lower() == "true":
            entry["lastCommit"] = {"id": commit.id, "title": commit.title, "date": DATE}
        return entry

    # Reading

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        commit = self.repository(kind, name).at(revision)
        headers = {"x_repo_commit": commit.id}
        blob = commit.files.get(path)
        if blob is None:
            self.answer(404, b"", x_error_code="EntryNotFound", x_error_message=f"no {path}", **headers)
        elif blob.sha256:
            headers |= {"etag": f'"{blob.oid}"', "x_linked_etag": f'"{blob.sha256}"', "x_linked_size": str(blob.size)}
            place = f"{self.hub.objects_url}/objects/{blob.sha256}?filename={quote(path)}"
            self.answer(302, b"", location=place, accept_ranges="bytes", **headers)
        else:
            content = self.hub.store.content(blob)
            self.answer_file(content, etag=f'"{blob.oid}"', accept_ranges="bytes", **headers)

    def raw(self, kind: str, name: str, revision: str, path: str) -> None:
        """A file as Git has it: of a large one the pointer."""
        blob = self.repository(kind, name).at(revision).files.get(path)
        if blob is None:
            raise Refused(404, f"no {path}", "EntryNotFound")
        content = self.hub.store.content(blob)
        self.answer(200, pointer_text(blob.sha256, blob.size) if isinstance(content, Path) else content)

    def download(self, sha256: str) -> None:
        if not self.hub.store.object(sha256).exists():
            raise Refused(404, "NoSuchKey")
        self.answer_file(self.hub.store.object(sha256), etag=f'"{sha256}"', accept_ranges="bytes")

    # Writing

    def validate(self) -> None:
        self.read_body()
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        wanted = self.json()["files"]
        files = self.repository(kind, name, write=True).at(revision).files

        def mode(path: str, size: int) -> dict[str, Any]:
            known = {"oid": files[path].sha256 or files[path].oid} if path in files else {}
            large = "lfs" if self.hub.is_large(path, size) else "regular"
            return {"path": path, "uploadMode": large, "shouldIgnore": False} | known

        self.send_json({"files": [mode(file["path"], file["size"]) for file in wanted]})

    def batch(self, kind: str, name: str) -> None:
        """What is to be uploaded, and where to (the API of Git LFS)."""
        asked = self.json()
        repository = self.repository(kind, name, write=True)
        in_parts = "multipart" in asked.get("transfers", [])
        answers = [self._actions(kind, name, item, repository, in_parts) for item in asked["objects"]]
        transfer = "multipart" if any("chunk_size" in json.dumps(answer) for answer in answers) else "basic"
        self.send_json({"transfer": transfer, "objects": answers})

    def _actions(
        self, kind: str, name: str, item: dict[str, Any], repository: Repository, in_parts: bool
    ) -> dict[str, Any]:
        about = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] in repository.objects:
            return about
        place = f"{self.hub.objects_url}/objects/{kind}/{name}/{item['oid']}"
        upload: dict[str, Any] = {"href": place}
        size = self.hub.manners.part_bytes
        if in_parts and item["size"] > size:
            count = -(-item["size"] // size)
            parts = {str(part): f"{place}/{part}" for part in range(1, count + 1)}
            upload = {"href": place, "header": {"chunk_size": str(size)} | parts}
        prefix = "" if kind == "models" else f"{kind}/"
        verify = {"href": f"{self.hub.url}/{prefix}{name}.git/info/lfs/objects/verify"}
        return about | {"actions": {"upload": upload, "verify": verify}}

    def upload(self, kind: str, name: str, sha256: str) -> None:
        self._receive(kind, name, sha256, self.body())
        self.answer(200, b"", etag=f'"{sha256}"')

    def upload_part(self, sha256: str, part: int) -> None:
        content = self.read_body()
        self.hub.store.object(f"{sha256}.part{part}").write_bytes(content)
        self.answer(200, b"", etag=f'"{hashlib.sha256(content).hexdigest()}"')

    def complete(self, kind: str, name: str, sha256: str) -> None:
        """Join the parts that the client says it has sent."""
        parts = [self.hub.store.object(f"{sha256}.part{part['partNumber']}") for part in self.json()["parts"]]
        if not all(part.exists() for part in parts):
            raise Refused(400, "InvalidPart")
        self._receive(kind, name, sha256, (part.read_bytes() for part in parts))
        for part in parts:
            part.unlink()
        self.send_json({})

    def _receive(self, kind: str, name: str, sha256: str, body: Iterator[bytes]) -> None:
        self.hub.store.receive(sha256, body)
        self.hub.repositories[kind, name].objects.add(sha256)

    def verify(self, kind: str, name: str) -> None:
        wanted = self.json()
        repository = self.repository(kind, name, write=True)
        if wanted["oid"] not in repository.objects or self.hub.store.pointer(wanted["oid"]).size != wanted["size"]:
            raise Refused(400, "The file was not uploaded, or with another size.")
        self.send_json({})

    def commit(self, kind: str, name: str, branch: str) -> None:
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        repository = self.repository(kind, name, write=True)
        if self.query("create_pr"):
            raise Refused(400, "this hub knows no pull requests")
        header, operations = lines[0]["value"], lines[1:]
        with self.hub.lock:
            if branch not in repository.branches:
                raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = repository.at(branch)
            if header.get("parentCommit", head.id) != head.id:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = repository.changed(head.files, operations, self.hub.store)
            commit = repository.add(branch, files, header["summary"])
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{self.hub.url}/{prefix}{name}/commit/{commit.id}"
        self.send_json({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})

    # Bodies

    def read_body(self) -> bytes:
        return b"".join(self.body())

    def json(self) -> Any:
        return json.loads(self.read_body() or b"{}")

    def query(self, key: str) -> str:
        """A value of the query; empty if it is not there."""
        return parse_qs(urlsplit(self.path).query).get(key, [""])[0]

    def send_json(self, value: Any, status: int = 200, link: str = "") -> None:
        headers = {"link": link} if link else {}
        self.answer(status, json.dumps(value).encode(), content_type="application/json", **headers)

    def send_page(self, entries: list[dict[str, Any]]) -> None:
        """A page of a listing, and the address of the next."""
        start, size = int(self.query("cursor") or 0), self.hub.manners.page
        link = ""
        if start + size < len(entries):
            parts = urlsplit(self.path)
            query = "&".join([part for part in parts.query.split("&") if part and not part.startswith("cursor=")])
            place = f"{self.hub.url}{parts.path}?{query}&cursor={start + size}"
            link = f'<{place}>; rel="next"'
        self.send_json(entries[start : start + size], link=link)

    def _full_name(self, wanted: dict[str, Any]) -> str:
        return f"{wanted.get('organization') or self.user()}/{wanted['name']}"
