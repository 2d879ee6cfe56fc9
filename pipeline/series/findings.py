"""What is wrong with a series, by metadata alone: one pure function for each kind of finding.

Equal digests show that two revisions serve the same bytes. Which of them the bytes belong to is not known from that,
except where one is the last step and `main` serves the same.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from pipeline.formats.canonical import Json
from pipeline.series import schedule
from pipeline.series.headers import Layout
from pipeline.series.names import shards, steps_in_words
from pipeline.series.series import IDENTITY, Checkpoint, Collection, File, Series, Unseen, is_weights

Kind = Literal[
    "same as main",
    "same weights",
    "no update",
    "shared shard",
    "missing step",
    "missing file",
    "order",
    "parent",
    "config",
    "tokenizer",
    "tensors",
    "dead link",
    "not readable",
    "displacement",
]
NOT_NEEDED = (".gitattributes", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", ".gitignore")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
Objects = Mapping[str, Mapping[str, Json]]
"""JSON objects by the name of their revision."""
LONGEST_VALUE = 60
SIZE_TOLERANCE = 0.01
"""Share by which pickled weights of one shape may differ in size."""


class Evidence(NamedTuple):
    """A file, and the revisions that serve these very bytes of it."""

    path: str
    bytes: int | None
    digest: str | None
    revisions: tuple[str, ...]


class Finding(NamedTuple):
    """Something wrong, and the revisions that it is wrong with."""

    kind: Kind
    revisions: tuple[str, ...]
    """Those that are named; for missing steps, empty."""
    what: str
    """A clause for a person."""
    steps: tuple[int, ...] = ()
    evidence: tuple[Evidence, ...] = ()


def whole_copies(collection: Collection) -> Iterator[Finding]:
    """Revisions with the weights of another one: those of `main`, of an earlier step, or of any other."""
    groups: dict[tuple[str, ...], list[Evidence]] = defaultdict(list)
    by_name = {checkpoint.name: checkpoint for checkpoint in _all(collection)}
    for sharing, files in same_weights(collection):
        groups[sharing] += [Evidence(path, file.bytes, file.digest, sharing) for path, file in files.items()]
    for names, evidence in groups.items():
        members = [by_name[name] for name in names]
        finding = _judged(collection, members, tuple(evidence))
        if finding:
            yield finding


def shared_shards(collection: Collection) -> Iterator[Finding]:
    """Revisions of which some shards are those of another revision, and others are not: a part was replaced."""
    found: dict[tuple[str, ...], list[Evidence]] = defaultdict(list)
    every = list(_all(collection))
    for path in sorted({path for one in every for files in one.weights().values() for path in files}):
        holders: dict[tuple[int | None, str], list[Checkpoint]] = defaultdict(list)
        for one in every:
            file = one.files.get(path)
            if file and file.digest:
                holders[file.bytes, file.digest].append(one)
        for (size, digest), members in holders.items():
            if 1 < len(members) < len(every) and len({_identity(one, path) for one in members}) > 1:
                named = tuple(one.name for one in _without_owners(collection, members, path))
                if named:
                    found[named].append(Evidence(path, size, digest, tuple(one.name for one in members)))
    for named, evidence in found.items():
        others = [name for name in evidence[0].revisions if name not in named]
        of = f"those of {_listed(others)}" if others else "the same; which of them it belongs to is not known"
        paths = ", ".join(each.path for each in evidence)
        what = f"{paths}: the bytes are {of}, while the other shards are not"
        yield Finding("shared shard", named, what, _steps(collection, named), tuple(evidence))


def missing_steps(series: Series, unseen: Sequence[int] = ()) -> Iterator[Finding]:
    """Steps that the schedule of a series has, and that no revision has; `unseen` are named, but were not seen."""
    steps = sorted({*series.steps, *unseen})
    absent = schedule.missing_steps(steps)
    if absent:
        what = (
            f"{series.title}: no revision for step {steps_in_words(absent)}; the others are {schedule.in_words(steps)}"
        )
        yield Finding("missing step", (), what, tuple(absent))


def wrong_order(series: Series) -> Iterator[Finding]:
    """Two revisions of one step, and tokens that fall while steps rise."""
    by_step: dict[int | None, list[str]] = defaultdict(list)
    for one in series.checkpoints:
        by_step[one.step].append(one.name)
    for step, names in by_step.items():
        if len(names) > 1:
            yield Finding("order", tuple(names), f"{len(names)} revisions of step {step}", (step or 0,))
    counted = [one for one in series.checkpoints if one.tokens is not None]
    for before, after in pairwise(counted):
        if (after.tokens or 0) < (before.tokens or 0):
            what = (
                f"{after.tokens:,.0f} tokens at step {after.step}, {before.tokens:,.0f} at step {before.step} before it"
            )
            yield Finding("order", (before.name, after.name), what, (before.step or 0, after.step or 0))


def broken_chain(series: Series) -> Iterator[Finding]:
    """Records of ours that name another parent than the checkpoint before them."""
    for before, after in pairwise(series.checkpoints):
        promised, found = after.facts.get("parent"), before.facts.get("state_digest")
        if found and promised != found:
            what = f"its record names another parent than {before.name}"
            yield Finding("parent", (after.name,), what, (after.step or 0,))


def missing_files(series: Series) -> Iterator[Finding]:
    """Files that most revisions have, and shards that the names of their siblings promise."""
    listed = [one for one in series.checkpoints if one.is_listed]
    counts = Counter(path for one in listed for path in one.files)
    usual = {path for path, count in counts.items() if 2 * count > len(listed) and path not in NOT_NEEDED}
    lacking: dict[tuple[str, ...], list[Checkpoint]] = defaultdict(list)
    for one in listed:
        absent = {path for names in shards(list(one.files)).values() for path in names}
        if len(listed) > 2:
            absent |= usual - one.files.keys()
        if not one.weights() and not any(map(is_weights, absent)):
            absent.add("any file of weights")
        if absent:
            lacking[tuple(sorted(absent))].append(one)
    for paths, members in lacking.items():
        yield _about(members, "missing file", f"lacks {', '.join(paths)}")


def absent_shards(
    path: str, values: Mapping[str, Mapping[str, Json]], members: Sequence[Checkpoint]
) -> Iterator[Finding]:
    """Files that a list of shards has and its revision has not."""
    folder = path.rpartition("/")[0]
    lacking: dict[tuple[str, ...], list[Checkpoint]] = defaultdict(list)
    for one in members:
        listed = values.get(one.name, {}).get("weight_map", {})
        names = {f"{folder}/{name}".lstrip("/") for name in listed.values()} if isinstance(listed, dict) else set()
        by_name = {name for missing in shards(list(one.files)).values() for name in missing}  # said already
        if absent := tuple(sorted(names - one.files.keys() - by_name)):
            lacking[absent].append(one)
    for paths, group in lacking.items():
        yield _about(group, "missing file", f"lacks {', '.join(paths)}, which {path} lists")


def changed_digests(members: Sequence[Checkpoint]) -> Iterator[Finding]:
    """Files of a tokenizer that are not, in every revision, those that most have."""
    for path in TOKENIZER:
        holders = _holders(members, path)
        if len(holders) > 1:
            usual = max(holders, key=lambda file: len(holders[file]))
            for file, others in holders.items():
                if file != usual:
                    what = f"{path} is not the one that {len(holders[usual])} of {len(members)} revisions have"
                    yield _about(others, "tokenizer", what, [_evidence(path, f, holders[f]) for f in (usual, file)])


def changed_keys(path: str, values: Objects, members: Sequence[Checkpoint]) -> Iterator[Finding]:
    """Keys of a JSON file that are not the same in every revision; `values` has its content by the name of a revision.

    A key with another value in each revision is a label, and what only says who wrote the file is left out.
    """
    kind: Kind = "tokenizer" if "token" in path else "config"
    known = [one for one in members if one.name in values]
    keys = sorted({key for value in values.values() for key in value} - {"transformers_version", "_name_or_path"})
    by_members: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in keys:
        found = [_value(values[one.name], key) for one in known]
        counted = Counter(found)
        if len(counted) == 1 or len(counted) == len(found) > 2:
            continue
        usual, times = counted.most_common(1)[0]
        for value in sorted(set(found) - {usual}):
            names = tuple(one.name for one, mine in zip(known, found, strict=True) if mine == value)
            by_members[names].append(f"{key} is {_cut(value)}, in {times} others {_cut(usual)}")
    versions = _holders(known, path)
    usual_file = max(versions, key=lambda file: len(versions[file]), default=None)
    for names, said in by_members.items():
        of = [one for one in known if one.name in names]
        shown = [file for file in versions if file == usual_file or any(one in of for one in versions[file])]
        yield _about(of, kind, f"{path}: {'; '.join(said)}", [_evidence(path, file, versions[file]) for file in shown])


def changed_tensors(
    path: str, by_size: Mapping[int | None, Layout], members: Sequence[Checkpoint]
) -> Iterator[Finding]:
    """Tensors whose name, dtype or shape is not that of most revisions, by the headers that were read."""
    known = [
        (one, by_size[size]) for one in members if path in one.files and (size := one.files[path].bytes) in by_size
    ]
    if not known:
        return
    usual = dict(Counter(tuple(sorted(layout.items())) for _, layout in known).most_common(1)[0][0])
    others: dict[str, list[Checkpoint]] = defaultdict(list)
    for one, layout in known:
        if layout != usual:
            others[_layout_difference(layout, usual)].append(one)
    for difference, group in others.items():
        evidence = [_evidence(path, file, holders) for file, holders in _holders(group, path).items()]
        yield _about(group, "tensors", f"{path}: {difference}", evidence)


def changed_sizes(path: str, members: Sequence[Checkpoint]) -> Iterator[Finding]:
    """Weights without a readable header whose size is not that of most revisions, by more than a pickle may vary."""
    sizes = [size for one in members if (file := one.files.get(path)) and (size := file.bytes) is not None]
    if not sizes:
        return
    usual = sorted(sizes)[len(sizes) // 2]
    for size in sorted(set(sizes)):
        if abs(size - usual) > SIZE_TOLERANCE * usual:
            group = [one for one in members if path in one.files and one.files[path].bytes == size]
            yield _about(group, "tensors", f"{path} has {size:,} bytes, in most revisions {usual:,}")


def unreadable(unseen: Sequence[Unseen]) -> Iterator[Finding]:
    """What did not answer, by whether nothing was there or it was refused."""
    for gone in (True, False):
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, why, is_gone in unseen:
            if is_gone == gone:
                reasons[why.replace(name, "…")].append(name)
        for why, names in reasons.items():
            listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            what = why.replace("…", names[0]) if len(names) == 1 else f"{why} (…: {listed})"
            yield Finding("dead link" if gone else "not readable", tuple(names), what)


def _judged(collection: Collection, members: Sequence[Checkpoint], evidence: tuple[Evidence, ...]) -> Finding | None:
    """The finding about revisions that have the same weights, if it is one."""
    with_main = any(one.step is None for one in members)
    others = [one for one in members if one.step is not None]
    if not with_main and (_not_updated(collection, others) or _begin_alike(collection, others)):
        return None
    last = {series.checkpoints[-1].name for series in collection.series}
    named = [one for one in others if not (with_main and one.name in last)]
    if not named or (len(named) < 2 and not with_main):
        return None
    paths = ", ".join(sorted({each.path for each in evidence})[:3])
    names = tuple(one.name for one in named)
    if with_main:
        owner = next((one.name for one in others if one.name in last), None)
        of = f"main and of the last step, {owner}" if owner else "main, though the last step has others"
        return _about(named, "same as main", f"{paths}: the bytes of {of}", evidence)
    series = next(one for one in collection.series if named[0] in one.checkpoints)
    if tuple(one.name for one in series.checkpoints[: len(named)]) == names:
        what = (
            f"{paths}: the first {len(named)} steps have the same bytes: no update between them, as when a warm-up "
            "begins with a learning rate of 0, or one was uploaded twice; nothing published says which"
        )
        return _about(named, "no update", what, evidence)
    what = f"{paths}: the same bytes in {len(named)} revisions; which of them they belong to is not known"
    return _about(named, "same weights", what, evidence)


def _not_updated(collection: Collection, members: Sequence[Checkpoint]) -> bool:
    """Whether records of one training say that no update was applied between these checkpoints."""
    updates = {one.facts.get("applied_updates") for one in members}
    in_one = any(set(map(id, members)) <= set(map(id, series.checkpoints)) for series in collection.series)
    return in_one and len(updates) == 1 and None not in updates


def _begin_alike(collection: Collection, members: Sequence[Checkpoint]) -> bool:
    """Whether these are the first checkpoints of different trainings, which may begin with the same weights."""
    first = {series.checkpoints[0].name for series in collection.series}
    return {one.name for one in members} <= first


def same_weights(collection: Collection) -> Iterator[tuple[tuple[str, ...], dict[str, File]]]:
    """Revisions that share all files of a container, and these files."""
    groups: dict[tuple[str, tuple[tuple[str, File], ...]], list[Checkpoint]] = defaultdict(list)
    for one in _all(collection):
        for name, files in one.weights().items():
            if all(file.digest for file in files.values()):
                groups[name, tuple(sorted(files.items()))].append(one)
    for (_, shared), members in groups.items():
        if len(members) > 1:
            yield tuple(one.name for one in members), dict(shared)


def _without_owners(collection: Collection, members: Sequence[Checkpoint], path: str) -> list[Checkpoint]:
    """Those members that do not serve, as a whole, what `main` serves, if it is one of them."""
    main = next((one for one in members if one.step is None), None)
    if main is None:
        return list(members)
    return [one for one in members if _identity(one, path) != _identity(main, path)]


def _identity(one: Checkpoint, path: str) -> object:
    """All files of the container to which a shard belongs."""
    return next(tuple(files.items()) for files in one.weights().values() if path in files)


def _all(collection: Collection) -> Iterator[Checkpoint]:
    yield from collection.checkpoints()
    if collection.main:
        yield collection.main


def _holders(members: Sequence[Checkpoint], path: str) -> dict[File, list[Checkpoint]]:
    """The members with each version of a file that has a digest."""
    found: dict[File, list[Checkpoint]] = defaultdict(list)
    for one in members:
        file = one.files.get(path)
        if file and file.digest and file.digest.startswith(IDENTITY):
            found[file].append(one)
    return found


def _evidence(path: str, file: File, members: Sequence[Checkpoint]) -> Evidence:
    return Evidence(path, file.bytes, file.digest, tuple(one.name for one in members))


def _about(members: Sequence[Checkpoint], kind: Kind, what: str, evidence: Sequence[Evidence] = ()) -> Finding:
    steps = tuple(sorted({one.step for one in members if one.step is not None}))
    return Finding(kind, tuple(one.name for one in members), what, steps, tuple(evidence))


def _steps(collection: Collection, names: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted({one.step for one in collection.checkpoints() if one.name in names and one.step is not None}))


def _layout_difference(ours: Layout, usual: Layout) -> str:
    differing = sorted(name for name in {*ours, *usual} if ours.get(name) != usual.get(name))
    first = differing[0]
    more = f", and {len(differing) - 1} more tensors" if len(differing) > 1 else ""
    return f"{first} is {_tensor(ours.get(first))}, in most revisions {_tensor(usual.get(first))}{more}"


def _value(content: Mapping[str, Json], key: str) -> str:
    return json.dumps(content[key], sort_keys=True) if key in content else "absent"


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"


def _tensor(about: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{about[0]} {list(about[1])}" if about else "not there"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} others"
