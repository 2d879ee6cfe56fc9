"""Stages that came out differently, in the order of the pipeline, each with its reasons.

A stage is a function of its code, its pins, its sections of `params.yaml` or its recipe, and its inputs, and all of
these have digests on both sides. So a stage whose own code, pins or sections
differ is a cause; one of which only the inputs differ, or whose reasons were found before, follows; and if all are the
same, nothing that is recorded explains the difference. A stage with other code and the same result is none of these.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pipeline.base.paths import RECIPES
from pipeline.compare.builds import CODE, PINS, Build, LockBuild, place_of, stage_of
from pipeline.compare.difference import Difference, differing, only_in
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.stages import BY_NAME, manifest_path

BASIS = ("format", "stage", "of", "inputs", "params", "parameters")
"""Keys of a manifest that say what a stage was, the others what came out."""
LISTS = ("outputs", "files", "checkpoints", "results", "by_source", "examples", "steps", "numerics")
"""Keys of results that other differences name more closely."""
UNEXPLAINED = (
    "code, params and inputs are the same; look at the machine, Python, and libraries that constraints.txt does not pin"
)


class View(NamedTuple):
    """One stage as one side has it."""

    code: str | None
    """Digest of its code and pins."""
    params: Json
    """Section of `params.yaml` → its value; a recipe under its path."""
    inputs: Mapping[str, str]
    """Path → digest."""
    numerics: Json
    """What decides the bits of a training besides."""
    result: Json
    """What came out."""


@dataclass
class StageChange:
    """A stage of which the sides have different manifests, or which one side lacks."""

    stage: str
    """As `dvc.lock` names it."""
    reasons: list[Difference] = field(default_factory=list)
    """Differences of its own code, environment, params and data."""
    follows: list[str] = field(default_factory=list)
    """Stages that came out differently, and whose results it reads."""
    result: list[Difference] = field(default_factory=list)
    """Numbers of its manifest that differ."""
    is_cause: bool = True
    """Whether it has a reason that no stage before it has, or none at all."""

    @property
    def why(self) -> str:
        """Its reasons in words."""
        if self.reasons:
            kinds = dict.fromkeys(reason.kind for reason in self.reasons)
            return "; ".join(_listed(kind, [r for r in self.reasons if r.kind == kind]) for kind in kinds)
        return f"follows from {', '.join(self.follows)}" if self.follows else UNEXPLAINED


def _listed(kind: str, reasons: list[Difference]) -> str:
    more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"{kind}: {reasons[0]}{more}"


def stage_changes(a: Build, b: Build) -> Iterator[StageChange]:
    """Every stage that came out differently, in the order of the pipeline."""
    pins = list(_pins(a, b))
    seen: set[tuple[str, str]] = set()
    changed: set[str] = set()
    for stage in _stages(a, b):
        change = _change(a, b, stage, pins, changed)
        if change is None:
            continue
        own = {_name(reason) for reason in change.reasons}
        change.is_cause = bool(own - seen) or not (own or change.follows)
        seen |= own
        changed.add(stage)
        yield change


def _name(reason: Difference) -> tuple[str, str]:
    """What makes two reasons one: a source or model that a side lacks is one reason for all of its stages."""
    return reason.kind, reason.where.partition("@")[2] or reason.where


def code_differences(a: Build, b: Build) -> Iterator[Difference]:
    """Files of code that differ, and pins of libraries."""
    if a.manifests.get(CODE) == b.manifests.get(CODE) or not (a.code and b.code):
        return
    left, right = (dict(build.code.get("files", {})) for build in (a, b))
    yield from _files(left, right)
    yield from _pins(a, b)


def _stages(a: Build, b: Build) -> list[str]:
    """The stages that both sides could have; `code` is compared file by file."""
    names = {stage for build in (a, b) for path in build.manifests if (stage := stage_of(path))}
    if a.lock_sha256 != b.lock_sha256:
        names |= a.lock.keys() | b.lock.keys()
    lacking = {"code", *a.lacks, *b.lacks}
    return sorted((name for name in names if name.partition("@")[0] not in lacking), key=place_of)


def _change(a: Build, b: Build, stage: str, pins: list[Difference], changed: set[str]) -> StageChange | None:
    path = _manifest_of(stage)
    by_lock = isinstance(a, LockBuild) or isinstance(b, LockBuild) or path not in {*a.manifests, *b.manifests}
    if not by_lock and a.manifests.get(path) == b.manifests.get(path):
        return None
    left, right = (_by_lock(build, stage) if by_lock else _by_manifest(build, stage, path) for build in (a, b))
    if left == right and by_lock:
        return None
    change = StageChange(stage)
    if left is None or right is None:
        side = only_in(left is not None, right is not None)
        change.reasons = [Difference(kind="stage", where=stage, only_in=side, stage=stage)]
        return change
    change.reasons = [*_code(a, b, stage, left, right, pins), *_params(stage, left, right)]
    for name in sorted(left.inputs.keys() | right.inputs.keys()):
        digests = left.inputs.get(name), right.inputs.get(name)
        if digests[0] != digests[1]:
            _sort_input(a, b, change, name, digests, changed)
    if not change.reasons and not change.follows:
        change.reasons += _files_of(stage, left, right)
    if by_lock:
        outs = differing("lock", left.result, right.result, stage=stage)
        change.result = [replace(out, where=f"{stage}: {out.where}") for out in outs]
    else:
        change.result = list(_result(stage, left, right))
    return change


def _code(a: Build, b: Build, stage: str, left: View, right: View, pins: list[Difference]) -> Iterator[Difference]:
    name = stage.partition("@")[0]
    if left.code != right.code:
        files = [_files_loaded(build, name) for build in (a, b)]
        if files[0] and files[1]:
            yield from _files(files[0], files[1], stage)
            yield from pins if files[0].get(PINS) != files[1].get(PINS) else ()
        else:
            yield Difference(kind="code", where=f"code of {name}", a=left.code, b=right.code, stage=stage)
    yield from differing("environment", left.numerics, right.numerics, "numerics", stage)


def _params(stage: str, left: View, right: View) -> Iterator[Difference]:
    for section in sorted({*left.params, *right.params}):
        one, other = ({section: view.params[section]} if section in view.params else {} for view in (left, right))
        yield from differing("params", one, other, stage=stage)


def _sort_input(
    a: Build, b: Build, change: StageChange, name: str, digests: tuple[str | None, str | None], changed: set[str]
) -> None:
    """Take an input that differs as the result of another stage, as a recipe, whose keys are params, or as data."""
    makers = {maker for build in (a, b) for maker in _makers(build, name)} & changed
    if makers or stage_of(name):
        change.follows += sorted(makers or {str(stage_of(name))}, key=place_of)
    elif not name.startswith(f"{RECIPES}/"):
        change.reasons.append(Difference(kind="data", where=name, a=digests[0], b=digests[1], stage=change.stage))
    elif not any(reason.kind == "params" for reason in change.reasons):
        change.reasons.append(Difference(kind="params", where=f"{name} (its bytes)", stage=change.stage))


def _makers(build: Build, name: str) -> Iterator[str]:
    """The stages of a lock that write a file or folder, or what is inside it."""
    if stage := stage_of(name):
        yield stage
        return
    for stage, entry in build.lock.items():
        for out in entry.get("outs", []):
            path = str(out.get("path"))
            if path == name or path.startswith(f"{name}/") or name.startswith(f"{path}/"):
                yield stage


def _files_of(stage: str, left: View, right: View) -> Iterator[Difference]:
    """Other files of a source, though the same ones were asked for."""
    if stage.partition("@")[0] not in ("fetch", "evaluation_sets", "rows"):
        return
    files = ({entry["path"]: entry["sha256"] for entry in view.result.get("files", [])} for view in (left, right))
    yield from differing("data", next(files), next(files), stage=stage)


def _result(stage: str, left: View, right: View) -> Iterator[Difference]:
    one, other = ({key: value for key, value in view.result.items() if key not in LISTS} for view in (left, right))
    for difference in differing("count", one, other, stage=stage):
        if all(value is None or type(value) in (int, float) for value in (difference.a, difference.b)):
            yield replace(difference, where=f"{stage}: {difference.where}")


def _manifest_of(stage: str) -> str:
    name, _, of = stage.partition("@")
    if name not in BY_NAME or (BY_NAME[name].per == "release") == bool(of):
        return ""
    return manifest_path(name, of or None).as_posix()


def _by_manifest(build: Build, stage: str, path: str) -> View | None:
    if path not in build.manifests:
        return None
    tree = build.tree(path)
    if tree is None:
        return View(None, {}, {}, {}, {"bytes": build.manifests[path]})
    name = stage.partition("@")[0]
    params: dict[str, Json] = {
        section: _section(build, stage, section, digest) for section, digest in tree.get("params", {}).items()
    }
    if name == "train":
        params[f"{RECIPES}/{tree.get('of')}.yaml"] = tree.get("parameters", {})
    return View(
        code=build.code.get("stages", {}).get(name, {}).get("digest"),
        params=params,
        inputs=tree.get("inputs", {}),
        numerics=tree.get("numerics", {}),
        result={key: value for key, value in tree.items() if key not in BASIS},
    )


def _by_lock(build: Build, stage: str) -> View | None:
    entry = build.lock.get(stage)
    if entry is None:
        return None
    params = dict(entry.get("params", {}))
    code = params.pop(CODE, {})
    return View(
        code=next(iter(code.values()), None),
        params={"cmd": entry.get("cmd"), **params.pop("params.yaml", {}), **params},
        inputs={dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])},
        numerics={},
        result={out["path"]: out.get("md5", "") for out in entry.get("outs", [])},
    )


def _section(build: Build, stage: str, name: str, digest: str) -> Json:
    """The value of a section with this digest, from the lock or from `params.yaml`; else the digest in its place."""
    for params in (build.lock.get(stage, {}).get("params", {}).get("params.yaml", {}), _nested(build.params(), name)):
        if name in params and hashlib.sha256(canonical(params[name])).hexdigest() == digest:
            return params[name]
    return f"sha256 {digest}"


def _nested(params: Mapping[str, Any], name: str) -> Mapping[str, Json]:
    section: Json = params
    for key in name.split("."):
        section = section.get(key) if isinstance(section, Mapping) else None
    return {name: section}


def _files_loaded(build: Build, stage: str) -> dict[str, str]:
    """The files of code that a stage loads, with their digests; none if they are not known."""
    files, listed = build.code.get("files", {}), build.code.get("stages", {}).get(stage, {}).get("files", [])
    return {name: files[name] for name in listed if name in files}


def _files(left: Mapping[str, str], right: Mapping[str, str], stage: str | None = None) -> Iterator[Difference]:
    for name in sorted(left.keys() | right.keys()):
        if name != PINS and left.get(name) != right.get(name):
            yield Difference(kind="code", where=name, only_in=only_in(name in left, name in right), stage=stage)


def _pins(a: Build, b: Build) -> Iterator[Difference]:
    """Pins of libraries that differ, by name."""
    digests = [build.code.get("files", {}).get(PINS) for build in (a, b)]
    if digests[0] == digests[1] or None in digests:
        return
    left, right = (_pinned(build, digest) for build, digest in zip((a, b), digests, strict=True))
    if left == right or not (left and right):
        yield Difference(kind="environment", where=PINS)
    else:
        yield from (replace(pin, where=f"{PINS}: {pin.where}") for pin in differing("environment", left, right))


def _pinned(build: Build, digest: str | None) -> dict[str, str]:
    """Library → version; empty if the file is not the one that the code was listed with."""
    try:
        content = build.read(PINS)
    except FileNotFoundError:
        return {}
    if hashlib.sha256(content).hexdigest() != digest:
        return {}
    lines = [line.split("#")[0].strip() for line in content.decode("utf-8", "replace").splitlines()]
    return {name: version for name, _, version in (line.partition("==") for line in lines if line)}
