"""Data sets of the Hugging Face Hub at one commit: rows of text, or files as they are.

Rows are kept in one file, `rows.jsonl`: canonical JSON lines with the declared columns and nothing else, in the order
of the split. So its SHA-256 is the digest of record of the rows, in whatever files the Hub keeps them. `datasets` only
says which files a split has, and of which kind. They are fetched one by one and read like every other corpus, so that
the types that `datasets` infers, and the damage that it overlooks, decide nothing here.

A row that cannot be read is kept as `[reason, detail]`, which the reader removes on record. No program in the
repository of a data set is ever run. The Hub's own settings (`HF_ENDPOINT`, `HF_TOKEN`) say where and as whom to ask,
never what: the commit decides. A token is never written, nor shown in a message.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from fnmatch import fnmatchcase
from functools import partial as bound
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from pipeline.base.console import Advance, ReportTotal
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import safe_join, sha256_file, write_bytes
from pipeline.formats.canonical import Json, canonical, parse
from pipeline.sources import archives, records
from pipeline.sources.declaration import AtCommit, HuggingfaceSource, TokenizedSource
from pipeline.sources.document import escaped
from pipeline.sources.records import Broken
from pipeline.sources.rows import as_text, column, plain
from pipeline.stores.retry import ATTEMPTS, with_retries

Answer = TypeVar("Answer")
REPORT_SECONDS = 0.1
STATE_BYTES = 64 << 20  # written between two points from which a fetch can resume
FIRST_WAIT_SECONDS = 2.0  # the libraries have tried each request several times by then
ENDINGS = {"json": ("*.jsonl", "*.ndjson", "*.json"), "csv": ("*.csv", "*.tsv"), "text": ("*.txt",)}
"""Members to read from an archive, by kind of file (parquet is not read from archives)."""
HARMLESS = (
    *("name", "version", "data_dir", "data_files", "description", "features", "chunksize", "block_size", "batch_size"),
    *("use_threads", "verbose", "parse_agent_traces", "sep", "delimiter"),
)
"""Settings in the README of a data set that change no value here, or that are followed."""
TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)


def fetch(source: HuggingfaceSource, folder: Path, partial: Path, report: ReportTotal) -> None:
    """Put `rows.jsonl` into `folder`. A killed fetch resumes; a declared digest is compared before the move."""
    if Path(source.repository).exists():
        raise EverystepError(f"{source.repository}: a local path of that name hides the Hub's; run in another folder")
    download = _Download(partial / "rows.jsonl", partial / "state.json", source)
    split = _with_retries(source, lambda: _split(source))
    files = partial / "files"
    _with_retries(source, lambda: _append_rows(source, split, files, download, report), lambda: download.saved().bytes)
    digest = sha256_file(download.rows)
    if source.sha256 and digest != source.sha256:
        download.forget()
        advice = "the digest covers the declared columns and max_documents: correct it if one of these was changed"
        raise Differs(f"{_name(source)}: expected sha256 {source.sha256} of the rows, got {digest}; {advice}")
    if not download.rows.stat().st_size:
        raise EverystepError(f"{_name(source)}: split {source.split!r} has no rows; correct config or split")
    download.rows.replace(folder / "rows.jsonl")
    download.forget()
    shutil.rmtree(files, ignore_errors=True)


def fetch_files(source: TokenizedSource, folder: Path, partial: Path, advance: Advance) -> list[dict[str, Any]]:
    """Put the declared files into `folder` under their own names; return `{path, bytes, sha256}` of each, sorted.

    Each file is compared with the SHA-256 that the Hub keeps for it at that commit, and their list with the declared
    digest. Files that are complete in `partial` are not fetched again.
    """
    listed = _listed(source)
    found = []
    for place in sorted(listed):
        path = _downloaded(source, place, partial, listed[place])
        found.append({"path": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)})
        advance(1, path.name)
    digest = hashlib.sha256(canonical(found)).hexdigest()
    if source.sha256 and digest != source.sha256:
        raise Differs(f"{_name(source)}: expected sha256 {source.sha256} of the list of files, got {digest}")
    for place in sorted(listed):
        safe_join(partial, place).replace(folder / Path(place).name)
    return found


def resolve(repository: str, revision: str) -> str:
    """Look up the commit that a branch or tag of a data set points to now."""
    from huggingface_hub import HfApi

    asked = AtCommit.model_construct(repository=repository, revision=revision)
    return str(_with_retries(asked, lambda: HfApi().dataset_info(repository, revision=revision).sha))


class _Saved(NamedTuple):
    """Point from which a fetch can resume: bytes and rows written so far, and after which row of which file."""

    bytes: int = 0
    rows: int = 0
    file: int = 0
    row: int = 0


class _Split(NamedTuple):
    """Files of a split in their order, their kind, and the separator of CSV fields."""

    places: list[str]
    kind: str
    separator: str


class _Download:
    """Growing `rows.jsonl`, and the last point from which it can resume. Another declaration starts over."""

    def __init__(self, rows: Path, state: Path, source: HuggingfaceSource) -> None:
        self.rows, self._state = rows, state
        self._of = hashlib.sha256(canonical(["rows by files", source.model_dump(exclude={"sha256"})])).hexdigest()

    def saved(self) -> _Saved:
        if not self._state.exists() or not self.rows.exists():
            return _Saved()
        state = parse(self._state.read_bytes(), self._state)
        if not isinstance(state, dict) or state.get("of") != self._of or self.rows.stat().st_size < state["at"][0]:
            return _Saved()
        return _Saved(*state["at"])

    def save(self, file: IO[bytes], rows: int, number: int, row: int) -> None:
        _sync(file)
        write_bytes(self._state, canonical({"of": self._of, "at": [file.tell(), rows, number, row]}))

    def forget(self) -> None:
        self.rows.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)


def _append_rows(
    source: HuggingfaceSource, split: _Split, files: Path, download: _Download, report: ReportTotal
) -> None:
    """Write all rows after the last point that was saved."""
    saved, reported = download.saved(), 0.0
    with download.rows.open("r+b" if saved.bytes else "wb") as out:
        out.seek(saved.bytes)
        out.truncate()
        last, rows = saved.bytes, saved.rows
        for number in range(saved.file, len(split.places)):
            if rows == source.max_documents:
                break
            path = _downloaded(source, split.places[number], files, _hub_digest(source, split.places[number]))
            done = saved.row if number == saved.file else 0
            left = None if source.max_documents is None else done + source.max_documents - rows
            for row in islice(_rows(source, split, path, split.places[number]), done, left):
                out.write(canonical(row) + b"\n")
                rows, done = rows + 1, done + 1
                if out.tell() - last >= STATE_BYTES:
                    download.save(out, rows, number, done)
                    last = out.tell()
                if time.monotonic() - reported > REPORT_SECONDS:
                    report(out.tell(), None)
                    reported = time.monotonic()
            download.save(out, rows, number + 1, 0)
            last = out.tell()
            path.unlink()
        _sync(out)
        report(out.tell(), out.tell())


def _split(source: HuggingfaceSource) -> _Split:
    """Find the files of the declared split at the commit, as `datasets` does by the README or by their names."""
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # the Hub's conversions are not what the commit pins
    builder = datasets.load_dataset_builder(source.repository, name=source.config, revision=source.revision)
    kind = type(builder).__module__.rpartition(".")[2]
    if kind != "parquet" and kind not in ENDINGS:
        known = ", ".join(["parquet", *sorted(ENDINGS)])
        raise EverystepError(f"{_name(source)}: its files are of the kind {kind}; only {known} are supported")
    config: Any = builder.config
    for setting in fields(config):
        if setting.name not in HARMLESS and getattr(config, setting.name) != setting.default:
            wrong = f"its README sets {setting.name} for {kind}, which is not supported"
            raise EverystepError(f"{_name(source)}: {wrong}; choose another config, or fetch its files by `url`")
    found = {str(name): list(map(str, places)) for name, places in (config.data_files or {}).items()}
    if source.split not in found:
        there = records.listed(found)
        raise EverystepError(f"{_name(source)}: has no split {source.split!r}, only {there}; correct `split`")
    prefix = f"hf://datasets/{source.repository}@{source.revision}/"
    if foreign := [place for place in found[source.split] if not place.startswith(prefix)]:
        raise EverystepError(f"{_name(source)}: {foreign[0]!r} is not a file of the commit; fetch it by `url`")
    separator = getattr(config, "sep", ",")
    if len(separator) != 1:
        raise EverystepError(
            f"{_name(source)}: its README separates fields by {separator!r}; only one character is read"
        )
    return _Split([place.removeprefix(prefix) for place in found[source.split]], kind, separator)


def _downloaded(source: AtCommit, place: str, folder: Path, expected: str | None) -> Path:
    """Download a file of the commit to `folder`, unless it is there, and compare it with the `expected` SHA-256."""
    from huggingface_hub import hf_hub_download

    at = {"repo_type": "dataset", "revision": source.revision, "local_dir": folder}
    _with_retries(source, bound(hf_hub_download, source.repository, place, **at))
    path = safe_join(folder, place)
    if expected is not None and (digest := sha256_file(path)) != expected:
        path.unlink()
        wrong = f"expected sha256 {expected}, as the Hub keeps it, got {digest}"
        raise Differs(f"{_name(source)}: {escaped(place)}: {wrong}; the file is removed, run again")
    return path


def _hub_digest(source: AtCommit, place: str) -> str | None:
    """Ask for the SHA-256 that the Hub keeps for a file; small ones have none."""
    from huggingface_hub import HfApi

    ask = bound(HfApi().get_paths_info, source.repository, [place], repo_type="dataset", revision=source.revision)
    about: list[Any] = _with_retries(source, ask)
    return about[0].lfs.sha256 if about and about[0].lfs else None


def _rows(source: HuggingfaceSource, split: _Split, path: Path, place: str) -> Iterator[Json]:
    """Yield each row of a file as it is kept. A file that cannot be read is removed, for the next run to fetch it."""
    where = f"{_name(source)}: {escaped(place)}"
    try:
        for number, row in enumerate(_read(source, split, path, where), 1):
            yield _kept(source, row, f"{escaped(place)}, row {number}")
    except EverystepError:
        path.unlink(missing_ok=True)
        raise


def _read(source: HuggingfaceSource, split: _Split, path: Path, where: str) -> Iterator[Any]:
    if split.kind == "parquet":
        records.check_parquet_columns(path, where, source.text_column, source.needed_columns)
        yield from records.parquet_rows(path, where, source.columns)
        return
    readers: dict[str, Callable[[Any, str], Iterator[Any]]] = {
        "json": records.json_rows,
        "text": records.text_rows,
        "csv": bound(records.csv_rows, separator=split.separator),
    }
    for name, packed in archives.streams_of(path, *ENDINGS[split.kind]):
        member = where if name == path.name else f"{where}: {escaped(name)}"
        stream = archives.decompressed(packed, member, path.stat().st_size)
        yield from _with_columns(readers[split.kind](stream, member), member, source)


def _with_columns(rows: Iterator[Any], where: str, source: HuggingfaceSource) -> Iterator[Any]:
    """Yield the rows of a file, which is refused if none of them has a column that is needed."""
    absent: list[str] = source.needed_columns
    there: list[str] = []
    for row in rows:
        if absent and isinstance(row, dict):
            there = there or list(row)
            absent = [name for name in absent if records.top_column(list(row), name) not in row]
        yield row
    if absent and there:
        raise records.no_column(where, absent[0], there)


def _kept(source: HuggingfaceSource, row: Any, place: str) -> Json:
    """Reduce a row to the declared columns as strings or null, or to the reason and detail of its removal."""
    if isinstance(row, Broken):
        return list(row)
    text = column(row, source.text_column)
    if text is not None and not isinstance(text, str):
        wrong = f"{place}: column {source.text_column!r} holds {type(text).__name__} and no string"
        return ["broken_record", wrong]
    values = {name: column(row, name) for name in source.columns}
    kept = {name: None if plain(value) is None else as_text(value) for name, value in values.items()}
    if source.id_column:
        key = values[source.id_column]
        kept[source.id_column] = str(key) if isinstance(key, str | int) and not isinstance(key, bool) else None
    kept[source.text_column] = text
    try:
        canonical(kept)
    except EverystepError as error:
        return ["invalid_utf8", f"{place}: {error}"]
    return kept


def _listed(source: TokenizedSource) -> dict[str, str | None]:
    """List the files that match `members`, each with the SHA-256 that the Hub keeps; small ones have none."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def ask() -> list[Any]:
        return list(
            HfApi().list_repo_tree(source.repository, recursive=True, revision=source.revision, repo_type="dataset")
        )

    tree = _with_retries(source, ask)
    files = [entry for entry in tree if isinstance(entry, RepoFile) and fnmatchcase(entry.path, source.members)]
    if len(files) != source.files or len({Path(entry.path).name for entry in files}) != len(files):
        wrong = f"{source.files} files of different names are declared, {len(files)} match {source.members!r}"
        raise EverystepError(f"{_name(source)}: {wrong}; correct `members` or `files`")
    return {entry.path: entry.lfs.sha256 if entry.lfs else None for entry in files}


def _with_retries(source: AtCommit, ask: Callable[[], Answer], reached: Callable[[], int] = lambda: 0) -> Answer:
    """Ask again while the Hub is busy or unreachable; `reached` says how far the answer has come."""
    try:
        return with_retries(ask, _is_transient, FIRST_WAIT_SECONDS, reached)
    except EverystepError:
        raise
    except Exception as error:  # a library that talks to a network raises anything; the cause stays in the chain
        raise EverystepError(f"{_name(source)}: {_explained(source, error)}") from error


def _is_transient(error: BaseException) -> bool:
    """Tell whether the Hub was busy or unreachable. Its client calls errors of the network `TransportError`."""
    return not isinstance(error, EverystepError) and any(
        _status(cause) in TRANSIENT_STATUSES
        or isinstance(cause, ConnectionError | TimeoutError)
        or "TransportError" in [kind.__name__ for kind in type(cause).__mro__]
        for cause in _causes(error)
    )


def _explained(source: AtCommit, error: Exception) -> str:
    from huggingface_hub import get_token

    causes = list(_causes(error))
    statuses = {_status(cause) for cause in causes}
    message = f"{type(error).__name__}: {error}".strip()
    if token := get_token():
        message = message.replace(token, "(the token)")
    if any("scripts are no longer supported" in str(cause) for cause in causes):
        return f"{message}; programs of a data set are never run: choose a data set of plain files"
    if any(type(cause).__name__ == "RevisionNotFoundError" for cause in causes):
        return f"{message}; the data set has no such commit: correct `revision`"
    hidden = "gated dataset" in message or "cannot be accessed" in message  # `datasets` drops the cause of these
    if hidden or statuses & {401, 403}:
        page = f"https://huggingface.co/datasets/{source.repository}"
        allowed = f"accept its terms at {page} and set HF_TOKEN to a token that may read it"
        return f"{message}; it does not exist or is not public: correct `repository`, or {allowed}"
    if _is_transient(error):
        return f"{message}; the Hub was busy or unreachable {ATTEMPTS} times: the rows so far are kept, run again later"
    return f"{message}; check repository, revision, config and split, and that the Hub is reachable; then run again"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Give the HTTP status of an answer of the Hub."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _name(source: AtCommit) -> str:
    return f"{source.repository}@{source.revision[:12]}"
