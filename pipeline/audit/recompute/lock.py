"""Lock: `dvc.lock` says of params, code and files what `params.yaml`, `code.json` and the files in the release say.

Its digests are MD5. A folder counts if the release holds every file of it; of `runs`, number and sizes of the files
are compared alone, since `pipeline.audit.chain` has compared them by better digests.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.base.paths import PARAMS
from pipeline.formats.canonical import canonical, parse
from pipeline.formats.manifests import Code, Forgetting, path_of
from pipeline.formats.stages import BY_NAME, stages_of_model, stages_per
from pipeline.release.ancestors import MADE_AGAIN
from pipeline.release.release import Release

LOCK = "dvc.lock"
WHOLE = [BY_NAME[name].folder for name in ("tokenizer", "tokenize", "evaluate", "score")]


def lock_faults(release: Release) -> Iterator[str]:
    """Each entry of the lock that the release denies."""
    stages: dict[str, Any] = parse(release.read(LOCK), LOCK)["stages"]
    expected = {*_names(release, "parent" in stages)}
    for name in sorted(expected ^ stages.keys()):
        yield f"{LOCK}: stages: {name} is {'missing' if name in expected else 'none of this release'}"
    params, code = release.params(), release.manifest(Code)
    found: dict[str, tuple[str, int]] = {}
    for name in sorted(expected & stages.keys()):
        entry, stage = stages[name], name.partition("@")[0]
        if entry["cmd"] != f"python -m pipeline.stages {name.replace('@', ' ')}":
            yield f"{LOCK}: stages: {name}: cmd: {entry['cmd']:.200} is another command"
        for file, sections in entry.get("params", {}).items():
            for key, value in sections.items():
                ours = code.stages[stage].digest if file != PARAMS.as_posix() else _section(params, key)
                if canonical(ours) != canonical(value):
                    yield f"{LOCK}: stages: {name}: params: {key} is not that of {file}"
        for about in (*entry.get("deps", []), *entry.get("outs", [])):
            path = about["path"]
            if path not in found:
                found[path] = _digest(release, path)
            if found[path] not in (("", 0), (about["md5"], about["size"])):
                yield f"{LOCK}: stages: {name}: {path} is {about['md5']}, the release has {found[path][0]}"


def _names(release: Release, is_fork: bool) -> Iterator[str]:
    """The stages before `release`; in a fork one takes the place of those that make rows."""
    if is_fork:
        yield "parent"
        yield from MADE_AGAIN if path_of(Forgetting).as_posix() in release.files else ()
    else:
        yield from (name for name in stages_per("release") if name not in ("code", "release"))
        yield from (f"{name}@{source}" for name in stages_per("source") for source in release.sources())
    yield from (f"{name}@{model}" for name in stages_of_model(is_fork) for model in release.models())


def _section(params: Mapping[str, Any], key: str) -> Any:
    found: Any = params
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _digest(release: Release, path: str) -> tuple[str, int]:
    """MD5 and size of a file or a folder of the release as DVC computes them; nothing if it holds only part of it."""
    if path in release.files:
        file = release.file(path)
        return _md5(file.read_bytes()), file.stat().st_size
    is_whole = any(path == folder.as_posix() or path.startswith(f"{folder.as_posix()}/") for folder in WHOLE if folder)
    files = sorted(name for name in release.files if name.startswith(f"{path}/")) if is_whole else []
    if not files:
        return "", 0
    entries = []
    size = 0
    for name in files:
        content = release.file(name).read_bytes()
        size += len(content)
        entries.append({"md5": _md5(content), "relpath": name.removeprefix(f"{path}/")})
    return f"{_md5(json.dumps(entries, sort_keys=True).encode())}.dir", size


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
