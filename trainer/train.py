"""The stage `train`: one model from its recipe and its rows, resumable at any instant.

Reads `recipes/MODEL.yaml`, the rows that it names (`data/tokens`) and, if it names a parent, the state of another
release that it goes on from (`data/parent`); writes `runs/MODEL` (a folder for each
published checkpoint, `log.jsonl`, `log.csv`) and `manifests/models/MODEL.json`. DVC empties the output before a
run, so a run lives in `.work/train/MODEL/<fingerprint of recipe, data, code>` and is linked into the output when
it is complete: a killed run goes on from its last checkpoint, and a changed recipe or other rows can never pick
up its weights. Unfinished runs of other fingerprints are reported when a run begins, and kept until it is complete.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.console import note, progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, sha256_file, write_bytes
from pipeline.base.imports import closure
from pipeline.base.locks import only_one
from pipeline.base.paths import RECIPES, RUNS, WORK
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.canonical import Json, canonical, parse, pretty
from pipeline.formats.current import Basis, read_current, take_basis, write_manifest
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Checkpoint, PublishedRows, Tokens, Trained
from pipeline.formats.model import ModelSpec, num_parameters, num_parameters_if_repeated
from pipeline.formats.stages import manifest_path
from pipeline.formats.suite import require_one_suite
from trainer import numerics
from trainer.begun import begun_from, here
from trainer.data import Checking, TrainingData, training_data
from trainer.fits import place_of, processes_of, require_training
from trainer.launch import launch_training
from trainer.monitor import RECORDS, board, run_record
from trainer.plain_rows import CHECKED
from trainer.recipe import Recipe, load_recipe, suite_of

if TYPE_CHECKING:
    from trainer.checkpoint import Writer
    from trainer.loop import Trainer
    from trainer.parallel import World


IDENTITY = "identity.json"
CODE = Path(__file__).parents[1]
PINS = "constraints.txt"


def train(name: str) -> None:
    """Train the model `name` of the suite, or go on where a killed run stopped."""
    recipe, spec = load_recipe(name)
    own = recipe.data.layout == "everystep"
    require_one_suite(suite_of(name), read_current(Tokens).parameters.seed if own else None)
    basis = take_basis([RECIPES / f"{name}.yaml"])
    numerics.prepare(recipe.numerics)  # may restart this program, so it comes before the work
    on_cpu = recipe.numerics == "portable" or numerics.is_on_cpu()
    processes = processes_of(recipe.data.num_leaves, on_cpu)
    require_training(recipe, spec, place_of(on_cpu, processes), processes)  # before rows are digested, for hours
    leads = os.environ.get("RANK", "0") == "0"  # under torchrun, one of many
    data = training_data(Path(), recipe, spec, Checking(folder=CHECKED, waits=not leads))
    inputs = data.inputs()
    begun = None
    if recipe.parent is not None:
        begun = begun_from(here(), recipe, spec)
        basis.inputs.update(take_basis([manifest_path("parent")]).inputs)
    if not own and manifest_path("rows").is_file():  # rows that somebody put there by hand have no manifest
        basis.inputs.update(_require_fetched(recipe, inputs))
    whole = identity(recipe, spec, data)
    work = WORK / "train" / name / fingerprint(whole)
    with _run_lock(work.parent) if leads else nullcontext():
        if leads:
            _compare_with_others(recipe, whole, work)
            work.mkdir(exist_ok=True)
            write_bytes(work / IDENTITY, pretty(whole))
        launch_training(_train, recipe, recipe, spec, data, work, begun)
        if leads:
            _publish(recipe, spec, data, work, basis, inputs)
            _remove_stale_runs(work)


def identity(recipe: Recipe, spec: ModelSpec, data: TrainingData) -> dict[str, Json]:
    """Return everything that decides the bits of a run: recipe, model, rows, the code that trains, its libraries."""
    code = {name: sha256_file(CODE / name) for name in [PINS, *closure(CODE, [__name__])] if (CODE / name).is_file()}
    return {"code": code, "data": data.identity(), "model": spec.to_json(), "recipe": recipe.to_json()}


def fingerprint(identity: dict[str, Json]) -> str:
    """Name a run."""
    return hashlib.sha256(canonical(identity)).hexdigest()[:16]


def _train(world: "World", recipe: Recipe, spec: ModelSpec, data: TrainingData, work: Path, begun: Path | None) -> None:
    """Train in one process among its peers, from the last checkpoint in `work` to the last step; without one, from the
    state in the folder `begun`, or from new weights."""
    from trainer.checkpoint import Writer
    from trainer.sharded import trainer_of

    trainer = trainer_of(world, recipe, spec, data)
    leads = world.rank == 0
    work.mkdir(parents=True, exist_ok=True)
    found = ck.find_checkpoints(work)
    start = found[-1][1] if found else begun
    parent = trainer.load(start).state_digest if start else None
    if leads and found:
        complete = trainer.step == recipe.schedule.steps
        note(f"{recipe.name}: {'was complete' if complete else f'goes on from step {trainer.step}'}")
    kept = _cut_log(work / log.JSONL, trainer.step, recipe.begun_at) if leads else []
    last = kept[-1] if kept else None
    steps = set(recipe.checkpoint_steps)
    step_tokens = recipe.data.global_batch * spec.context
    tokens = recipe.tokens(recipe.schedule.steps)
    with (
        Writer(work, recipe, spec, trainer.numerics(), parent) as writer,
        run_record(RECORDS / f"{recipe.name}.jsonl", trainer) if leads else nullcontext(),
        board(recipe.name, kept, quiet=not leads) as show,
        progress(recipe.name, tokens, "tokens", quiet=not leads, done=trainer.tokens) as advance,
    ):
        if start is None:
            _save(trainer, writer, work, None)
        while trainer.step < recipe.schedule.steps:
            entry = trainer.train_step()
            if not all(map(math.isfinite, (entry.loss, entry.gradient_norm, entry.learning_rate))):
                writer.wait()
                raise EverystepError(_divergence(recipe.name, work, entry, last))
            last = entry
            if leads:
                writer.check()
                log.append(work / log.JSONL, entry)
                show(entry)
                advance(step_tokens, f"step {entry.step} of {recipe.schedule.steps}, loss {entry.loss:.3f}")
            if entry.step in steps:
                _save(trainer, writer, work, entry)


def _cut_log(path: Path, step: int, begun_at: int) -> list[log.Entry]:
    """Drop the lines of the log after `step`, which will be written again; return those that stay."""
    kept = log.read_until(path, step, begun_at)
    write_bytes(path, b"".join(canonical(entry.to_json()) + b"\n" for entry in kept))
    return kept


def _save(trainer: "Trainer", writer: "Writer", work: Path, entry: log.Entry | None) -> None:
    """Have rank 0 write the state. Every process takes part, because gathering the moments needs all of them.

    The state before it is written first: two copies at a time would be half as much memory again as training takes.
    """
    writer.wait()
    state = trainer.state()
    if trainer.world.rank == 0:
        log.sync(work / log.JSONL)
        writer.save(trainer.step, trainer.tokens, entry, *state)


def _divergence(name: str, work: Path, entry: log.Entry, last: log.Entry | None) -> str:
    """Describe a step whose loss or gradient is not finite, and what helps."""
    before = f"the last finite loss was {last.loss:.4g} at step {last.step}" if last else "no step before it was finite"
    found = ck.find_checkpoints(work)
    kept = f"its last checkpoint is {found[-1][1]}" if found else "it has no checkpoint of its own yet"
    return (
        f"{name}: diverged at step {entry.step}: loss {entry.loss}, gradient norm {entry.gradient_norm}; {before}; "
        f"{kept}. The same recipe would diverge at the same step again: in {RECIPES}/{name}.yaml, lower "
        "schedule.peak or optimizer.clip_norm, or raise schedule.warmup_steps; the training then starts over"
    )


def _require_fetched(recipe: Recipe, inputs: dict[str, str]) -> dict[str, str]:
    """Return the digest of the manifest of published rows, which must list the files that are read."""
    files = read_current(PublishedRows).files
    promised = {f"{recipe.data.folder}/{file.path}": file.sha256 for file in files}
    for name, sha256 in inputs.items():
        if promised.get(name) != sha256:
            raise Differs(f"{name}: not a file that {manifest_path('rows')} lists; run `dvc repro`")
    return take_basis([manifest_path("rows")]).inputs


def _publish(
    recipe: Recipe, spec: ModelSpec, data: TrainingData, work: Path, basis: Basis, inputs: dict[str, str]
) -> None:
    """Link the complete run into the output and write its manifest."""
    folder = RUNS / recipe.name
    shutil.rmtree(folder, ignore_errors=True)
    records = []
    for _, checkpoint in ck.find_checkpoints(work):
        records.append(ck.read_record(checkpoint))
        for file in list_files(checkpoint):
            target = folder / checkpoint.name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(checkpoint / file, target)
            except OSError:  # another file system
                shutil.copyfile(checkpoint / file, target)
    if [record.step for record in records] != recipe.checkpoint_steps:
        raise EverystepError(f"{work}: its checkpoints are not those of the recipe; remove the folder to start over")
    entries = log.read_until(work / log.JSONL, recipe.schedule.steps, recipe.begun_at)
    log.write(folder, entries)
    content = (folder / log.JSONL).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    shard = Shard(path=log.JSONL, lines=len(entries), bytes=len(content), sha256=sha256)
    write_manifest(
        Trained,
        recipe.name,
        basis,
        digested=inputs,
        parameters=recipe.to_json(),
        outputs={"log": [shard]},
        model=spec.to_json(),
        parameters_unique=num_parameters(spec),
        parameters_if_repeated=num_parameters_if_repeated(spec),
        tokens=records[-1].tokens,
        checkpoints=[Checkpoint.of_record(record).to_json() for record in records],
        numerics=records[-1].numerics.to_json(),
        **data.counts(),
    )


def _compare_with_others(recipe: Recipe, identity: dict[str, Json], work: Path) -> None:
    """Report unfinished runs of this model that are not continued, because something changed since.

    If only the rows changed, and no manifest of ours lists them, the run is refused instead: a damaged or half-fetched
    file must not cost the training so far. Our own rows match their manifest (`training_data`), so they were rebuilt.
    """
    for path in sorted(work.parent.glob(f"*/{IDENTITY}")):
        if path.parent == work:
            continue
        before = parse(path.read_bytes(), path)
        step = max((step for step, _ in ck.find_checkpoints(path.parent)), default=0)
        changed = [part for part in identity if canonical(identity[part]) != canonical(before[part])]
        complete = step == before["recipe"]["schedule"]["steps"]
        if changed == ["data"] and recipe.data.layout != "everystep" and step and not complete:
            raise Differs(
                f"{recipe.data.folder}: not the bytes of the run that has reached step {step} in {path.parent}: "
                f"{_changed_files(before['data'], identity['data'])}. Put them back to go on with it, or remove that "
                "folder to start over"
            )
        if not complete:
            note(
                f"{recipe.name}: the run at step {step} in {path.parent} is not continued, because its "
                f"{' and '.join(changed)} changed; it is kept until this run is complete"
            )


def _changed_files(before: list[Json], now: list[Json]) -> str:
    digests = [{shard["path"]: shard["sha256"] for shard in shards} for shards in (before, now)]
    names = sorted(digests[0].keys() | digests[1].keys())
    return ", ".join(name for name in names if digests[0].get(name) != digests[1].get(name))


def _remove_stale_runs(work: Path) -> None:
    """Remove runs under other fingerprints, which today's recipe, data and code cannot continue."""
    for folder in work.parent.iterdir():
        if folder.is_dir() and folder != work:
            shutil.rmtree(folder)


@contextmanager
def _run_lock(folder: Path) -> Iterator[None]:
    """Keep a second training of this model in this project from writing the same files."""
    busy = f"{folder}: another training of this model is under way; wait for it, or stop it"
    with only_one(folder / "lock", busy) as everywhere:
        if not everywhere:
            note(
                f"note: the file system of {folder} has no locks (a mount option such as flock gives them): a second "
                "training on another machine would not be noticed"
            )
        yield
