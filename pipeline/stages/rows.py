"""Fetch published rows of token ids: the pinned files, byte for byte, into `data/llm360`.

This is the first stage of a release that begins with rows instead of texts (`examples/amber`); training is the next.
Reads the network and `rows` of `params.yaml`; writes the files under their own names and `manifests/rows.json`. Their
rows are checked, one by one, when a training begins.
"""

from pipeline.base.console import progress
from pipeline.base.files import fresh_folder
from pipeline.base.params import load_params, load_section
from pipeline.base.paths import PARAMS, PUBLISHED_ROWS, WORK
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import PublishedRows
from pipeline.release.words import check_words_on_rows
from pipeline.sources.declaration import TokenizedSource
from pipeline.sources.huggingface import fetch_files


def rows() -> None:
    """Fetch the declared files. After a kill, files that are complete are not fetched again."""
    source = load_section(TokenizedSource, "rows")
    basis = take_basis(sections=["rows"])
    check_words_on_rows(load_params(), str(PARAMS))
    partial = WORK / "rows" / source.revision
    partial.mkdir(parents=True, exist_ok=True)
    folder = fresh_folder(PUBLISHED_ROWS)
    with progress("rows", source.files, "files") as advance:
        files = fetch_files(source, folder, partial, advance)
    write_manifest(PublishedRows, None, basis, parameters=source.model_dump(), outputs={}, files=files)
