"""Fetch one file by its URL: from a web server, or through fsspec.

`file:` takes an absolute path (`file:///data/x.zip`) or one relative to the working directory (`file:corpus/x.zip`).
`s3:` and `gs:` are read without credentials if the store allows it, so that a public corpus needs none.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.base.console import ReportTotal
from pipeline.base.errors import Differs
from pipeline.base.files import sha256_file
from pipeline.sources.declaration import Url
from pipeline.stores import web
from pipeline.stores.download import download
from pipeline.stores.objects import ANONYMOUS, opened_filesystem, ranges, translated_errors
from pipeline.stores.store import AccessDenied, Answer

MAX_BYTES = 256 << 30
MAX_NAME = 200  # characters


def fetch(source: Url, folder: Path, partial: Path, report: ReportTotal) -> None:
    """Move the file at `source.url` into `folder` under its own name once its digest is the declared one.

    Until then its bytes are in `partial`, named by the digest, and a server that supports ranges resumes from there.
    """
    path = partial / f"{source.sha256}.part"
    download(source.url, lambda start: _opened(source.url, start), path, source.bytes or MAX_BYTES, report)
    size, digest = path.stat().st_size, sha256_file(path)
    if digest != source.sha256:
        path.unlink()
        advice = "the file is removed; run again, and if it differs again, the address now serves other bytes"
        raise Differs(f"{source.url}: expected sha256 {source.sha256}, got {digest} of {size} bytes; {advice}")
    report(size, size)
    path.replace(folder / _file_name(source.url))


@contextmanager
def _opened(url: str, start: int) -> Iterator[Answer]:
    if urlsplit(url).scheme in ("http", "https"):
        with web.opened(url, start) as answer:
            yield answer
        return
    filesystem, place, size = _located(url)
    begin = min(start, size)
    yield Answer(ranges(url, filesystem, place, begin, size), begin, size)


def _located(url: str) -> tuple[Any, str, int]:
    """Find (file system, path of the file in it, its size)."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return _sized(url, str(Path(unquote(urlsplit(url).path)).absolute()))
    try:
        return _sized(url, url, **ANONYMOUS[scheme])
    except AccessDenied:  # not public
        return _sized(url, url)


def _sized(url: str, place: str, **options: Any) -> tuple[Any, str, int]:
    filesystem = opened_filesystem(url, **options)
    with translated_errors(url):
        about = filesystem.info(place)
        if about["type"] != "file":
            raise IsADirectoryError(place)
    return filesystem, place, int(about["size"])


def _file_name(url: str) -> str:
    """Name the file by the end of the address, with `_` for characters that a file name must not hold."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-MAX_NAME:].lstrip(".") or "download"
