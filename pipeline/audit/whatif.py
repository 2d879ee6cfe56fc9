"""What if: the documents that a changed training does not see, and which of its steps read them.

The training itself is in `trainer.counterfactual`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.audit.forget import Document, count, selected
from pipeline.audit.pull import origin, write_folder
from pipeline.base.errors import EverystepError
from pipeline.base.files import new_folder
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json
from pipeline.formats.forgotten import Forgotten
from pipeline.formats.manifests import SourceResult, Tokens, Trained, path_of
from pipeline.release.forgetting import steps_that_read, without
from pipeline.release.release import Release, State

SHOWN = 8
"""Documents and steps that the report lists of each."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Documents that a stretch of training does not see."""

    documents: list[Document]
    spans: Forgotten
    """All spans that it does not see, those among them that the release has lost before."""
    steps: list[int]
    """Steps of the stretch that read any of the documents."""
    before: list[int]
    """Steps before the stretch that did: what they taught stays in the state that it starts from."""

    def to_json(self) -> dict[str, Json]:
        """The tree of what is printed."""
        return {
            "documents": [document.id for document in self.documents],
            "tokens": sum(document.tokens for document in self.documents),
            "steps": self.steps,
            "steps_before": self.before,
        }


def left_out(
    release: Release, model: str, documents: Collection[str], sources: Collection[str], start: int, stop: int
) -> LeftOut:
    """What the training of a model reads of some documents between two states. One that it reads nothing of there is an
    error, which says where it does."""
    trained = release.model(model)
    if path_of(Tokens).as_posix() not in release.files:
        raise EverystepError(
            f"{model}: was trained on rows that others made, which have no index of documents, so none can be left out"
        )
    found = selected(release, documents, sources, None, ("--without", "--without-source"))
    if nothing := found.nothing():
        raise EverystepError(f"nothing would change: {nothing}")
    tokens, recipe = release.manifest(Tokens), trained.parameters
    read = steps_that_read(recipe, recipe.schedule.steps, found.spans.rows, tokens)
    inside = [step for step in read if start < step <= stop]
    if not inside:
        raise EverystepError(f"nothing would change: {_elsewhere(trained, found.documents, read, start, stop)}")
    return LeftOut(
        documents=found.documents,
        spans=without(release, found.spans.spans),
        steps=inside,
        before=[step for step in read if step <= start],
    )


def _elsewhere(trained: Trained, documents: Sequence[Document], read: Sequence[int], start: int, stop: int) -> str:
    """Why a stretch reads none of the documents, and from which state one would."""
    what = documents[0].id if len(documents) == 1 else f"any of the {len(documents):,} documents"
    unread = f"no step from {start + 1} to {stop} of {trained.of} reads {what}"
    if not read:
        return f"{unread}, and no other does: its rows come after the last step"
    step = read[-1] if read[-1] <= start else next(step for step in read if step > stop)
    if step > stop:
        return f"{unread}; step {step} does: give --to {step} or a later one"
    state = step - 1
    while state > trained.stored_steps[0] and not (state in trained.stored_steps or trained.is_virtual(state)):
        state -= 1
    return f"{unread}; step {step} does: give --from {state} or an earlier state"


def write_changed(
    release: Release, out: Path, start: State, published: State, record: ck.Record, place: Path, change: Json
) -> None:
    """Write the weights of a changed training, whose state is in the folder `place`, to the new folder `out`, as `pull`
    does.

    They have no revision, and `everystep.json` and `README.md` say which state of the release they are not.
    """
    tensors = ck.read_promised(place / ck.WEIGHTS, record.weights_digest)
    weights = {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    with new_folder(out) as scratch:
        about: dict[str, Json] = {
            **origin(release, published.model),
            "model": published.model,
            "step": record.step,
            "tokens": record.tokens,
            "weights_digest": record.weights_digest,
            "state_digest": record.state_digest,
            "counterfactual": {
                "change": change,
                "from": {"revision": start.revision, "state_digest": start.record.state_digest},
                "published": {"revision": published.revision, "state_digest": published.record.state_digest},
            },
        }
        write_folder(release, scratch, published.spec, weights, about)


def told_of_documents(found: LeftOut, start: int) -> Iterator[str]:
    """The report on what is left out, line by line."""
    tokens = [f"{document.id} ({count(document.tokens, 'token')})" for document in found.documents]
    yield f"without {count(len(found.documents), 'document')}: {_listed(tokens)}"
    yield f"read by {count(len(found.steps), 'step')}: {_listed(found.steps)}"
    if found.before:
        yield (
            f"read before step {start}, too, by {count(len(found.before), 'step')}: {_listed(found.before)}; what they "
            "taught there stays"
        )


def losses(held_out: Sequence[tuple[SourceResult, SourceResult]]) -> list[list[str]]:
    """The report on held-out sources, published and changed, as rows of a table: nats for each target."""
    return [
        [before.source, f"{before.loss:.6f}", f"{after.loss:.6f}", f"{after.loss - before.loss:+.6f}"]
        for before, after in held_out
    ]


COLUMNS = ["held-out loss", "published", "changed", "difference"]


def _listed(items: Sequence[object]) -> str:
    return ", ".join([*map(str, items[:SHOWN]), *["..."] * (len(items) > SHOWN)])
