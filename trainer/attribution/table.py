"""A table of counterfactuals, made: groups, exact runs, predictions, and how well they agree.

Reads a release; writes the folder of `pipeline.formats.counterfactuals`. The work is cut into pieces that any number of
processes share and that survive a kill (`trainer.attribution.pieces`); they are in `.work/counterfactuals`, by a digest
of the states, the documents and the code that they depend on. The bytes do not depend on who computed which.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import new_folder, sha256_file, write_bytes
from pipeline.base.imports import closure_with_scripts
from pipeline.base.paths import TOKENS, WORK
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import canonical, pretty
from pipeline.formats.counterfactuals import FORMAT, MANIFEST, PREDICTIONS, TABLES, Agreement, Counterfactuals, End
from pipeline.formats.forgotten import Forgotten
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Evaluated, Tokens, digest_of_code
from pipeline.formats.rows import Rows
from pipeline.formats.tables import write_table
from pipeline.release.code import INSTALLED
from pipeline.release.forgetting import index_of, without
from pipeline.release.release import Release, Virtual
from pipeline.release.targets import targets_of_release
from trainer.attribution.groups import Group, groups_of, rows_between
from trainer.attribution.overlap import overlap, runs_of
from trainer.attribution.pieces import Piece, compute, read
from trainer.attribution.products import pulls_of, shift_by_adamw, shift_by_sgd, unrolled
from trainer.attribution.runs import PUBLISHED, Runs, name_of, run
from trainer.attribution.scores import agreement, at_random
from trainer.attribution.trajectory import Step, Vector, gradient_of_loss, trajectory
from trainer.changes import Change
from trainer.counterfactual import require_same_bits
from trainer.launch import MOST, default_processes, launch
from trainer.rebuild import rebuild
from trainer.replay import course

if TYPE_CHECKING:
    from trainer.loop import Trainer
    from trainer.parallel import World

PINS = "constraints.txt"
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every process is given."""

    runs: Runs
    sources: list[str]
    source_of: NDArray[np.int64]
    """Source of each held-out target, as a place in `sources`, shape (rows, context)."""
    folder: Path
    """Where the pieces are kept."""


def make_table(release: Release, model: str, start: int, number: int, out: Path) -> Counterfactuals:
    """Make the table of a model: leave each of `number` groups out of the training from state `start` to its end, and
    write the new folder `out`. May restart this program, to enter the numerics class of the model."""
    about = release.model(model).parameters
    if about.numerics != "portable":
        raise EverystepError(
            f"{model}: is of the class {about.numerics}; a table is for anybody to make again, on any "
            "machine, so its model is portable"
        )
    stop = about.schedule.steps
    ends = release.states_at(model, [start, stop])
    rebuild(release, [state for state in ends.values() if isinstance(state, Virtual) and not state.is_rebuilt()])
    groups = groups_of(release, model, start, stop, number)
    spans = spans_of(release, groups)
    targets = targets_of_release(release, model)
    rows = targets.rows[: targets.num_held_out]
    named = targets.keys["source"].slice(0, rows.shape[0] * (rows.shape[1] - 1)).to_pylist()
    sources = sorted(set(named))
    place = {source: number for number, source in enumerate(sources)}
    with course(release, model, [(ends[start], stop)]) as found:
        code = _digest_of_code()
        micro_batch = release.manifest(Evaluated, model).parameters.micro_batch
        key = [
            *(end.record.state_digest for end in ends.values()),
            *(part.sha256 for part in spans),
            hashlib.sha256(rows.tobytes()).hexdigest(),
            hashlib.sha256("\n".join(named).encode()).hexdigest(),
            micro_batch,
            code,
        ]
        work = Work(
            runs=Runs(
                course=found,
                published=ends[stop].file(ck.WEIGHTS).parent,
                spans=spans,
                rows=rows,
                micro_batch=micro_batch,
            ),
            sources=sources,
            source_of=np.array([place[source] for source in named]).reshape(len(rows), -1),
            folder=WORK / "counterfactuals" / hashlib.sha256(canonical(key)).hexdigest()[:16],
        )
        launch(compute_pieces, default_processes(MOST), found.recipe.numerics, work)
    predictions = {"overlap": _overlap(release, work, groups, rows_between(release, model, start, stop))}
    effects = effects_of(work, predictions)
    with new_folder(out) as scratch:
        outputs = _write(scratch, work, groups, effects)
        manifest = Counterfactuals(
            format=FORMAT,
            model=model,
            start=End(step=start, state_digest=ends[start].record.state_digest),
            stop=End(step=stop, state_digest=ends[stop].record.state_digest),
            rows=_digest_of_rows(release),
            groups=len(groups),
            moved=float(read(work.folder, PUBLISHED)["moved"]),
            outputs=outputs,
            agreement=list(_agreement(effects)),
            numerics=ends[stop].record.numerics,
            code=code,
        )
        write_bytes(scratch / MANIFEST, pretty(manifest.to_json()))
    return manifest


def spans_of(release: Release, groups: list[Group]) -> list[Forgotten]:
    """What a training does not see without each group."""
    index = index_of(release)
    documents = ([document.id for document in group.documents] for group in groups)
    return [without(release, index.spans_of(index.chosen(ids, []))) for ids in documents]


def compute_pieces(world: "World", work: Work) -> None:
    """Compute, in one process of several, what is missing: the exact runs, and then what predictions are made of."""
    from trainer.loop import Trainer
    from trainer.parallel import World

    found = work.runs.course
    trainer = Trainer(World(0, 1), found.recipe, found.spec, found.data)
    require_same_bits(trainer, found.stretches[0])
    work.folder.mkdir(parents=True, exist_ok=True)
    groups = range(len(work.runs.spans))
    pieces: dict[str, Callable[[], Piece]] = {PUBLISHED: partial(run, trainer, work.runs, None)}
    pieces |= {name_of(group): partial(run, trainer, work.runs, group) for group in groups}
    predicted = _Predictions(trainer, work)
    pieces |= {gradients_of(number): partial(predicted.gradients_by, number) for number in range(len(work.sources))}
    products = {f"products-{group:02}": partial(predicted.products, group) for group in groups}
    with progress("counterfactuals", len(pieces | products), "pieces", quiet=world.rank != 0) as advance:
        for stage in (pieces, products):  # products read the gradients of all sources
            compute(work.folder, stage, lambda name: advance(1, name))


def gradients_of(source: int) -> str:
    """Name the piece of a source, which may have any name itself."""
    return f"gradients-{source:02}"


class _Predictions:
    """What the pieces of predictions have in common, computed when it is first asked for."""

    def __init__(self, trainer: "Trainer", work: Work) -> None:
        self._trainer, self._work = trainer, work
        self._kept: dict[str, Any] = {}

    def gradients_by(self, source: int) -> Piece:
        """The derivative of the loss of a source, by its number, at the end by the gradient of each step."""
        steps, of_losses = self._known()
        self._start_again()
        gradient = of_losses[len(self._work.runs.rows) + source]
        return {"by_gradient": np.stack(unrolled(self._trainer, steps, gradient))}

    def products(self, group: int) -> Piece:
        """The predicted changes of all losses without a group: rows first, then sources."""
        steps, of_losses = self._known()
        self._start_again()
        change = Change(forgotten=self._work.runs.spans[group])
        pulls = pulls_of(self._trainer, steps, change.data(self._work.runs.course.data))
        shifts = {"sgd": shift_by_sgd(steps, pulls), "adamw": shift_by_adamw(self._trainer, steps, pulls)}
        found = {name: (of_losses @ shift.astype(np.float32)).astype(np.float64) for name, shift in shifts.items()}
        first = steps[0].number
        found["unrolled"] = np.array(
            [
                sum(float(by[number - first].astype(np.float64) @ pull) for number, pull in pulls.items())
                for by in self._by_gradient()
            ]
        )
        return found

    def _known(self) -> tuple[list[Step], Vector]:
        """The published trajectory, and at its end the gradients of the losses that are asked about, rows first, of
        shape (losses, weights)."""
        if "known" not in self._kept:
            self._start_again()
            runs, at_once = self._work.runs, self._work.runs.micro_batch
            steps = trajectory(self._trainer, runs.course.stretches[0])
            every = np.ones((1, runs.rows.shape[1] - 1), dtype=np.bool_)
            of_rows = [gradient_of_loss(self._trainer, row[None], every, 1) for row in runs.rows]
            of_sources = [
                gradient_of_loss(self._trainer, runs.rows, self._work.source_of == source, at_once)
                for source in range(len(self._work.sources))
            ]
            self._kept["known"] = steps, np.stack([*of_rows, *of_sources])
        known: tuple[list[Step], Vector] = self._kept["known"]
        return known

    def _by_gradient(self) -> list[Vector]:
        """The pieces `gradients-NUMBER`, which come before."""
        if "by" not in self._kept:
            pieces = (read(self._work.folder, gradients_of(number)) for number in range(len(self._work.sources)))
            self._kept["by"] = [piece["by_gradient"] for piece in pieces]
        by: list[Vector] = self._kept["by"]
        return by

    def _start_again(self) -> None:
        """Give the trainer what was published: a run before this has left it with its own."""
        self._trainer.recipe, self._trainer.data = self._work.runs.course.recipe, self._work.runs.course.data


def effects_of(work: Work, predictions: dict[str, Doubles]) -> dict[str, Doubles]:
    """What came out and what was predicted, each of shape (groups, rows + sources), and null where there is none."""
    before = means_of(work, read(work.folder, PUBLISHED)["losses"])
    groups = range(len(work.runs.spans))
    found = {"change": np.stack([means_of(work, read(work.folder, name_of(g))["losses"]) - before for g in groups])}
    products = [read(work.folder, f"products-{group:02}") for group in groups]
    of_rows = np.full((len(products), len(work.runs.rows)), np.nan)
    found |= {name: np.stack([piece[name] for piece in products]) for name in ("sgd", "adamw")}
    found["unrolled"] = np.concatenate([of_rows, np.stack([piece["unrolled"] for piece in products])], axis=1)
    return found | predictions


def means_of(work: Work, losses: NDArray[np.float32]) -> Doubles:
    """The mean losses that are asked about, of each row and of each source, shape (rows + sources,)."""
    doubles = losses.astype(np.float64)
    of_sources = [doubles[work.source_of == source].mean() for source in range(len(work.sources))]
    return np.concatenate([doubles.mean(axis=1), of_sources])


def _overlap(release: Release, work: Work, groups: list[Group], read_rows: NDArray[np.int64]) -> Doubles:
    """What each group's read pieces have in common with what is asked about; of a source, with its rows on average."""
    tokens, index = release.manifest(Tokens), index_of(release)
    for shard in tokens.shards("train"):
        release.file(TOKENS / shard.path)
    rows = Rows(release.folder / TOKENS, tokens.shards("train"), tokens.width, tokens.vocabulary)
    wanted = set(read_rows.tolist())
    held = []
    for group in groups:
        pieces = index.spans_of(index.chosen([document.id for document in group.documents], [])).tolist()
        found = [runs_of(np.asarray(rows[row])[start:stop]) for row, start, stop in pieces if row in wanted]
        held.append(set().union(*found))
    of_rows = overlap(held, work.runs.rows)
    weights = np.stack([(work.source_of == source).mean(axis=1) for source in range(len(work.sources))], axis=1)
    return np.concatenate([of_rows, of_rows @ (weights / weights.sum(axis=0))], axis=1)


def _agreement(effects: dict[str, Doubles]) -> Iterator[Agreement]:
    num_rows = int(np.isnan(effects["unrolled"][0]).sum())
    effects = effects | {"random": at_random(*effects["change"].shape)}
    for kind, part in (("rows", slice(0, num_rows)), ("sources", slice(num_rows, None))):
        for name in (*PREDICTIONS, "random"):
            predicted = effects[name][:, part]
            if not np.isnan(predicted).any():
                score = agreement(predicted, effects["change"][:, part])
                yield Agreement.from_json({"prediction": name, "targets": kind} | score._asdict(), name)


def _write(folder: Path, work: Work, groups: list[Group], effects: dict[str, Doubles]) -> dict[str, Shard]:
    """Write the three tables."""
    rows: dict[str, Iterator[dict[str, Any]]] = {
        "groups": (
            {"group": number, "source": group.source, "document": document.id, "tokens": document.tokens}
            for number, group in enumerate(groups)
            for document in group.documents
        ),
        "runs": (
            {
                "group": number,
                "source": group.source,
                "tokens": group.tokens,
                "weights_digest": str(piece["weights_digest"]),
                "state_digest": str(piece["state_digest"]),
                "distance": float(piece["distance"]),
            }
            for number, group in enumerate(groups)
            for piece in [read(work.folder, name_of(number))]
        ),
        "effects": (
            {"group": group, **about, "change": effects["change"][group, place]}
            | {name: None if np.isnan(value := effects[name][group, place]) else value for name in PREDICTIONS}
            for group in range(len(groups))
            for place, about in enumerate(_asked(work))
        ),
    }
    return {
        name: write_table(folder / f"{name}.parquet", lines, TABLES[name], f"{name}.parquet")
        for name, lines in rows.items()
    }


def _asked(work: Work) -> list[dict[str, Any]]:
    """The losses that are asked about: of each row, and of each source."""
    num_rows, context = work.source_of.shape
    counts = [int((work.source_of == source).sum()) for source in range(len(work.sources))]
    return [{"row": row, "source": None, "targets": context} for row in range(num_rows)] + [
        {"row": None, "source": source, "targets": count} for source, count in zip(work.sources, counts, strict=True)
    ]


def _digest_of_rows(release: Release) -> str:
    shards = release.manifest(Tokens).shards("train")
    return hashlib.sha256("".join(f"{shard.sha256}\n" for shard in shards).encode()).hexdigest()


def _digest_of_code() -> str:
    loaded = [PINS, *closure_with_scripts(INSTALLED, [__name__])]
    return digest_of_code({name: sha256_file(INSTALLED / name) for name in loaded})
