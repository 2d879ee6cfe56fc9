"""The stretches of a release, and those of them that an audit replays."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from pipeline.base.errors import Differs
from pipeline.formats.release import ROOT, parse_root, release_root
from pipeline.formats.sampling import Stretch, choose
from pipeline.release.release import Release


@dataclass(frozen=True)
class Plan:
    """What an audit replays, and why that."""

    root_sha256: str
    """SHA-256 of the release's root manifest."""
    beacon: str
    models: list[str]
    """Models whose stretches the beacon chose from, sorted."""
    stretches: list[Stretch]
    """All of them."""
    chosen: list[Stretch]


def plan_audit(release: Release, models: Iterable[str], beacon: str, sample: int) -> Plan:
    """Choose `sample` stretches of these models by a beacon."""
    names = sorted(set(models))
    every = stretches(release, names)
    root = opened_root(release)
    return Plan(root, beacon, names, every, choose(root, beacon, every, sample))


def stretches(release: Release, models: Iterable[str]) -> list[Stretch]:
    """Every stretch of these models, by model and step. Where a training went on from a state of another release, its
    first stretch begins there."""
    return [Stretch(model, *steps) for model in models for steps in pairwise(sorted(state_digests(release, model)))]


def state_digests(release: Release, model: str) -> dict[int, str]:
    """The digest of each state at which a stretch of a model begins or ends, by step."""
    trained = release.model(model)
    begun = trained.parameters.parent
    before = {begun.step: begun.state_digest} if begun else {}
    return before | {entry.step: entry.state_digest for entry in trained.checkpoints}


def opened_root(release: Release) -> str:
    """The SHA-256 of the root manifest that `release` was opened with."""
    content = release_root(release.folder, release.follow_links)
    if parse_root(content, release.folder / ROOT).files != release.files:
        raise Differs(f"{release.folder / ROOT}: changed while it was read; run the command again")
    return hashlib.sha256(content).hexdigest()
