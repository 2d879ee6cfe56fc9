"""A successor without some documents: `everystep forget RELEASE --document ID ... --why TEXT --out DIR`.

The new repository is a fork (`pipeline.build.fork`) of every model of the release, each from the same step: the last
that has seen nothing of the documents. Its section `forget` names them, and its stage `parent` brings the rows with
filler in their place. So `make release` trains only what came after, and builds a release that proves what it went on
from, with the certificate `manifests/forgotten.json`. The publisher of the old release tells its readers by a notice
(`pipeline.release.notices`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.base.files import write_bytes
from pipeline.base.params import SECTION_OF_FORGETTING, SECTION_OF_FORKS
from pipeline.base.paths import PARAMS, RECIPES
from pipeline.base.yaml import check
from pipeline.build.fork import (
    LICENSE,
    NOBODY,
    address_from,
    recipe_of_fork,
    stages_of_fork,
    with_sections_of,
    write_params,
)
from pipeline.build.init import STAGES, copy_code, new_repository, refuse_taken, write_texts
from pipeline.release.ancestors import carried_from, files_of, proofs_of, root_sha256
from pipeline.release.release import Release, State
from pipeline.release.words import ReleaseParams


class Successor(NamedTuple):
    """A new repository that builds a release without some documents."""

    folder: Path
    release: str
    version: str
    release_sha256: str
    """SHA-256 of the root manifest of the release before."""
    states: dict[str, int]
    """Model → step of the state that its training goes on from."""
    uncommitted: str
    """Why there is no first commit; empty if there is one."""


def successor(
    address: str,
    release: Release,
    states: Sequence[State],
    documents: Sequence[str],
    sources: Sequence[str],
    why: str,
    folder: Path,
    root: Path,
) -> Successor:
    """Make the repository `folder` of a release like that at `address` without some documents, from the checkout
    `root`. `states` are those that its models go on from. It appears whole or not at all."""
    refuse_taken(folder)
    refuse_unexplained(why)
    made = Successor(
        folder=folder,
        release=release.name,
        version=str(release.version),
        release_sha256=root_sha256(release),
        states={state.model: state.step for state in states},
        uncommitted="",
    )
    for state in states:  # what is missing or damaged is better known now
        for path in proofs_of(state):
            release.file(path)
        files_of(state)
    forget = {"why": why, "documents": sorted(documents), "sources": sorted(sources)}
    params = _params(made, address, release, forget)
    with new_repository(folder, f"Forget documents of {made.release} {made.version}") as scratch:
        copy_code(root, scratch.folder)
        write_bytes(scratch.folder / LICENSE, release.read(LICENSE))
        about = f"The release `{folder.name}`: {params['release']['title']}. Written by `everystep forget`."
        write_params(scratch.folder / PARAMS, params, about, {SECTION_OF_FORGETTING: "What is forgotten, and why:"})
        stages = stages_of_fork(root, list(made.states), carried_from(release, forgets=True), forgets=True)
        write_bytes(scratch.folder / STAGES, stages.encode())
        for state in states:
            write_bytes(scratch.folder / RECIPES / f"{state.model}.yaml", recipe_of_fork(state).encode())
        write_texts(scratch.folder, root, _readme(made), root / "README.md")
    return made._replace(uncommitted=scratch.uncommitted)


def refuse_unexplained(why: str) -> None:
    """Refuse to forget without a reason."""
    if not why.strip():
        raise EverystepError("--why: say in a few words why it is forgotten; the certificate holds it")


def _params(made: Successor, address: str, release: Release, forget: dict[str, Any]) -> dict[str, Any]:
    """`params.yaml` as a tree."""
    parents = release.params()
    title = f"{made.release} {made.version} without some documents"
    words = parents["release"] | {"name": made.folder.name, "version": "0.1", "title": title, "publisher": NOBODY}
    check(ReleaseParams, words, f"{made.folder / PARAMS}: release")
    own: dict[str, Any] = {
        "parent_address": address_from(made.folder, address),
        SECTION_OF_FORKS: {"release_sha256": made.release_sha256, "states": made.states},
        SECTION_OF_FORGETTING: forget,
        "models": parents["models"],
        "release": words,
        "executor": "local",
    }
    return with_sections_of(own, parents)


def _readme(made: Successor) -> str:
    states = ", ".join(f"`{model}` from step {step}" for model, step in made.states.items())
    return f"""# {made.folder.name}

The release {made.release} {made.version} without the documents in the section `forget` of `params.yaml`. Made by
`everystep forget`.

Rows keep their places, with filler where the documents were, and the models train again from their last states that
have seen nothing of them: {states}. Say in `params.yaml` who publishes this release; `parent_address` there is
where the old one is, and its `release.json` must have the SHA-256 {made.release_sha256}. Then:

```bash
make setup && source .venv/bin/activate
dvc repro --dry --force      # what will run
make release                 # all of it
git add --all && git commit --message "First build"
```

[docs](docs/README.md) is the documentation of Everystep; [Forget](docs/forget.md) says what this release proves.
"""
