"""What researchers do with checkpoints: `pull`, `digest`, `average`, `sample`, `evaluate`, `losses`."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.cli.arguments import (
    Address,
    FollowLinks,
    Json,
    Model,
    OnlyModel,
    Trained,
    require_address,
    require_utf8,
)
from pipeline.cli.common import (
    how_to_load,
    only_model,
    open_release,
    open_release_or_project,
    refuse_folder,
    require_torch,
    say,
    show_table,
    show_text,
    with_bytes,
)
from pipeline.formats.samples import SEED, TEMPERATURE, TOP_K

if TYPE_CHECKING:
    from pipeline.formats.scores import Score

commands = typer.Typer()


@commands.command()
def pull(
    address: Address,
    out: Annotated[Path, typer.Option(help="Folder to create; several checkpoints get a folder each inside it.")],
    model: OnlyModel = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Step of a checkpoint; may be repeated (default: the last).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every stored checkpoint of the model.")] = False,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="With --all, the virtual ones too: the training is repeated.")
    ] = False,
    follow_links: FollowLinks = False,
) -> None:
    """Write verified checkpoints as folders that transformers loads."""
    from pipeline.audit.pull import pull as pull_checkpoints

    if everything and step:
        raise EverystepError("pull: give either --step or --all")
    if virtual and not everything:
        raise EverystepError("pull: --virtual adds to --all; a single virtual checkpoint is pulled by its --step")
    release = open_release(address, follow_links)
    model = model or only_model(release)
    stored = list(release.states(model))
    steps = stored if everything else sorted({*step}) if step else stored[-1:]
    if virtual:
        steps = sorted([*steps, *release.model(model).virtual_steps()])
    several = everything or len(steps) > 1
    found = with_bytes(release, release.states_at(model, steps))
    states = {f"step{step}" if several else ".": state for step, state in found.items()}
    pull_checkpoints(release, states, out)
    for name, state in states.items():
        say(f"{out / name}: {model} {state.revision}" + ("" if several else f"; {how_to_load(out)}"))
    if several:
        say(how_to_load(out / list(states)[-1]))


@commands.command()
def digest(
    folder: Annotated[Path, typer.Argument(help="Folder that `pull`, `average` or `whatif` wrote, or a copy of it.")],
    as_json: Json = False,
) -> None:
    """Compute the digest of record from the weights in a pulled folder, and compare it with its `everystep.json`."""
    from dataclasses import asdict

    from pipeline.audit.import_model import digest_folder

    found = digest_folder(folder)
    same = found.weights_digest == found.promised
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        kind = "counterfactual" if found.counterfactual else "mean"
        what = f"{found.model} {found.revision}" if found.revision else f"a {kind} of {found.model}"
        say(f"{'same' if same else 'differs'}: the weights in {folder} {'are' if same else 'are not'} those of {what}")
        say(found.weights_digest if same else f"{found.weights_digest}, and everystep.json says {found.promised}")
    sys.exit(0 if same else 1)


@commands.command()
def average(
    address: Address,
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    last: Annotated[
        int | None, typer.Option(min=2, help="Number of stored checkpoints to average, counted from the last.")
    ] = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Step of a checkpoint to average instead; give it twice at least.")
    ] = None,
    model: OnlyModel = None,
    follow_links: FollowLinks = False,
) -> None:
    """Write the mean of a model's last checkpoints, or of chosen ones, as `pull` does."""
    from pipeline.audit.average import average as average_checkpoints

    if (last is None) == (not step) or (step and len({*step}) < 2):
        raise EverystepError("average: give either --last, or --step twice at least")
    release = open_release(address, follow_links)
    model = model or only_model(release)
    trained = [each for each in release.states(model) if each > 0]
    if last is not None and last > len(trained):
        raise EverystepError(
            f"--last {last}: {model} has {len(trained)} checkpoints after step 0, which is untrained: "
            f"{', '.join(map(str, trained))}"
        )
    steps = sorted({*step}) if step else trained[-last:] if last else []
    if 0 in steps:
        raise EverystepError("--step 0: is untrained; average later steps")
    states = [*with_bytes(release, release.states_at(model, steps)).values()]
    average_checkpoints(release, states, out)
    revisions = ", ".join(state.revision for state in states)
    say(f"{out}: {model}, mean of {revisions}; {how_to_load(out)}")


@commands.command()
def sample(
    address: Trained,
    model: Model,
    step: Annotated[int | None, typer.Option(help="Step of a checkpoint (default: the last).")] = None,
    prompt: Annotated[
        str, typer.Option(help="Text to continue (default: start a new document).", callback=require_utf8)
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature; 0: the most likely token.")
    ] = TEMPERATURE,
    top_k: Annotated[int, typer.Option(min=1, help="Sample from the K most likely tokens.")] = TOP_K,
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="The same seed gives the same text.")] = SEED,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Continue a text with one verified checkpoint."""
    require_torch("sample")
    from dataclasses import asdict

    from pipeline.formats.samples import ENOUGH
    from trainer.sample import Request
    from trainer.sample import sample as continue_text

    release = open_release_or_project(address, follow_links)
    step = max(release.states(model)) if step is None else step
    state = with_bytes(release, release.states_at(model, [step]))[step]
    request = Request(prompt=prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
    show = (lambda piece: None) if as_json else show_text
    answer = continue_text(state, request, show)
    if as_json:
        print(json.dumps(asdict(answer)))
        return
    print()
    if answer.ended != ENOUGH:
        note(f"note: stopped at the {answer.ended}, after {len(answer.token_ids)} of {tokens} tokens")


@commands.command()
def evaluate(
    address: Annotated[
        str,
        typer.Argument(
            help="Folder or address of a release, or a folder with a model of Hugging Face.", callback=require_address
        ),
    ],
    tasks: Annotated[
        str, typer.Option(help="Names of tasks, such as arc_easy,piqa, or all.", callback=require_utf8)
    ] = "all",
    model: OnlyModel = None,
    step: Annotated[int | None, typer.Option(help="Step, stored or virtual (default: the last stored).")] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Most items of a task (default: those of the release, or of params.yaml).")
    ] = None,
    artefact: Annotated[
        Path | None, typer.Option(help="Folder with the artefact of the items (default: fetch what is pinned).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create for the scores.")] = None,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Score one checkpoint on tasks, as the stage score does, with standard errors."""
    require_torch("evaluate")
    from pipeline.base.params import load_params
    from pipeline.formats.manifests import TasksMade, path_of
    from pipeline.release.metrics import PAPERS_ORDER
    from pipeline.stages.tasks.again import items_again
    from pipeline.stages.tasks.definitions import STOCK

    if out is not None and os.path.lexists(out):
        raise EverystepError(f"--out {out}: already exists; name a new folder")
    is_folder = Path(address, "config.json").is_file()
    if is_folder and (model is not None or step is not None):
        raise EverystepError(f"evaluate: {address} holds one model; --model and --step choose one of a release")
    release = None if is_folder else open_release(address, follow_links)
    known = [*STOCK]
    if release is not None and path_of(TasksMade).as_posix() in release.files:
        known = [*release.manifest(TasksMade).tasks]
    known.sort(key=lambda name: PAPERS_ORDER.index(name) if name in PAPERS_ORDER else len(PAPERS_ORDER))
    names = known if tasks == "all" else list(dict.fromkeys(tasks.split(",")))
    params = load_params() if release is None else release.params()
    made = items_again(names, items, params, release, artefact)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
    from trainer.scored import score_folder, score_state, write_scored

    if release is None:
        scored = score_folder(Path(address), made)
    else:
        model = model or only_model(release)
        wanted = max(release.states(model)) if step is None else step
        scored = score_state(with_bytes(release, release.states_at(model, [wanted]))[wanted], made)
    if out is not None:
        write_scored(scored, out)
    if as_json:
        scores = [score.to_json() for score in scored.scores]
        print(json.dumps({"model": model or address, "revision": scored.revision, "scores": scores}))
        return
    say(f"{model or address} {scored.revision}\n")
    header = ["task", "metric", "value", "standard error", "chance", "items", "too long", ""]
    show_table(header, [_told_score(score) for score in scored.scores])


def _told_score(score: "Score") -> list[str]:
    """The cells of a metric."""
    numbers = [score.value, score.standard_error, score.chance]
    told = ["" if number is None else f"{number:.4f}" for number in numbers]
    noise = "within noise of chance" if score.within_noise else ""
    return [score.task, score.metric, *told, f"{score.items:,}", f"{score.too_long:,}", noise]


@commands.command()
def losses(
    address: Trained,
    model: Model,
    step: Annotated[list[int], typer.Option(help="Step of a checkpoint, stored or virtual; may be repeated.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Write the losses of any checkpoints on the targets of a model's learning record, as Parquet."""
    require_torch("losses")
    from trainer.losses import losses as write

    refuse_folder(out)
    release = open_release_or_project(address, follow_links)
    states = [*with_bytes(release, release.states_at(model, sorted({*step}))).values()]
    targets = write(release, model, states, out)
    revisions = [state.revision for state in states]
    if as_json:
        print(json.dumps({"model": model, "revisions": revisions, "targets": targets, "out": str(out)}))
        return
    say(f"{out}: {targets:,} losses of {model} at each of {', '.join(revisions)}")
