"""The stage `score`: some checkpoints of one model on the tasks.

Reads `runs/MODEL`, `data/tasks` and the tokenizer; writes `manifests/scores/MODEL.json` and

    scores/MODEL/items.parquet     what each checkpoint says of each choice
    scores/MODEL/scores.jsonl      a line for each checkpoint, task and metric
    scores/MODEL/REVISION.json     the scores of a checkpoint as lm-evaluation-harness writes them

An item of which a choice does not fit the model's context is in no metric, and is counted. A virtual checkpoint that is
declared is made by replay first.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.base.files import fresh_folder, sha256_file, write_bytes
from pipeline.base.params import load_section
from pipeline.base.paths import PARAMS, SCORES, TASKS, TOKENIZER
from pipeline.base.yaml import Section
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, canonical, pretty
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Scored, TasksMade, TokenizerTrained, Trained
from pipeline.formats.scores import ITEMS_FILE, SCORED_ITEMS, SCORES_FILE
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import write_table
from pipeline.formats.tasks import Item, Prompt, Task, TextIds, prompts, read_task
from pipeline.formats.vocabulary import end_token
from pipeline.release import harness
from pipeline.release.metrics import scores_of, told_last
from pipeline.release.project import promised_by
from pipeline.release.release import Release, State, Virtual
from trainer import numerics
from trainer.launch import default_processes, launch
from trainer.likelihoods import Scores, fits, score_checkpoints
from trainer.rebuild import rebuild
from trainer.recipe import load_recipe


class ScoreParams(Section):
    """Steps of the checkpoints that are scored, stored or virtual; `first` and `last` are the stored ones."""

    checkpoints: list[int | Literal["first", "last"]]


class Asked(NamedTuple):
    """An item of a task as token ids."""

    task: str
    item: Item
    prompts: list[Prompt]
    is_short: bool
    """Whether the model reads each choice whole."""


def score(name: str) -> None:
    """Score the declared checkpoints of the model `name`."""
    recipe, spec = load_recipe(name)
    numerics.prepare(recipe.numerics)  # may restart this program, so it comes before the work
    params = load_section(ScoreParams, "score")
    inputs = [manifest_path("train", name), *map(manifest_path, ("tokenize", "tokenizer", "tasks"))]
    basis = take_basis(inputs, ["score"])
    made = read_current(TasksMade)
    read_current(TokenizerTrained).check_file(TOKENIZER)
    read_current(Trained, name)
    built = Release(Path(), "", None, promised_by(Path(), manifests=inputs))
    states = declared_states(built, name, params.checkpoints)
    rebuild(built, [state for state in states if isinstance(state, Virtual)])
    items = {task: list(read_task(TASKS, made.shard_of(task))) for task in made.tasks}
    asked = list(ask(items, encoder(TOKENIZER), spec.context))
    folders = [state.file(ck.WEIGHTS).parent for state in states]
    processes = default_processes(recipe.data.num_leaves)
    short = [each.prompts for each in asked if each.is_short]
    found: Scores = launch(score_checkpoints, processes, recipe.numerics, name, spec, folders, short)
    revisions = [state.revision for state in states]
    rows = list(item_rows(asked, made.tasks, revisions, found))
    folder = fresh_folder(SCORES / name)
    table = write_table(folder / ITEMS_FILE, rows, SCORED_ITEMS, ITEMS_FILE)
    scores = list(scores_of(rows, made.tasks, {state.revision: state.step for state in states}))
    write_bytes(folder / SCORES_FILE, b"".join(canonical(line.to_json()) + b"\n" for line in scores))
    for state in states:
        of_it = [line for line in scores if line.revision == state.revision]
        write_bytes(folder / f"{state.revision}.json", pretty(harness.results(described(state), of_it, made.tasks)))
    write_manifest(
        Scored,
        name,
        basis,
        parameters=params.model_dump(),
        outputs={
            "items": [table],
            "scores": [_shard(folder / SCORES_FILE)],
            "results": [_shard(folder / f"{revision}.json") for revision in revisions],
        },
        tokenizer_sha256=sha256_file(TOKENIZER),
        context=spec.context,
        checkpoints=[checkpoint_of(state) for state in states],
        **told_last(scores),
    )


def declared_states(release: Release, name: str, declared: Sequence[int | str]) -> list[State]:
    """The declared checkpoints of a model, ascending."""
    stored = list(release.states(name))
    steps = sorted({{"first": stored[0], "last": stored[-1]}.get(str(step), step) for step in declared}, key=int)
    if not steps:
        raise EverystepError(f"{PARAMS}: score.checkpoints: declare at least one")
    return [*release.states_at(name, map(int, steps)).values()]


def ask(items: Mapping[str, Sequence[Item]], ids_of: TextIds, context: int) -> Iterator[Asked]:
    """Encode all items, task by task, and tell which of them a model of this context reads whole."""
    for task, of_task in items.items():
        choices = [choice for item in of_task for choice in item.choices]
        encoded = iter(prompts(choices, ids_of))
        for item in of_task:
            own = [next(encoded) for _ in item.choices]
            if not all(prompt.context and prompt.continuation for prompt in own):
                raise EverystepError(f"task {task}: {item.id}: a text of a choice has no token of its own")
            yield Asked(task, item, own, all(fits(prompt, context) for prompt in own))


def encoder(tokenizer: Path) -> TextIds:
    """An encoder of texts, without special tokens."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    return lambda texts: [one.ids for one in loaded.encode_batch_fast(list(texts), add_special_tokens=False)]


def item_rows(
    asked: Sequence[Asked], tasks: Mapping[str, Task], revisions: Sequence[str], found: Scores
) -> Iterator[dict[str, Any]]:
    """The rows of `items.parquet`."""
    for number, revision in enumerate(revisions):
        scored = iter(zip(found.log_likelihoods[number].tolist(), found.greedy[number].tolist(), strict=True))
        for each in asked:
            for place, (choice, prompt) in enumerate(zip(each.item.choices, each.prompts, strict=True)):
                log_likelihood, is_greedy = next(scored) if each.is_short else (None, None)
                yield {
                    "task": each.task,
                    "item": each.item.id,
                    "choice": place,
                    "revision": revision,
                    "log_likelihood": log_likelihood,
                    "greedy": is_greedy,
                    "gold": place == each.item.gold,
                    "tokens": len(prompt.continuation),
                    "bytes": len(choice.continuation.encode()),
                    "characters": len(choice.continuation.removeprefix(tasks[each.task].delimiter)),
                }


def described(state: State) -> harness.Model:
    """What the harness's schema says of a checkpoint."""
    trained = state.release.model(state.model)
    return harness.Model(
        name=state.model,
        revision=state.revision,
        weights_digest=state.record.weights_digest,
        parameters=trained.parameters_unique,
        context=state.spec.context,
        end_token=end_token(state.release.file(TOKENIZER)),
    )


def checkpoint_of(state: State) -> dict[str, Json]:
    """What the manifest says of a checkpoint."""
    return {
        "revision": state.revision,
        "step": state.step,
        "weights_digest": state.record.weights_digest,
        "storage": "virtual" if isinstance(state, Virtual) else "stored",
    }


def _shard(path: Path) -> Shard:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return Shard(path=path.name, lines=content.count(b"\n"), bytes=len(content), sha256=sha256)
