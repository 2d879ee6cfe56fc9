"""Scores of one checkpoint on tasks, for a reader: any checkpoint of a release, or a model of Hugging Face in a folder.

A checkpoint is computed as in the stage `score`, in its numerics class, and so gets the same bits. A model in a folder
is loaded by transformers, from safetensors, and never with code from the folder; each choice is computed by itself.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import new_folder, read_small, write_bytes
from pipeline.base.paths import TOKENIZER
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, canonical, parse, pretty
from pipeline.formats.scores import ITEMS_FILE, SCORED_ITEMS, SCORES_FILE, Score
from pipeline.formats.tables import write_table
from pipeline.formats.tasks import Item, Prompt, Task
from pipeline.release import harness
from pipeline.release.metrics import scores_of
from pipeline.release.release import State
from trainer.launch import MOST, default_processes, launch
from trainer.likelihoods import Scores, score_checkpoints
from trainer.score import Asked, ask, described, encoder, item_rows

if TYPE_CHECKING:
    from trainer.parallel import World

Made = Mapping[str, tuple[Sequence[Item], Task]]
WEIGHTS = "model.safetensors"


class Scored(NamedTuple):
    """What came out for one checkpoint."""

    revision: str
    rows: list[dict[str, Any]]
    scores: list[Score]
    results: Json


def score_state(state: State, made: Made) -> Scored:
    """Score one checkpoint of a release."""
    tokenizer = state.release.file(TOKENIZER)
    asked = _asked(made, tokenizer, state.spec.context)
    folder = state.file(ck.WEIGHTS).parent
    short = [each.prompts for each in asked if each.is_short]
    numerics = state.record.numerics.name
    processes = default_processes(MOST)
    found: Scores = launch(score_checkpoints, processes, numerics, state.model, state.spec, [folder], short)
    return _scored(asked, made, found, described(state), state.step)


def score_folder(folder: Path, made: Made) -> Scored:
    """Score the model in a folder: `config.json`, `model.safetensors` or its shards, `tokenizer.json`."""
    config = _config(folder)
    context = config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(context, int):
        raise EverystepError(f"{folder / 'config.json'}: max_position_embeddings: missing; it says what is too long")
    asked = _asked(made, folder / "tokenizer.json", context)
    short = [each.prompts for each in asked if each.is_short]
    found, parameters = launch(_score_folder, 1, "native", folder, short)
    about = harness.Model(
        name=folder.resolve().name,
        revision="main",
        weights_digest="",
        parameters=parameters,
        context=context,
        end_token=config.get("eos_token_id"),
    )
    return _scored(asked, made, found, about, 0)


def write_scored(scored: Scored, out: Path) -> None:
    """Write the files of the stage `score` for one checkpoint into a new folder."""
    with new_folder(out) as scratch:
        write_table(scratch / ITEMS_FILE, scored.rows, SCORED_ITEMS, ITEMS_FILE)
        lines = b"".join(canonical(score.to_json()) + b"\n" for score in scored.scores)
        write_bytes(scratch / SCORES_FILE, lines)
        write_bytes(scratch / f"{scored.revision}.json", pretty(scored.results))


def _asked(made: Made, tokenizer: Path, context: int) -> list[Asked]:
    return list(ask({name: items for name, (items, _) in made.items()}, encoder(tokenizer), context))


def _scored(asked: Sequence[Asked], made: Made, found: Scores, about: harness.Model, step: int) -> Scored:
    tasks = {name: task for name, (_, task) in made.items()}
    rows = list(item_rows(asked, tasks, [about.revision], found))
    scores = list(scores_of(rows, tasks, {about.revision: step}))
    return Scored(about.revision, rows, scores, harness.results(about, scores, tasks))


def _config(folder: Path) -> dict[str, Json]:
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise EverystepError(f"{folder}: has no {name}; name a release with --model, or a folder of Hugging Face")
    if not list(folder.glob("*.safetensors")):
        raise EverystepError(f"{folder}: has no {WEIGHTS}; files of other kinds can run code, and are not read")
    config = parse(read_small(folder / "config.json"), str(folder / "config.json"))
    if not isinstance(config, dict) or "auto_map" in config:
        raise EverystepError(
            f"{folder / 'config.json'}: this model needs code from its folder, which is not run; evaluate its release"
        )
    return config


def _score_folder(world: "World", folder: Path, items: Sequence[Sequence[Prompt]]) -> tuple[Scores, int]:
    """Score with the model in `folder`; return its number of parameters too."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.exact import logarithm64

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), trust_remote_code=False, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    model.to(world.device).eval()
    vocabulary = model.get_input_embeddings().num_embeddings
    values: list[float] = []
    greedy: list[bool] = []
    with torch.no_grad(), progress(f"score {folder.name}", len(items), "items") as advance:
        for item in items:
            for context, continuation in item:
                if max(*context, *continuation) >= vocabulary:
                    raise EverystepError(f"{folder / 'tokenizer.json'}: has ids that the model does not have")
                tokens = torch.tensor([context + continuation[:-1]], device=world.device)
                logits_NV = model(tokens).logits[0, len(context) - 1 :]
                targets_N = torch.tensor(continuation, device=world.device)
                shares_N = torch.softmax(logits_NV.double(), -1).gather(1, targets_N[:, None])[:, 0]
                values.append(math.fsum(logarithm64(shares_N.cpu().numpy())))
                greedy.append(bool((logits_NV.argmax(-1) == targets_N).all()))
            advance(1)
    if not np.isfinite(values).all():
        raise EverystepError(f"{folder}: a log-likelihood is not finite")
    return Scores(np.array([values]), np.array([greedy])), sum(p.numel() for p in model.parameters())
