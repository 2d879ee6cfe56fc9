"""Tasks: minimal pairs made again from the held-out rows, and what counting runs of tokens scores.

The items of stock tasks are in no release; of them the table of items is compared with the counts of the manifest.
Their texts, and what counting scores on them, come again with the stage `tasks` and the pinned artefact. Where a
release has forgotten documents, its rows hold filler that the count did not see, so the counting is not done again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np

from pipeline.base.paths import TASKS, TOKENIZER
from pipeline.blocks.byte_pairs import BytePairs, is_known
from pipeline.blocks.counting import CountedRuns, accuracies, bits_per_byte
from pipeline.blocks.pairs import Limits, Text, pairs_asked
from pipeline.formats.canonical import parse
from pipeline.formats.manifests import NgramScore, TasksMade, Tokens
from pipeline.formats.tables import ITEMS, ITEMS_FILE, read_table
from pipeline.formats.tasks import Item, TextIds, item_line, task_file
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.forgetting import forgotten_of
from pipeline.release.held_out import held_out
from pipeline.release.release import Release
from pipeline.release.row_blocks import first_rows, row_blocks


def task_faults(release: Release) -> Iterator[str]:
    """Each pair, count and score that does not come again."""
    manifest = release.manifest(TasksMade)
    parameters = manifest.parameters.to_json()
    rules = parameters["pairs"]
    limits = Limits(rules["characters"], rules["words"])
    texts = [Text(*document) for document in held_out(release)]
    again: dict[str, list[Item]] = {}
    for name, sources in sorted(rules["sources"].items()):
        again[name], task = pairs_asked(name, sources, texts, limits, rules["items"])
        if manifest.tasks.get(name) != task:
            yield f"{manifest.path}: tasks.{name}: is not what the held-out rows give"
        content = hashlib.sha256(b"".join(map(item_line, again[name]))).hexdigest()
        if [shard.sha256 for shard in manifest.shards("pairs") if shard.path == task_file(name)] != [content]:
            yield f"{TASKS / task_file(name)}: its pairs are not those that the held-out rows give"
    yield from _table(release, manifest, again)
    if forgotten_of(release) is None:
        yield from _counting(release, manifest, again)


def _table(release: Release, manifest: TasksMade, again: dict[str, list[Item]]) -> Iterator[str]:
    """The faults of the table of items."""
    path = TASKS / ITEMS_FILE
    columns = read_table(release.file(path), ITEMS).to_pydict()
    names, items, digests = (columns[field.name] for field in ITEMS)
    if names != sorted(names):
        yield f"{path}: its tasks are not in order"
    counted = Counter(names)
    for name in sorted({*counted, *manifest.tasks}):
        said = manifest.tasks[name].items if name in manifest.tasks else 0
        if counted[name] != said:
            yield f"{path}: has {counted[name]} items of {name}, {manifest.path} says {said}"
    if len({*zip(names, items, strict=True)}) < len(names):
        yield f"{path}: has an item twice"
    for name, made in again.items():
        found = [(item, digest) for task, item, digest in zip(names, items, digests, strict=True) if task == name]
        if found != [(item.id, hashlib.sha256(item_line(item)).hexdigest()) for item in made]:
            yield f"{path}: {name}: its items are not those that the held-out rows give"


def _counting(release: Release, manifest: TasksMade, again: dict[str, list[Item]]) -> Iterator[str]:
    """The faults of the scores of counting."""
    tokens, said = release.manifest(Tokens), manifest.counting
    declared = manifest.parameters.to_json()["counting"]
    counted = first_rows(release, tokens, declared["rows"])
    for key, number, found in (("rows", said.rows, len(counted)), ("tokens", said.tokens, counted.size)):
        if number != found:
            yield f"{manifest.path}: counting.{key} is {number}, the rows give {found}"
    counts = CountedRuns(counted, tokens.vocabulary, declared["order"])
    bits = bits_per_byte(counts, row_blocks(release, tokens, "validation"), token_bytes(release.file(TOKENIZER)))
    if [(loss.order, loss.bits_per_byte) for loss in said.held_out] != [*enumerate(bits, 1)]:
        yield f"{manifest.path}: counting.held_out: the held-out rows take {bits} bits per byte"
    if {*said.tasks} != {*manifest.tasks}:
        yield f"{manifest.path}: counting.tasks: are not those of the release"
    ids_of = _encoder(release)
    for name, items in again.items():
        if all(is_known(choice.context + choice.continuation) for item in items for choice in item.choices):
            found_scores = [
                NgramScore(order=n, accuracy=accuracy, standard_error=error)
                for n, (accuracy, error) in enumerate(accuracies(counts, items, ids_of), 1)
            ]
            if said.tasks.get(name) != found_scores:
                yield f"{manifest.path}: counting.tasks.{name}: counting the rows gives other scores"


def _encoder(release: Release) -> TextIds:
    """An encoder of texts, with nothing but Python; contexts that several choices have are encoded once."""
    tree = parse(release.read(TOKENIZER), TOKENIZER)["model"]
    pairs = BytePairs(tree["vocab"], tree["merges"])

    @cache
    def ids(text: str) -> list[int]:
        found: list[int] = np.frombuffer(pairs.encode(text), dtype="<u4").tolist()
        return found

    return lambda texts: [ids(text) for text in texts]
