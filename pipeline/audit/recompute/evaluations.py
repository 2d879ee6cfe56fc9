"""Evaluations: the lines of each learning record are the targets that rows, index and order give, and all that is said
of its losses is what they sum up to. What a checkpoint wrote is the text of its tokens.

The losses and the tokens themselves take the models; `everystep replay --evaluation` computes them again.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.base.files import safe_join
from pipeline.base.paths import RESULTS, TOKENIZER, TOKENS
from pipeline.formats import losses as record
from pipeline.formats import samples
from pipeline.formats.canonical import Json
from pipeline.formats.manifests import Checkpoint, Evaluated, Tokens
from pipeline.formats.vocabulary import end_token, token_bytes, token_texts
from pipeline.release.release import Release
from pipeline.release.results import HeldOut
from pipeline.release.targets import Targets, targets_of, targets_of_release

SHOWN = 200
"""Characters of a value that a fault shows."""


class Tokenizer(NamedTuple):
    """What is asked of the tokenizer."""

    sizes: NDArray[np.int64]
    """Bytes of each token."""
    texts: list[bytes]
    end: int


def evaluation_faults(release: Release) -> Iterator[str]:
    """Each evaluation whose record, sums or samples do not follow from the rest."""
    path = release.file(TOKENIZER)
    tokenizer = Tokenizer(token_bytes(path), token_texts(path), end_token(path))
    for name in release.models():
        checkpoints = list(release.model(name).checkpoints)
        yield from _record(release, name, checkpoints, tokenizer)
        yield from _samples(release, name, checkpoints, tokenizer)


def _targets(release: Release, name: str) -> Targets:
    """The targets of a record. The readers of rows take plain files, so links that may be followed are copied first."""
    if not release.follow_links:
        return targets_of_release(release, name)
    tokens = release.manifest(Tokens)
    with TemporaryDirectory(prefix="everystep-") as folder:
        for split in ("validation", "train"):
            for shard in (*tokens.shards(split), tokens.shard(f"{split}_index")):
                place = safe_join(Path(folder) / TOKENS, shard.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                copyfile(release.file(TOKENS / shard.path), place)
        parameters = release.manifest(Evaluated, name).parameters
        return targets_of(Path(folder), tokens, release.model(name), parameters)


def _record(release: Release, name: str, checkpoints: Sequence[Checkpoint], tokenizer: Tokenizer) -> Iterator[str]:
    """The lines of the record, and what the manifest says that they sum up to."""
    path, evaluated = RESULTS / name / record.NAME, release.manifest(Evaluated, name)
    revisions = [entry.revision for entry in checkpoints]
    if record.stored_revisions(release.file(path)) != revisions:
        yield f"{path}: its losses are not those of the model's checkpoints, in their order"
        return
    targets = _targets(release, name)
    faults = list(_keys(release.file(path), targets, revisions))
    if faults:
        yield from (f"{path}: {fault}" for fault in faults)
        return
    held_out = HeldOut.of(targets, tokenizer.sizes)
    results, by_source = held_out.results(checkpoints, _losses(release.file(path), targets, revisions))
    found: dict[str, Json] = {
        "rows": targets.num_held_out,
        "train_rows": len(targets.rows) - targets.num_held_out,
        "targets": held_out.bytes.size,
        "bytes": int(held_out.bytes.sum()),
        "sources": {source: text.to_json() for source, text in held_out.texts().items()},
        "results": [result.to_json() for result in results],
        "by_source": [result.to_json() for result in by_source],
    }
    yield from _compared(evaluated, found)


def _keys(path: Path, targets: Targets, revisions: Sequence[str]) -> Iterator[str]:
    """The first line whose key columns are not those of the targets."""
    begin = 0
    for batch in record.losses_batches(path, revisions, record.KEYS.names):
        said = pa.Table.from_batches([batch])
        expected = targets.keys.slice(begin, batch.num_rows)
        if not said.equals(expected):
            lines = zip(said.to_pylist(), expected.to_pylist(), strict=False)
            number, line, other = next(
                ((number, *pair) for number, pair in enumerate(lines) if pair[0] != pair[1]),
                (expected.num_rows, "another line", "none"),
            )
            yield f"line {begin + number + 1} is {line}, the rows give {other}"
            return
        begin += batch.num_rows
    if begin != targets.keys.num_rows:
        yield f"has {begin} lines, the rows give {targets.keys.num_rows}"


def _losses(path: Path, targets: Targets, revisions: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
    """The losses of the held-out targets at each checkpoint, shape (rows, context)."""
    rows, context = targets.num_held_out, targets.shape[1]
    found = {}
    for revision in revisions:
        columns = [batch.column(0).to_numpy() for batch in record.losses_batches(path, revisions, [revision])]
        found[revision] = np.concatenate(columns)[: rows * context].reshape(rows, context)
    return found


def _compared(evaluated: Evaluated, found: Mapping[str, Json]) -> Iterator[str]:
    """Each key of the manifest, or entry of a list in it, that is not what was found."""
    said = evaluated.to_json()
    for key, value in found.items():
        ours, theirs = said[key], value
        if isinstance(value, list) and len(ours) == len(theirs):
            ours, theirs = next((pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]), (ours, theirs))
        if ours != theirs:
            yield f"{evaluated.path}: {key} is {ours!s:.{SHOWN}}, the rows and losses give {theirs!s:.{SHOWN}}"


def _samples(release: Release, name: str, checkpoints: Sequence[Checkpoint], tokenizer: Tokenizer) -> Iterator[str]:
    """Each line that is not for its checkpoint and prompt, or whose text is not that of its tokens."""
    path, parameters = RESULTS / name / samples.NAME, release.manifest(Evaluated, name).parameters
    lines = [samples.Written.parse(line, path) for line in release.read(path).splitlines()]
    asked = [(entry.revision, entry.step, prompt) for entry in checkpoints for prompt in parameters.prompts]
    if [(line.revision, line.step, line.prompt) for line in lines] != asked:
        yield f"{path}: its lines are not one for each checkpoint and each of evaluate.prompts, in their order"
        return
    for number, line in enumerate(lines, 1):
        known = max(line.token_ids, default=0) < len(tokenizer.texts)
        early = tokenizer.end in line.token_ids[:-1] or not 0 < len(line.token_ids) <= parameters.sample_tokens
        if not known or early or line.text != samples.text_written(line.token_ids, tokenizer.texts):
            yield f"{path}: line {number}: text: not that of its tokens"
        elif line.ended != samples.reason_to_end(line.token_ids, tokenizer.end, parameters.sample_tokens):
            yield f"{path}: line {number}: ended: {line.ended!r:.{SHOWN}} is not how its tokens end"
