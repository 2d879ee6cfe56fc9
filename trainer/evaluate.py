"""The stage `evaluate`: the learning record of one model, what it sums up to, and what the model writes.

Reads `runs/MODEL`, the rows with their index and the tokenizer; writes to `results/MODEL`

    losses.parquet           the loss of every target of the record at every checkpoint (`pipeline.formats.losses`)
    evaluation.jsonl, .csv   loss and bits per byte of each checkpoint on the held-out rows: sums of the record
    sources.jsonl, .csv      the same by source
    samples.jsonl            what each checkpoint writes after a few prompts (`pipeline.formats.samples`)

and `manifests/evaluations/MODEL.json`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import fresh_folder, safe_join, sha256_file, write_bytes
from pipeline.base.paths import PARAMS, RESULTS, RUNS, SPLITS, TOKENIZER, TOKENS
from pipeline.base.yaml import Section, check, load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats import losses as record
from pipeline.formats import samples
from pipeline.formats.canonical import Json
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.lines import Shard, encode_line
from pipeline.formats.log import as_csv
from pipeline.formats.manifests import Checkpoint, Evaluated, EvaluateParameters, TokenizerTrained, Tokens, Trained
from pipeline.formats.model import ModelSpec
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import check_table
from pipeline.formats.vocabulary import end_token, token_bytes, token_texts
from pipeline.release.results import HeldOut
from pipeline.release.targets import targets_of
from trainer import numerics
from trainer.fits import place_of, require_evaluation
from trainer.launch import default_processes, launch
from trainer.losses import Losses, compute_losses
from trainer.recipe import load_recipe
from trainer.sample import Request, encode, written_tokens
from trainer.verified_rows import VerifiedRows

if TYPE_CHECKING:
    from trainer.parallel import World

Positive = Annotated[int, Field(gt=0)]
NOTHING = -1.0
"""What processes exchange for a token that was not written."""


class EvaluateParams(Section):
    """Held-out rows (missing: all), training rows of the batch that led to each stored checkpoint, rows at a time; and
    what each checkpoint continues, by at most how many tokens."""

    rows: Positive | None = None
    train_rows: Annotated[int, Field(ge=0)]
    micro_batch: Positive
    prompts: list[str]
    sample_tokens: Positive


class _Params(Section, extra="ignore"):
    evaluate: EvaluateParams


class Measured(NamedTuple):
    """What comes out of the checkpoints: losses, shape (checkpoints, rows, context), and the tokens that each wrote
    after each prompt."""

    losses: Losses
    written: list[list[list[int]]]


def evaluate(name: str) -> None:
    """Evaluate every checkpoint of the model `name`."""
    recipe, spec = load_recipe(name)
    numerics.prepare(recipe.numerics)  # may restart this program, so it comes before the work
    params = check(_Params, load_yaml(PARAMS), str(PARAMS)).evaluate
    inputs = [manifest_path("train", name), manifest_path("tokenize"), manifest_path("tokenizer")]
    basis = take_basis(inputs, ["evaluate"])
    tokens, trained = read_current(Tokens), read_current(Trained, name)
    read_current(TokenizerTrained).check_file(TOKENIZER)
    _check_rows(tokens)
    parameters = EvaluateParameters.from_json(params.model_dump(), PARAMS)
    targets = targets_of(Path(), tokens, trained, parameters)
    prompts = prompts_of(params.prompts, TOKENIZER, spec)
    folders = [_promised(RUNS / name, entry) for entry in trained.checkpoints]
    processes = default_processes(recipe.data.num_leaves)
    asked = (name, spec, folders, targets.rows, params.micro_batch, TOKENIZER, prompts, params.sample_tokens)
    measured: Measured = launch(measure, processes, recipe.numerics, *asked)

    columns = {entry.revision: losses for entry, losses in zip(trained.checkpoints, measured.losses, strict=True)}
    held_out = HeldOut.of(targets, token_bytes(TOKENIZER))
    results, by_source = held_out.results(
        trained.checkpoints, {revision: losses[: targets.num_held_out] for revision, losses in columns.items()}
    )
    folder = fresh_folder(RESULTS / name)
    flat = {revision: losses.ravel() for revision, losses in columns.items()}
    outputs = {
        "evaluation": [_write_lines(folder, "evaluation", [result.to_json() for result in results])],
        "sources": [_write_lines(folder, "sources", [result.to_json() for result in by_source])],
        "losses": [record.write_losses(folder / record.NAME, record.NAME, targets.keys, flat)],
        "samples": [_write_samples(folder, samples_of(trained.checkpoints, params, TOKENIZER, measured.written))],
    }
    write_manifest(
        Evaluated,
        name,
        basis,
        parameters=params.model_dump(),
        outputs=outputs,
        tokenizer_sha256=sha256_file(TOKENIZER),
        rows=targets.num_held_out,
        train_rows=len(targets.rows) - targets.num_held_out,
        targets=held_out.bytes.size,
        bytes=int(held_out.bytes.sum()),
        sources={source: text.to_json() for source, text in held_out.texts().items()},
        results=[result.to_json() for result in results],
        by_source=[result.to_json() for result in by_source],
        loss=results[-1].loss,  # again, outside of a list: `dvc metrics` reads no lists
        bits_per_byte=results[-1].bits_per_byte,
    )


def measure(
    world: "World",
    name: str,
    spec: ModelSpec,
    checkpoints: Sequence[Path],
    rows: NDArray[np.int64],
    micro_batch: int,
    tokenizer: Path,
    prompts: Sequence[list[int]],
    sample_tokens: int,
) -> Measured:
    """Compute the losses of all rows at every checkpoint, and let each continue the prompts."""
    require_evaluation(spec, place_of(world.device.type == "cpu", world.size), micro_batch)
    losses = compute_losses(world, name, spec, checkpoints, rows, micro_batch)
    return Measured(losses, _write_all(world, spec, checkpoints, tokenizer, prompts, sample_tokens))


def prompts_of(texts: Sequence[str], tokenizer: Path, spec: ModelSpec) -> list[list[int]]:
    """Encode the prompts, which must fit the context."""
    prompts = [encode(tokenizer, text) for text in texts]
    for number, prompt in enumerate(prompts):
        if len(prompt) > spec.context:
            raise EverystepError(
                f"{PARAMS}: evaluate.prompts.{number}: {len(prompt)} tokens do not fit the context of {spec.context}; "
                "shorten it"
            )
    return prompts


def samples_of(
    checkpoints: Sequence[Checkpoint],
    params: EvaluateParams | EvaluateParameters,
    tokenizer: Path,
    written: Sequence[Sequence[list[int]]],
) -> list[samples.Written]:
    """Give the lines of `samples.jsonl`: of each checkpoint, one for each prompt."""
    texts, end = token_texts(tokenizer), end_token(tokenizer)
    return [
        samples.Written(
            revision=entry.revision,
            step=entry.step,
            prompt=prompt,
            text=samples.text_written(token_ids, texts),
            token_ids=token_ids,
            ended=samples.reason_to_end(token_ids, end, params.sample_tokens),
        )
        for entry, of_prompts in zip(checkpoints, written, strict=True)
        for prompt, token_ids in zip(params.prompts, of_prompts, strict=True)
    ]


def _write_all(
    world: "World",
    spec: ModelSpec,
    checkpoints: Sequence[Path],
    tokenizer: Path,
    prompts: Sequence[list[int]],
    sample_tokens: int,
) -> list[list[list[int]]]:
    """Let each checkpoint continue each prompt, as `everystep sample` does; process r has the checkpoints r, r + size
    ..."""
    from trainer.model import Decoder, load_tensors

    model = Decoder(spec).to(world.device)
    vocabulary, end = len(token_texts(tokenizer)), end_token(tokenizer)
    request = Request(prompt="", tokens=sample_tokens)
    share = -(-len(checkpoints) // world.size)
    mine = np.full((share, len(prompts), sample_tokens), NOTHING)
    for turn, checkpoint in enumerate(checkpoints[world.rank :: world.size]):
        weights: Any = ck.read_verified(checkpoint, ck.WEIGHTS)
        load_tensors(model, weights)
        for number, prompt in enumerate(prompts):
            token_ids = list(written_tokens(model, prompt, vocabulary, end, request))
            mine[turn, number, : len(token_ids)] = token_ids
    gathered = np.array(world.gather_floats(mine.ravel().tolist())).reshape(world.size, *mine.shape)
    return [
        [
            [int(token) for token in row if token != NOTHING]
            for row in gathered[number % world.size, number // world.size]
        ]
        for number in range(len(checkpoints))
    ]


def _check_rows(tokens: Tokens) -> None:
    """Compare the rows and their indexes with their manifest."""
    for split in SPLITS:
        shards = tokens.shards(split)
        VerifiedRows(TOKENS, shards, tokens.width, tokens.vocabulary).check_shards(range(len(shards)))
        check_table(TOKENS, tokens.shard(f"{split}_index"))


def _promised(folder: Path, entry: Checkpoint) -> Path:
    """Return the folder of a checkpoint that the model's manifest lists, after comparing its record."""
    path = safe_join(folder, entry.revision)
    if Checkpoint.of_record(ck.read_record(path)) != entry:
        raise Differs(f"{path}: not the checkpoint that the manifest of the model lists; run `dvc repro`")
    return path


def _write_lines(folder: Path, name: str, rows: list[dict[str, Json]]) -> Shard:
    """Write a table as JSON lines, which the manifest promises, and as CSV."""
    write_bytes(folder / f"{name}.csv", as_csv(rows))
    return _shard(folder, f"{name}.jsonl", b"".join(map(encode_line, rows)), len(rows))


def _write_samples(folder: Path, written: Sequence[samples.Written]) -> Shard:
    content = b"".join(encode_line(line.to_json()) for line in written)
    return _shard(folder, samples.NAME, content, len(written))


def _shard(folder: Path, name: str, content: bytes, lines: int) -> Shard:
    write_bytes(folder / name, content)
    return Shard(path=name, lines=lines, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
