"""The series in a release of ours, at any address: one for each model, from its root manifest and its records."""

from pipeline.formats.release import ROOT
from pipeline.release.release import Release
from pipeline.release.rungs import pinned_root
from pipeline.series.series import Checkpoint, Collection, File, Series
from pipeline.series.tree import Tree
from pipeline.stores.folder import Folder

FACTS = ("applied_updates", "state_digest", "parent")


def read_release(address: str, release: Release) -> Collection:
    """The stored checkpoints of each model, with the digests that the root manifest promises."""
    sizes = release.sizes() or {}
    series = []
    for model in release.models():
        checkpoints = []
        for state in release.states(model).values():
            prefix, record = f"{state.folder}/", state.record.to_json()
            files = {
                path.removeprefix(prefix): File(sizes.get(path), _digest(promised.digest))
                for path, promised in sorted(release.files.items())
                if path.startswith(prefix)
            }
            facts = {key: record[key] for key in FACTS}
            checkpoints.append(Checkpoint(state.folder, state.step, files, float(state.tokens), facts))
        series.append(Series(model, tuple(checkpoints)))
    limit = f"digests are those that {ROOT} promises; `everystep verify` compares them with the bytes"
    store = release.mirror.store if release.mirror else Folder(str(release.folder))
    place = Tree(pinned_root(address).address, store)
    return Collection(address, place, tuple(series), limits=(limit,))


def _digest(promised: str) -> str:
    """A digest of tensors names its rule, that of a file is a SHA-256."""
    return promised if ":" in promised else f"sha256:{promised}"
