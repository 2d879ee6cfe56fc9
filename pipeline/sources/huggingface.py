"""Rows of a data set of the Hugging Face Hub at one commit, streamed by `datasets`.

What is kept is one file `rows.jsonl` of canonical JSON lines that hold the declared columns and nothing else, in the
order of the split; so its SHA-256 is the digest of record of the rows, whatever files the Hub keeps them in. No
program of a data set's repository is ever run. The Hub's own settings (`HF_ENDPOINT`, `HF_TOKEN`) say where and as
whom to ask, never what: the commit decides.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.formats.canonical import canonical
from pipeline.formats.errors import Differs, EverystepError
from pipeline.formats.files import atomic_writer, sha256_file
from pipeline.sources.declaration import HuggingfaceSource
from pipeline.sources.rows import as_text, column

Report = Callable[[int, int | None], None]
REPORT_SECONDS = 0.1


def fetch(source: HuggingfaceSource, folder: Path, partial: Path, report: Report) -> None:
    """Put `rows.jsonl` into `folder`. A killed fetch starts again; a declared digest is compared before the move."""
    rows = partial / "rows.jsonl"
    done, reported = 0, 0.0
    with atomic_writer(rows) as file:
        for row in _rows(source):
            done += file.write(canonical(row) + b"\n")
            if time.monotonic() - reported > REPORT_SECONDS:
                report(done, None)
                reported = time.monotonic()
    report(done, done)
    digest = sha256_file(rows)
    if source.sha256 and digest != source.sha256:
        rows.unlink()
        advice = "the digest covers the declared columns and max_documents: correct it if one of these was changed"
        raise Differs(f"{_name(source)}: expected sha256 {source.sha256} of the rows, got {digest}; {advice}")
    if not done:
        raise EverystepError(f"{_name(source)}: split {source.split!r} has no rows; correct config or split")
    rows.replace(folder / "rows.jsonl")


def _rows(source: HuggingfaceSource) -> Iterator[dict[str, Any]]:
    """The declared columns of each row. A missing or null text stays null: the reader rejects and counts it."""
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # the Hub's conversions are not what the commit pins
    if Path(source.repository).exists():
        raise EverystepError(f"{source.repository}: a local path of that name hides the Hub's; run in another folder")
    wanted = [source.text_column, *([source.id_column] if source.id_column else []), *source.metadata_columns]
    try:
        stream = datasets.load_dataset(
            source.repository, name=source.config, revision=source.revision, split=source.split, streaming=True
        )
        there = stream.column_names
        if there:
            stream = stream.select_columns(_top_columns(wanted, there, source))
        for row in stream if source.max_documents is None else stream.take(source.max_documents):
            yield {name: _plain(column(row, name)) for name in wanted}
    except EverystepError:
        raise
    except Exception as error:  # a library that talks to a network raises anything; the cause stays in the chain
        advice = "check repository, revision, config and split, and that the Hub is reached; then run again"
        raise EverystepError(f"{_name(source)}: {type(error).__name__}: {error}; {advice}") from error


def _top_columns(wanted: list[str], there: list[str], source: HuggingfaceSource) -> list[str]:
    tops = {name if name in there else name.split(".")[0] for name in wanted}
    if missing := sorted(tops - set(there)):
        wrong = f"has no column {', '.join(missing)}, only {', '.join(there)}; correct the declaration"
        raise EverystepError(f"{_name(source)}: {wrong}")
    return sorted(tops)


def _plain(value: Any) -> Any:
    """Strings, booleans and null stay; an id that is an integer and everything else becomes text."""
    if value is None or isinstance(value, str | bool):
        return value
    return str(value) if isinstance(value, int) else as_text(value)


def _name(source: HuggingfaceSource) -> str:
    return f"{source.repository}@{source.revision[:12]}"
