"""Written: what decodes alike is also written as we write it, so that no two files say the same and differ.

JSON is in its indented form, JSON lines are RFC 8785, frames of lines have a checksum and no dictionary, tensors are in
the order of their names with the one key of metadata. What a compressor makes of the same lines changes with its
version, and no reader sees it, so compressed bytes themselves are not compared. Rows and order are compared by
`texts` and `order`, the footers of tables by `footers`, papers and CSVs by `pipeline.audit.agreement`.
"""

from collections.abc import Iterator

from pipeline.audit.sums import parse_sums
from pipeline.base.errors import EverystepError
from pipeline.base.files import plain_lines, read_small, safe_join
from pipeline.base.paths import PARAMS, TOKENIZER
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import parse, pretty
from pipeline.formats.lines import LineFile, encode_line
from pipeline.formats.release import ROOT, SUMS
from pipeline.release.mirror import fetch_small
from pipeline.release.release import Release

AS_YAML = (PARAMS.as_posix(), "dvc.lock")
"""JSON that is read as YAML."""


def written_faults(release: Release) -> Iterator[str]:
    """Each file that could be written in another way than ours, and is."""
    yield from _lists(release)
    for path in sorted(release.files):
        match path.rpartition(".")[2]:
            case "json" | "yaml" | "lock" if path.endswith(".json") or path in AS_YAML:
                content = release.read(path)
                is_ours = path == TOKENIZER.as_posix() or pretty(parse(content, path)) == content
            case "jsonl":
                lines = plain_lines(release.file(path))
                is_ours = all(encode_line(parse(line, path)) == line + b"\n" for line in lines)
            case "zst":
                with LineFile(release.file(path)) as file:
                    is_ours = file.odd_frame() is None
            case "safetensors":
                is_ours = ck.is_canonical(release.file(path))
            case _:
                is_ours = True
        if not is_ours:
            yield f"{path}: is not written as Everystep writes it, though it reads the same"


def _lists(release: Release) -> Iterator[str]:
    """The root manifest and `SHA256SUMS`, which no other file promises."""
    root, sums = (_listing(release, name) for name in (ROOT, SUMS))
    if pretty(parse(root, ROOT)) != root:
        yield f"{ROOT}: is not written as Everystep writes it, though it reads the same"
    try:
        lines = [f"{sha256}  {path}\n" for path, sha256 in sorted(parse_sums(sums).items())]
    except EverystepError as error:
        yield str(error)
        return
    if "".join(lines).encode() != sums:
        yield f"{SUMS}: is not written as Everystep writes it, though it reads the same"


def _listing(release: Release, name: str) -> bytes:
    if release.mirror:
        return release.mirror.root if name == ROOT else fetch_small(release.mirror.store, name)
    return read_small(safe_join(release.folder, name, release.follow_links))
