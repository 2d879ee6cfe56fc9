"""A package index (PEP 503) on this machine, and wheels to put on it."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.loopback import Handler, serve


def wheel(name: str, version: str, files: dict[str, bytes]) -> bytes:
    """A pure wheel that holds `files`; the same arguments give the same bytes."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    tag = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    everything = files | {f"{info}/METADATA": metadata, f"{info}/WHEEL": tag, f"{info}/RECORD": b""}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in everything.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


@contextmanager
def serve_index(wheels: dict[str, bytes], *, honest: bool = True) -> Iterator[str]:
    """Serve wheels by file name (`demo-1.0-py3-none-any.whl`); gives the URL for `PIP_INDEX_URL`.

    A dishonest index states no digest beside its links, so that only the declared one can notice other bytes.
    """

    class Index(Handler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            place = self.path.strip("/").split("/")
            if place[0] == "files" and place[-1] in wheels:
                self.answer_file(wheels[place[-1]], content_type="application/zip")
            elif place[0] == "simple" and len(place) == 2:
                links = "".join(
                    f'<a href="/files/{name}{_fragment(content) if honest else ""}">{name}</a>\n'
                    for name, content in sorted(wheels.items())
                    if name.split("-")[0].replace("_", "-") == place[1]
                )
                body = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
                self.answer(200 if links else 404, body, content_type="text/html")
            else:
                self.answer(404, b"")

    with serve(Index) as url:
        yield f"{url}/simple"


def _fragment(content: bytes) -> str:
    return f"#sha256={hashlib.sha256(content).hexdigest()}"
