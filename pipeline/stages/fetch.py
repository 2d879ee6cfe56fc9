"""Fetch one source: its artefact, byte for byte as pinned, into `data/raw/SOURCE`.

Reads the network and `sources.SOURCE` of `params.yaml`; writes the raw artefact and
`manifests/sources/SOURCE.json`. Bytes that are not the pinned ones never reach the output folder.
"""

from pipeline.base.console import progress, total_of
from pipeline.base.files import fresh_folder
from pipeline.base.params import load_params, source_names
from pipeline.base.paths import PARAMS, RAW, WORK
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import Fetched
from pipeline.release.words import check_words
from pipeline.sources.declaration import load_source
from pipeline.sources.fetch import fetch as fetch_source


def fetch(name: str) -> None:
    """Fetch the source `name`."""
    source = load_source(name)
    basis = take_basis(sections=[f"sources.{name}"])
    check_words(load_params(), source_names(), str(PARAMS))  # the last stage needs them, and would complain too late
    folder = fresh_folder(RAW / name)
    partial = WORK / "fetch" / name
    partial.mkdir(parents=True, exist_ok=True)
    with progress(f"fetch {name}", None, "bytes") as advance:
        files = fetch_source(name, source, folder, partial, total_of(advance))
    write_manifest(
        Fetched,
        name,
        basis,
        parameters=source.model_dump(),
        outputs={},
        files=files,
    )
