"""Fetch rows of token ids that others published: the pinned files, byte for byte, into `data/llm360`.

The first stage of a release that begins with rows instead of texts (`examples/amber`); training is the next. Reads the
world and `rows` of `params.yaml`; writes the files under their own names and `manifests/rows.json`. What is in them is
checked, row by row, when a training begins.
"""

from pipeline.base.console import progress, run_command
from pipeline.base.files import fresh_folder
from pipeline.base.params import load_params, load_section
from pipeline.base.paths import PARAMS, PUBLISHED_ROWS, WORK
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import PublishedRows
from pipeline.release.words import check_words_on_rows
from pipeline.sources.declaration import TokenizedSource
from pipeline.sources.huggingface import fetch_files


def rows() -> None:
    """Fetch the declared files. Those that are complete when it is killed are not fetched again."""
    source = load_section(TokenizedSource, "rows")
    basis = take_basis(sections=["rows"])
    check_words_on_rows(load_params(), str(PARAMS))
    partial = WORK / "rows" / source.revision
    partial.mkdir(parents=True, exist_ok=True)
    folder = fresh_folder(PUBLISHED_ROWS)
    with progress("rows", source.files, "files") as advance:
        files = fetch_files(source, folder, partial, lambda path: advance(1, path))
    write_manifest(PublishedRows, None, basis, parameters=source.model_dump(), outputs={}, files=files)


if __name__ == "__main__":
    run_command(rows, "")
