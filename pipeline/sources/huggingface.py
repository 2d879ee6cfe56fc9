"""Data sets of the Hugging Face Hub at one commit: rows of text streamed by `datasets`, or files as they are.

Of rows, one file `rows.jsonl` of canonical JSON lines is kept that hold the declared columns and nothing else, in the
order of the split; so its SHA-256 is the digest of record of the rows, whatever files the Hub keeps them in. No
program of a data set's repository is ever run. The Hub's own settings (`HF_ENDPOINT`, `HF_TOKEN`) say where and as
whom to ask, never what: the commit decides. A token is never written, nor shown in a message.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial as bound
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from pipeline.formats.canonical import Json, canonical, parse
from pipeline.formats.errors import Differs, EverystepError
from pipeline.formats.files import safe_join, sha256_file, write_bytes
from pipeline.sources.declaration import AtCommit, HuggingfaceSource, TokenizedSource
from pipeline.sources.rows import as_text, column

Answer = TypeVar("Answer")
Report = Callable[[int, int | None], None]
REPORT_SECONDS = 0.1
STATE_BYTES = 64 << 20  # rows written between two places from which a fetch can go on
ATTEMPTS = 5  # in a row without getting further; the libraries have tried each request several times by then
FIRST_WAIT_SECONDS = 2.0
LATER = (408, 429, 500, 502, 503, 504)  # answers that may be others in a while


def fetch(source: HuggingfaceSource, folder: Path, partial: Path, report: Report) -> None:
    """Put `rows.jsonl` into `folder`. A killed fetch goes on; a declared digest is compared before the move."""
    if Path(source.repository).exists():
        raise EverystepError(f"{source.repository}: a local path of that name hides the Hub's; run in another folder")
    download = _Download(partial / "rows.jsonl", partial / "state.json", source)
    _patiently(source, lambda: _append_rows(source, download, report), reached=lambda: download.saved().bytes)
    digest = sha256_file(download.rows)
    if source.sha256 and digest != source.sha256:
        download.forget()
        advice = "the digest covers the declared columns and max_documents: correct it if one of these was changed"
        raise Differs(f"{_name(source)}: expected sha256 {source.sha256} of the rows, got {digest}; {advice}")
    if not download.rows.stat().st_size:
        raise EverystepError(f"{_name(source)}: split {source.split!r} has no rows; correct config or split")
    download.rows.replace(folder / "rows.jsonl")
    download.forget()


def fetch_files(
    source: TokenizedSource, folder: Path, partial: Path, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Put the declared files into `folder` under their own names; gives `{path, bytes, sha256}` of each, sorted.

    Each file is compared with the SHA-256 that the Hub keeps for it at that commit, and all with the declared one.
    `report` is told the name of each. What is complete in `partial` is not fetched again.
    """
    from huggingface_hub import hf_hub_download

    listed = _listed(source)
    found = []
    for place in sorted(listed):
        at = {"repo_type": "dataset", "revision": source.revision, "local_dir": partial}
        _patiently(source, bound(hf_hub_download, source.repository, place, **at))
        path, expected = safe_join(partial, place), listed[place]
        about = {"path": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        if expected is not None and about["sha256"] != expected:
            path.unlink()
            wrong = f"expected sha256 {expected}, as the Hub keeps it, got {about['sha256']}"
            raise Differs(f"{_name(source)}: {place}: {wrong}; what came is removed, run again")
        found.append(about)
        report(path.name)
    digest = hashlib.sha256(canonical(found)).hexdigest()
    if source.sha256 and digest != source.sha256:
        raise Differs(f"{_name(source)}: expected sha256 {source.sha256} of the list of files, got {digest}")
    for place in sorted(listed):
        safe_join(partial, place).replace(folder / Path(place).name)
    return found


def resolve(repository: str, revision: str) -> str:
    """The commit that a branch or tag of a data set points to now."""
    from huggingface_hub import HfApi

    asked = AtCommit.model_construct(repository=repository, revision=revision)
    return str(_patiently(asked, lambda: HfApi().dataset_info(repository, revision=revision).sha))


class _Saved(NamedTuple):
    """A place from which a fetch can go on: what is in the file until there, and where `datasets` stood."""

    bytes: int = 0
    rows: int = 0
    stream: Json = None


class _Download:
    """`rows.jsonl` as it grows, and the last place from which it can go on. Another declaration begins anew."""

    def __init__(self, rows: Path, state: Path, source: HuggingfaceSource) -> None:
        self.rows, self._state = rows, state
        self._of = hashlib.sha256(canonical(source.model_dump(exclude={"sha256"}))).hexdigest()

    def saved(self) -> _Saved:
        if not self._state.exists() or not self.rows.exists():
            return _Saved()
        state = parse(self._state.read_bytes(), self._state)
        if not isinstance(state, dict) or state.get("of") != self._of or self.rows.stat().st_size < state["bytes"]:
            return _Saved()
        return _Saved(state["bytes"], state["rows"], state["stream"])

    def save(self, file: IO[bytes], rows: int, stream: Json) -> None:
        _sync(file)
        write_bytes(self._state, canonical({"of": self._of, "bytes": file.tell(), "rows": rows, "stream": stream}))

    def forget(self) -> None:
        self.rows.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)


def _append_rows(source: HuggingfaceSource, download: _Download, report: Report) -> None:
    """Write all rows behind the last place that was saved."""
    saved, reported = download.saved(), 0.0
    with download.rows.open("r+b" if saved.bytes else "wb") as file:
        file.seek(saved.bytes)
        file.truncate()
        last, number = saved.bytes, saved.rows
        for row, stream in _rows(source, saved):
            file.write(canonical(row) + b"\n")
            number += 1
            if file.tell() - last >= STATE_BYTES:
                download.save(file, number, stream.state_dict())
                last = file.tell()
            if time.monotonic() - reported > REPORT_SECONDS:
                report(file.tell(), None)
                reported = time.monotonic()
        _sync(file)
        report(file.tell(), file.tell())


def _rows(source: HuggingfaceSource, saved: _Saved) -> Iterator[tuple[dict[str, Any], Any]]:
    """The declared columns of each row behind `saved`, and the stream that gave it. A missing or null text stays
    null: the reader rejects and counts it."""
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # the Hub's conversions are not what the commit pins
    stream = datasets.load_dataset(
        source.repository, name=source.config, revision=source.revision, split=source.split, streaming=True
    )
    there = stream.column_names
    if there:
        stream = stream.select_columns(_top_columns(there, source))
    if saved.stream is not None:
        stream.load_state_dict(saved.stream)
    left = None if source.max_documents is None else source.max_documents - saved.rows
    if left == 0:
        return
    for number, row in enumerate(stream, 1):
        yield {name: _plain(column(row, name)) for name in source.columns}, stream
        if number == left:
            return


def _listed(source: TokenizedSource) -> dict[str, str | None]:
    """The files that `members` fits, each with the SHA-256 that the Hub keeps; small ones have none."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def ask() -> list[Any]:
        return list(
            HfApi().list_repo_tree(source.repository, recursive=True, revision=source.revision, repo_type="dataset")
        )

    tree = _patiently(source, ask)
    files = [entry for entry in tree if isinstance(entry, RepoFile) and fnmatchcase(entry.path, source.members)]
    if len(files) != source.files or len({Path(entry.path).name for entry in files}) != len(files):
        wrong = f"{source.files} files of different names are declared, {len(files)} fit {source.members!r}"
        raise EverystepError(f"{_name(source)}: {wrong}; correct `members` or `files`")
    return {entry.path: entry.lfs.sha256 if entry.lfs else None for entry in files}


def _patiently(source: AtCommit, ask: Callable[[], Answer], reached: Callable[[], int] = lambda: 0) -> Answer:
    """What `ask` answers, asked again while the Hub is busy or out of reach; `reached` says how far it has come."""
    failures = 0
    while True:
        before = reached()
        try:
            return ask()
        except EverystepError:
            raise
        except Exception as error:  # a library that talks to a network raises anything; the cause stays in the chain
            failures = 1 if reached() > before else failures + 1
            if failures < ATTEMPTS and _may_pass(error):
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (failures - 1))
                continue
            raise EverystepError(f"{_name(source)}: {_said_plainly(source, error)}") from error


def _may_pass(error: BaseException) -> bool:
    """Whether the Hub was busy, or the way to it broken. Its client names what breaks below it `TransportError`."""
    return any(
        _status(cause) in LATER
        or isinstance(cause, ConnectionError | TimeoutError)
        or "TransportError" in [kind.__name__ for kind in type(cause).__mro__]
        for cause in _causes(error)
    )


def _said_plainly(source: AtCommit, error: Exception) -> str:
    from huggingface_hub import get_token

    causes = list(_causes(error))
    statuses = {_status(cause) for cause in causes}
    told = f"{type(error).__name__}: {error}".strip()
    if token := get_token():
        told = told.replace(token, "(the token)")
    if any("scripts are no longer supported" in str(cause) for cause in causes):
        return f"{told}; it is a program, and none of a data set is ever run: name one that holds plain files"
    if any(type(cause).__name__ == "RevisionNotFoundError" for cause in causes):
        return f"{told}; the data set has no such commit: correct `revision`"
    hidden = "gated dataset" in told or "cannot be accessed" in told  # `datasets` drops the cause of these
    if hidden or statuses & {401, 403}:
        page = f"https://huggingface.co/datasets/{source.repository}"
        allowed = f"accept its terms at {page} and set HF_TOKEN to a token that may read it"
        return f"{told}; it is not there, or not for everybody: correct `repository`, or {allowed}"
    if _may_pass(error):
        return f"{told}; the Hub was busy or out of reach {ATTEMPTS} times: what came so far is kept, run again later"
    return f"{told}; check repository, revision, config and split, and that the Hub is reached; then run again"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The status of an answer of the Hub."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _top_columns(there: list[str], source: HuggingfaceSource) -> list[str]:
    tops = {name if name in there else name.split(".")[0] for name in source.columns}
    if missing := sorted(tops - set(there)):
        wrong = f"has no column {', '.join(missing)}, only {', '.join(there)}; correct the declaration"
        raise EverystepError(f"{_name(source)}: {wrong}")
    return sorted(tops)


def _plain(value: Any) -> Any:
    """Strings, booleans and null stay; an id that is an integer and everything else becomes text."""
    if value is None or isinstance(value, str | bool):
        return value
    return str(value) if isinstance(value, int) else as_text(value)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _name(source: AtCommit) -> str:
    return f"{source.repository}@{source.revision[:12]}"
