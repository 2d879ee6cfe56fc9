"""A project that trains on from a state of a release: `everystep fork RELEASE --model M --step N --out DIR`.

The new repository has the code of this checkout, the parent's sections of `params.yaml` and its recipe of the model, in
which a section `parent` names the state. State and rows are brought by its stage `parent`, not by this command; only
the SHA-256 of the root manifest, which promises all of them, is written down here.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap

from pipeline.base.errors import EverystepError
from pipeline.base.files import write_bytes
from pipeline.base.params import OPTIONAL, SECTION_OF_FORGETTING, SECTION_OF_FORKS, SECTIONS
from pipeline.base.paths import PARAMS, PARENT, RECIPES
from pipeline.base.yaml import check, load_yaml
from pipeline.build.init import STAGES, copy_code, dumped, new_repository, plots, refuse_taken, round_trip, write_texts
from pipeline.formats.release import ROOT
from pipeline.formats.stages import manifest_path
from pipeline.release.ancestors import MADE_AGAIN, Carried, carried_from, files_of, proofs_of, root_sha256
from pipeline.release.release import Release, State
from pipeline.release.rungs import pinned_root
from pipeline.release.words import ReleaseParams

LICENSE = "LICENSE"
NOBODY = "nobody yet (write who publishes it)"


class Forked(NamedTuple):
    """A new repository, and the state that its training will go on from."""

    folder: Path
    release: str
    version: str
    release_sha256: str
    model: str
    step: int
    state_digest: str
    steps: int
    """Step at which the recipe, as the parent has it, ends."""
    uncommitted: str
    """Why there is no first commit; empty if there is one."""


def fork(address: str, state: State, folder: Path, root: Path, base_model: str | None = None) -> Forked:
    """Make the repository `folder`, which trains on from `state` of the release at `address`, from the checkout `root`.

    `base_model` is the repository of the state's model on the Hub, for the card. It appears whole or not at all.
    """
    refuse_taken(folder)
    release = state.release
    if release.version is None:
        raise EverystepError(f"{release.folder}: has no {ROOT}; a training goes on from a state of a release")
    carried = carried_from(release)
    made = Forked(
        folder=folder,
        release=release.name,
        version=release.version,
        release_sha256=root_sha256(release),
        model=state.model,
        step=state.record.step,
        state_digest=state.record.state_digest,
        steps=release.model(state.model).parameters.schedule.steps,
        uncommitted="",
    )
    for path in proofs_of(state):  # what is missing or damaged is better known now
        release.file(path)
    files_of(state)
    params = _params(made, address, release, base_model)
    with new_repository(folder, f"Go on from {made.model} at step {made.step} of {made.release}") as scratch:
        copy_code(root, scratch.folder)
        write_bytes(scratch.folder / LICENSE, release.read(LICENSE))
        about = f"The release `{folder.name}`: {params['release']['title']}. Written by `everystep fork`."
        write_params(scratch.folder / PARAMS, params, about, {})
        write_bytes(scratch.folder / STAGES, stages_of_fork(root, [made.model], carried).encode())
        write_bytes(scratch.folder / RECIPES / f"{made.model}.yaml", recipe_of_fork(state).encode())
        write_texts(scratch.folder, root, _readme(made), root / "README.md")
    return made._replace(uncommitted=scratch.uncommitted)


def _params(made: Forked, address: str, release: Release, base_model: str | None) -> dict[str, Any]:
    """`params.yaml` as a tree: the sections of its own first, then those that the parent's rows were made with."""
    parents = release.params()
    words = {key: value for key, value in parents["release"].items() if key != "base_model"}
    title = f"{made.model} of {made.release} {made.version}, trained on from step {made.step}"
    words |= {"name": made.folder.name, "version": "0.1", "title": title, "publisher": NOBODY}
    words |= {"base_model": base_model} if base_model else {}
    check(ReleaseParams, words, f"{made.folder / PARAMS}: release")
    own: dict[str, Any] = {
        "parent_address": address_from(made.folder, address),
        SECTION_OF_FORKS: {"release_sha256": made.release_sha256, "states": {made.model: made.step}},
        "models": [made.model],
        "release": words,
        "executor": "local",
    }
    return with_sections_of(own, parents)


def address_from(folder: Path, address: str) -> str:
    """The address of a release for a project in `folder`."""
    place = pinned_root(address).address
    return os.path.relpath(place, folder) if Path(place).is_dir() else place


def with_sections_of(own: dict[str, Any], parents: dict[str, Any]) -> dict[str, Any]:
    """The sections of a fork's `params.yaml`: its own, then those of its parent that it does not have."""
    return own | {name: parents[name] for name in SECTIONS if name in parents and name not in own}


def write_params(path: Path, params: dict[str, Any], about: str, more: dict[str, str]) -> None:
    """Write the `params.yaml` of a fork, which is `about` something, with comments."""
    loader = round_trip()
    tree = CommentedMap(params)
    tree.yaml_set_start_comment(about)
    said = more | {
        "parent_address": "Where the parent's release is; no stage depends on it, so it may move. It must be this one:",
        "release": "What the card says; yours to change.",
        "executor": "Who does the parts of a data stage: local, ray or slurm (docs/reproduce.md).",
        next(iter([name for name in params if name not in (*OPTIONAL, *_OWN)]), ""): (
            "The parent's from here on: with others than its rows were made with, the stages refuse them. `evaluate` "
            "may change."
        ),
    }
    for key, comment in said.items():
        if key in tree:
            tree.yaml_set_comment_before_after_key(key, before=f"\n{comment}")
    write_bytes(path, dumped(loader, tree).encode())
    if load_yaml(path) != params:
        raise EverystepError(f"{path}: YAML cannot hold the sections of the parent's {PARAMS}")


_OWN = (SECTION_OF_FORKS, SECTION_OF_FORGETTING, "models", "release")


def stages_of_fork(root: Path, models: list[str], carried: Carried, forgets: bool = False) -> str:
    """`dvc.yaml`: that of the checkout, with the stage `parent` in place of those that make rows."""
    loader = round_trip()
    tree = loader.load((root / STAGES).read_text("utf-8"))
    stages = tree["stages"]
    again = MADE_AGAIN if forgets else ()
    kept = {name: stages[name] for name in ("code", *again, "train", "evaluate", "release")}
    sections = [SECTION_OF_FORKS, *[SECTION_OF_FORGETTING] * forgets]
    certificate = [manifest_path("forgotten").as_posix()] * forgets
    brought = [manifest_path("parent").as_posix(), PARENT.as_posix()]
    kept["train"]["do"]["deps"] += brought
    kept["release"]["deps"].remove(manifest_path("score", "any").parent.as_posix())  # it has no items of tasks
    kept["release"]["deps"] += brought + certificate
    kept["release"]["params"] += sections
    parent = {
        "desc": "the state that the training goes on from, and the parent's rows with all that is known of them",
        "cmd": "python -m pipeline.stages parent",
        "params": [{manifest_path("code").as_posix(): ["stages.parent.digest"]}, *sections],
        "outs": [PARENT.as_posix(), *carried.folders],
        "metrics": [{path: {"cache": False}} for path in (brought[0], *certificate, *carried.manifests)],
    }
    written = CommentedMap({"stages": {"code": kept.pop("code"), "parent": parent, **kept}, "plots": plots(models)})
    written.yaml_set_start_comment("The stages: what is brought of the parent's release, then a training as any other.")
    return dumped(loader, written)


def recipe_of_fork(state: State) -> str:
    """The recipe of a state's model with the section `parent`, which names the state."""
    path = f"{RECIPES}/{state.model}.yaml"
    loader = round_trip()
    tree = loader.load(state.release.read(path).decode())
    record = state.record
    tree["parent"] = CommentedMap(
        state_digest=record.state_digest,
        step=record.step,
        tokens=record.tokens,
        first_sample=state.release.model(state.model).parameters.sample(record.step),
    )
    about = f"Goes on from {state.model} at step {record.step} of {state.release.name} {state.release.version}"
    comment = (
        f"{about}; steps are counted on from there.\n`first_sample`: the next one of the order; 0 begins it again."
    )
    tree.yaml_set_comment_before_after_key("parent", before=comment)
    return dumped(loader, tree)


def _readme(made: Forked) -> str:
    return f"""# {made.folder.name}

`{made.model}` of the release {made.release} {made.version}, trained on from step {made.step}. Made by `everystep fork`.

`recipes/{made.model}.yaml` is the parent's, with a section `parent` that names the state; the rest is yours to change.
As it is, the training gives the parent's own digests. `params.yaml` says who publishes it, and where the parent's
release is: `release.json` there must have the SHA-256 {made.release_sha256}. Then:

```bash
make setup && source .venv/bin/activate
dvc repro --dry --force      # what will run
make release                 # all of it
git add --all && git commit --message "First build"
```

[docs](docs/README.md) is the documentation of Everystep; [Use checkpoints](docs/use-checkpoints.md) has a section on
forks.
"""
