"""Manifests: what each stage built, in Git, without a clock, a host or a path of a machine.

One model for each kind of manifest (`docs/formats.md`, section 11). `inputs` maps the manifests that one builds on to
the SHA-256 of their bytes, so the root manifest of a release reaches every byte through a chain that needs no trust.
`pipeline.formats.current` writes manifests and reads those of a project that is being built;
`pipeline.release.release` reads those of a release.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import read_small, sha256_file
from pipeline.base.suggest import did_you_mean
from pipeline.formats.bounds import (
    MAX_CHECKPOINTS,
    MAX_CONTEXT,
    MAX_GLOBAL_BATCH,
    MAX_ROWS,
    MAX_STEPS,
    MAX_VOCABULARY,
)
from pipeline.formats.canonical import Json, parse
from pipeline.formats.checkpoints import Numerics, Record, schedule
from pipeline.formats.lines import Shard
from pipeline.formats.order import first_sample
from pipeline.formats.stages import BY_NAME, manifest_path, output_folder
from pipeline.formats.tasks import Task, task_file
from pipeline.formats.typed import Count, Counts, Declared, Sha256, TensorsDigest, Typed

FORMAT = "everystep/manifest/5"
Bits = Annotated[float, Field(ge=0)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
RowCount = Annotated[int, Field(ge=0, le=MAX_ROWS)]


class StoredFile(Typed):
    """A file that a stage keeps whole."""

    path: str
    """Relative to the folder of the stage."""
    sha256: Sha256
    """SHA-256 of the bytes as stored."""
    bytes: Count | None = None
    """Bytes as stored."""


class Manifest(Typed):
    """What every manifest has."""

    shipped: ClassVar[tuple[str, ...]] = ()
    """Outputs whose files a release holds."""

    format: Literal["everystep/manifest/5"]
    """Version of this form."""
    stage: str
    """Name of the stage."""
    of: str | None
    """The source or model that it was run for."""
    inputs: dict[str, Sha256]
    """Path of each file that it builds on → SHA-256 of its bytes."""
    params: dict[str, Sha256]
    """Section of `params.yaml` that the stage read → SHA-256 of its canonical JSON."""
    parameters: Declared
    """What was declared for it, with the defaults filled in."""
    outputs: dict[str, list[Shard]]
    """Name of an output → its shards."""

    @property
    def path(self) -> Path:
        """Where it belongs."""
        return manifest_path(self.stage, self.of)

    def shards(self, output: str) -> list[Shard]:
        """The shards of one output."""
        if output not in self.outputs:
            raise EverystepError(f"{self.path}: outputs: lists no {output}")
        return self.outputs[output]

    def shard(self, output: str) -> Shard:
        """The only shard of one output."""
        shards = self.shards(output)
        if len(shards) != 1:
            raise EverystepError(f"{self.path}: outputs.{output}: expected one file, got {len(shards)}")
        return shards[0]

    def promises(self, everything: bool = False) -> dict[str, str]:
        """Path of each file that a release holds of its outputs, or of every file → digest of its content."""
        folder = BY_NAME[self.stage].folder
        if folder is None:
            return {}
        names = [name for name in self.outputs if everything or name in self.shipped]
        folder = output_folder(self.stage, self.of)
        return {(folder / shard.path).as_posix(): shard.sha256 for name in names for shard in self.outputs[name]}


class WithFiles(Manifest):
    """A manifest of a stage that keeps whole files."""

    files: list[StoredFile]
    """The files, as stored."""

    def check_file(self, path: Path) -> None:
        """Raise `Differs` unless `path` has the bytes that are listed for its name."""
        promised = {file.path: file.sha256 for file in self.files}
        if sha256_file(path) != promised.get(path.name):
            raise Differs(f"{path}: not the file that {self.path} lists; run `dvc repro`")


class StageCode(Typed):
    """The code of one stage."""

    digest: Sha256
    """SHA-256 of what `sha256sum` prints for its files."""
    files: list[str]
    """The files that it loads and the pins of the libraries, sorted."""


class Code(Manifest):
    """The code of all stages."""

    stage: Literal["code"]
    of: None
    files: dict[str, Sha256]
    """Path of each file that a stage loads → SHA-256 of its bytes."""
    stages: dict[str, StageCode]
    """Stage → its code."""
    swhid: Annotated[str, Field(pattern=r"\Aswh:1:dir:[0-9a-f]{40}\z")]
    """Software Heritage identifier of a folder that holds exactly these files."""

    @model_validator(mode="after")
    def _digests_agree(self) -> Self:
        for stage, code in self.stages.items():
            if not self.files.keys() >= {*code.files} or code.digest != digest_of_code(self.files_of(stage)):
                raise ValueError(f"stages.{stage}.digest: not that of its files")
        return self

    def files_of(self, stage: str) -> dict[str, str]:
        """Path of each file that a stage loads → SHA-256 of its bytes."""
        if stage not in self.stages:
            raise EverystepError(f"{self.path}: stages: lists no {stage}; run `dvc repro`")
        return {name: self.files[name] for name in self.stages[stage].files}


def digest_of_code(files: Mapping[str, str]) -> str:
    """One digest of files, from the SHA-256 of each: that of the lines of `sha256sum`, sorted by path."""
    lines = [f"{sha256}  {name}\n" for name, sha256 in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class SourceParameters(Declared):
    """What decides the bytes and the rights of a source (`docs/add-a-corpus.md`)."""

    license: str
    """SPDX expression."""
    languages: list[str]
    """Codes of its languages."""
    repository: str | None = None
    """Data set of the Hub, for a source of kind `huggingface`."""


class Fetched(WithFiles):
    """The raw files of a source."""

    stage: Literal["fetch"]
    of: str
    parameters: SourceParameters


class PublishedRows(WithFiles):
    """Rows of token ids that others published."""

    stage: Literal["rows"]
    of: None


class ParentParameters(Declared):
    """The section `parent` of `params.yaml`: states of another release."""

    release_sha256: Sha256
    """SHA-256 of its root manifest, which promises every byte of it."""
    states: Annotated[dict[str, Annotated[int, Field(ge=0, le=MAX_STEPS)]], Field(min_length=1)]
    """Name of a model there → step of its state."""


class ParentState(Typed):
    """A state that a training goes on from."""

    tokens: Count
    """Tokens that the model was trained on until there."""
    state_digest: TensorsDigest
    """Digest of the state."""


class Parent(Manifest):
    """The states of another release that trainings go on from, and what was taken over with them."""

    stage: Literal["parent"]
    of: None
    parameters: ParentParameters
    release: str
    """Name of the release."""
    version: str
    """Its version."""
    states: dict[str, ParentState]
    """Name of a model in that release → its state."""
    files: dict[str, str]
    """Path in that release of each file that is kept of it → digest of its content."""
    carried: dict[str, Sha256]
    """Path of each manifest of rows and of what they were made from that is the parent's → SHA-256 of its bytes."""

    def promises(self, everything: bool = False) -> dict[str, str]:
        folder = output_folder(self.stage)
        return {(folder / path).as_posix(): digest for path, digest in self.files.items()}


class ForgetParameters(Declared):
    """The section `forget` of `params.yaml`: which documents a training is repeated without, and why."""

    why: str
    """Somebody's word."""
    documents: list[str]
    """Ids of documents; every copy of each is forgotten."""
    sources: list[str]
    """Names of sources; every training document of each is forgotten."""


class ForgottenDocument(Typed):
    """A document that was forgotten."""

    id: str
    """Its id."""
    source: str
    """Its source."""
    license: str
    """SPDX expression."""


class ForgottenShard(Typed):
    """A shard of rows from which spans are gone."""

    before: Sha256
    """SHA-256 of its lines in the release before."""
    after: Sha256
    """SHA-256 of its lines here."""


class ForgottenBy(Typed):
    """What a model had read of the documents."""

    steps: list[Steps]
    """Its steps in the release before that read any of them, ascending."""
    clean: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Step of the state that its training went on from."""
    superseded: dict[str, TensorsDigest]
    """Name of each later checkpoint in the release before → digest of its state."""


class Forgetting(Manifest):
    """The certificate of a release that has forgotten documents of the release before it."""

    stage: Literal["forgotten"]
    of: None
    parameters: ForgetParameters
    filler: Annotated[int, Field(ge=0, le=MAX_VOCABULARY)]
    """Id that took the place of each forgotten one: the end token."""
    documents: list[ForgottenDocument]
    """The documents in the order of the index, once for each copy."""
    rows: RowCount
    """Training rows that held any of them."""
    ids: Count
    """Ids in these rows that were theirs."""
    changed: dict[str, ForgottenShard]
    """Path of each shard with such a row, relative to `data/tokens` → its digests."""
    models: dict[str, ForgottenBy]
    """Name of each model → what it had read."""


class EvaluationSets(WithFiles):
    """The artefact that holds the evaluation sets."""

    stage: Literal["evaluation_sets"]
    of: None


class NgramCounts(Typed):
    """One evaluation set as hashes."""

    items: Count
    """Items of the set."""
    items_too_short: Count
    """Items with fewer words than an n-gram has; nothing is compared with them."""
    ngrams: Count
    """Different n-grams of the others."""


class NgramParameters(Declared):
    """The sections `evaluation_sets.words` and `evaluation_sets.sets` of `params.yaml`."""

    words: Annotated[int, Field(ge=1)]
    """Words of an n-gram."""


class EvaluationNgrams(Manifest):
    """The hashed n-grams of the evaluation sets."""

    stage: Literal["evaluation_ngrams"]
    of: None
    parameters: NgramParameters
    sets: dict[str, NgramCounts]
    """Name of a set → what was found in it."""


class Extracted(Manifest):
    """The documents of a source as its reader found them."""

    shipped = ("removals",)

    stage: Literal["extract"]
    of: str
    documents: Count
    """Documents that it passed on."""
    bytes: Count
    """Bytes of their texts, in UTF-8."""
    removed: Counts
    """Reason → documents removed."""
    removed_by_license: Counts
    """Of the reasons `unknown_license` and `license`, detail → documents; the first 100, then `(others)`."""
    examples: dict[str, list[str]]
    """Reason → the first three ids removed for it."""


class StepTally(Typed):
    """What one step of cleaning did."""

    step: str
    """Name of the step."""
    documents: Count
    """Documents that came to it."""
    rewritten: Count
    """Texts that it changed."""
    removed: Counts
    """Reason → documents that it removed."""
    counts: Counts
    """What it counted, by kind."""


class Filtered(Manifest):
    """The documents of a source after cleaning."""

    shipped = ("removals", "replaced")

    stage: Literal["filter"]
    of: str
    documents: Count
    """Documents that it passed on."""
    bytes: Count
    """Bytes of their texts, in UTF-8."""
    removed: Counts
    """Reason → documents removed."""
    removed_by_license: Counts
    """Of the reasons `unknown_license` and `license`, detail → documents; the first 100, then `(others)`."""
    examples: dict[str, list[str]]
    """Reason → the first three ids removed for it."""
    steps: list[StepTally]
    """Each step of cleaning, in the order in which they ran."""

    def counts_of(self, step: str) -> Counts:
        """What the step of this name counted; nothing if it did not run."""
        return next((dict(tally.counts) for tally in self.steps if tally.step == step), {})


class NearParameters(Declared):
    """How near duplicates are found."""

    shingle_words: Annotated[int, Field(ge=1, le=1000)]
    """Words of a shingle."""


class DedupParameters(Declared):
    """The section `dedup` of `params.yaml`."""

    near: NearParameters
    """Rules for near duplicates."""
    seed: Count
    """Seed of the shuffle."""


class Deduplicated(Manifest):
    """The documents of all sources, each once, shuffled and split."""

    shipped = ("removals",)

    stage: Literal["dedup"]
    of: None
    parameters: DedupParameters
    documents: Count
    """Documents that it passed on."""
    bytes: Count
    """Bytes of their texts, in UTF-8."""
    documents_by_source: Counts
    """Source → documents passed on."""
    documents_by_split: Counts
    """`train` and `validation` → documents."""
    removed: Counts
    """Reason → documents removed."""
    removed_by_source: Counts
    """Source → documents removed."""
    duplicates: dict[str, Counts]
    """Source of documents removed → source of the documents that were kept in their place → documents removed."""
    compared_in_part: Count = 0
    """Documents that share a band with more others than they were compared with; missing if there are none."""


class TokenizerTrained(WithFiles):
    """The tokenizer."""

    stage: Literal["tokenizer"]
    of: None
    vocabulary: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    """Number of tokens."""

    def promises(self, everything: bool = False) -> dict[str, str]:
        return {(output_folder("tokenizer") / file.path).as_posix(): file.sha256 for file in self.files}


class Tally(Typed):
    """Documents, bytes of text and tokens: in all, by source and by licence."""

    documents: Count
    """Documents, a repeated one as often as it occurs."""
    bytes: Count
    """Bytes of their texts."""
    tokens: Count
    """Tokens, with the end token of each document."""
    documents_by_source: Counts
    """Source → documents."""
    bytes_by_source: Counts
    """Source → bytes of text."""
    tokens_by_source: Counts
    """Source → tokens."""
    documents_by_license: Counts
    """SPDX expression → documents."""
    bytes_by_license: Counts
    """SPDX expression → bytes of text."""
    tokens_by_license: Counts
    """SPDX expression → tokens."""


class SplitTally(Tally):
    """A split as rows; the counts include the dropped tail."""

    rows: RowCount
    """Rows."""
    dropped_tail_tokens: Count
    """Tokens at the end that fill no row."""
    compared_documents: Counts
    """Source → documents whose ids were compared with the reference tokenizer's."""


class Splits(Typed):
    """Both splits."""

    train: SplitTally
    """What training reads."""
    validation: SplitTally
    """What is held out."""


class TokensParameters(Declared):
    """The sections `tokenize` and `mixture` of `params.yaml`."""

    context: Annotated[int, Field(ge=1, le=MAX_CONTEXT)]
    """Tokens that a model reads at once."""
    seed: Count
    """Seed of the order."""


class Tokens(Manifest):
    """Documents as rows of token ids, the index of documents, and the order."""

    shipped = ("train", "validation", "train_index", "validation_index", "order", "removals", "forgotten")

    stage: Literal["tokenize"]
    of: None
    parameters: TokensParameters
    width: Annotated[int, Field(ge=2, le=MAX_CONTEXT + 1)]
    """Ids of a row: `context + 1`."""
    vocabulary: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    """Number of tokens."""
    end_token: Annotated[int, Field(ge=0, le=MAX_VOCABULARY)]
    """Id of the token after each document."""
    available: Tally
    """The training documents before the mixture."""
    passes: dict[str, Annotated[float, Field(ge=0)]]
    """Source → how often its documents occur in the training rows."""
    filled_documents_by_source: Counts | None = None
    """With fill-in-the-middle, source → documents whose middle was moved."""
    splits: Splits
    """What each split holds."""


class Searchable(Manifest):
    """The search index of the training rows."""

    shipped = ("ids", "nodes", "tables")

    stage: Literal["search"]
    of: None
    width: Annotated[int, Field(ge=2, le=MAX_CONTEXT + 1)]
    """Ids of a row."""
    vocabulary: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    """Number of tokens."""
    places: Count
    """Ids of all rows."""


class Harness(Typed):
    """The program whose definitions of tasks are followed."""

    package: str
    """Name of its package."""
    version: str
    """Its version."""


class NgramScore(Typed):
    """What a model that counts runs of tokens scores on a task."""

    order: Annotated[int, Field(ge=1)]
    """Tokens of its longest run."""
    accuracy: Annotated[float, Field(ge=0, le=1)]
    """Share of the items that it gets right, as `acc`."""
    standard_error: Annotated[float, Field(ge=0)]
    """Standard error of that share."""


class NgramLoss(Typed):
    """What a model that counts runs of tokens reaches on the held-out rows."""

    order: Annotated[int, Field(ge=1)]
    """Tokens of its longest run."""
    bits_per_byte: Bits
    """Bits per byte of text."""


class Counting(Typed):
    """Models that count runs of tokens in training rows: what a trained model has to beat."""

    rows: RowCount
    """Training rows that they count, the first of the order."""
    tokens: Count
    """Their ids."""
    held_out: list[NgramLoss]
    """Each of them on the held-out rows."""
    tasks: dict[str, list[NgramScore]]
    """Task → the score of each of them."""


class TasksMade(Manifest):
    """Items of the tasks, and what models that count score on them."""

    shipped = ("items", "pairs")

    stage: Literal["tasks"]
    of: None
    harness: Harness
    """The program whose definitions are followed."""
    begin_token: Literal["none"]
    """The rule of the token before a context: there is none."""
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    """Name of a task → what it is."""
    counting: Counting
    """Scores of counting."""

    def shard_of(self, task: str) -> Shard:
        """The file of a task: of output `stock` or `pairs`, of which a release holds `pairs` alone."""
        if task not in self.tasks:
            raise EverystepError(
                f"{task}: no such task; there are {', '.join(self.tasks)}{did_you_mean(task, self.tasks)}"
            )
        shards = [shard for name in ("stock", "pairs") for shard in self.outputs.get(name, [])]
        return next(shard for shard in shards if shard.path == task_file(task))

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        files = [shard.path for name in ("stock", "pairs") for shard in self.outputs.get(name, [])]
        if sorted(files) != sorted(map(task_file, self.tasks)):
            raise ValueError("outputs: stock and pairs together list one file for each task")
        return self


class DataParameters(Declared):
    """The section `data` of a recipe."""

    folder: str
    """Folder of the rows."""
    layout: str
    """Layout of the rows."""
    width: Annotated[int, Field(ge=2)]
    """Ids of a row: a context and the last target."""
    global_batch: Annotated[int, Field(ge=1, le=MAX_GLOBAL_BATCH)]
    """Rows that a step reads."""
    seed: Count
    """Seed of the order."""


class ScheduleParameters(Declared):
    """The section `schedule` of a recipe."""

    shape: Literal["cosine", "cosine-clipped", "wsd"]
    """How the rate falls."""
    start: Annotated[float, Field(ge=0)]
    """Rate before the first update."""
    peak: Annotated[float, Field(ge=0)]
    """Highest rate."""
    peak_batch: Annotated[int, Field(ge=1, le=MAX_GLOBAL_BATCH)] | None
    """Rows of a step for which the peak is given; null: any."""
    floor: Annotated[float, Field(ge=0)]
    """Lowest rate after the warm-up, as a share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Updates until the peak."""
    decay_steps: Steps
    """Updates from the peak to the floor."""
    steps: Steps
    """Updates of the training."""


class BegunFrom(Declared):
    """The section `parent` of a recipe: the state that its training goes on from."""

    state_digest: TensorsDigest
    """Digest of weights, moments and step."""
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Its step, from which the steps of this training are counted on."""
    tokens: Count
    """Tokens read until there."""
    first_sample: Count
    """Sample of the order with which this training begins."""


class OptimizerParameters(Declared):
    """The section `optimizer` of a recipe."""

    beta1: Annotated[float, Field(gt=0, lt=1)]
    """Decay of the first moment in a step."""
    beta2: Annotated[float, Field(gt=0, lt=1)]
    """Decay of the second moment in a step."""
    epsilon: Annotated[float, Field(gt=0)]
    """What is added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Decay of a weight in a step, times the learning rate."""
    decay: Literal["matrices", "all"]
    """What it acts on."""


class RecipeParameters(Declared):
    """A recipe (`docs/add-a-model.md`)."""

    seed: Count
    """Seed of the first weights."""
    numerics: Literal["portable", "native"]
    """Numerics class."""
    precision: Literal["float32", "bfloat16"]
    """Number format of the computation."""
    compiled: bool
    """Whether torch compiles the model."""
    model: dict[str, Json]
    """Family and sizes."""
    checkpoints: str
    """Rule of the steps that are published."""
    digest_every: Steps
    """Steps from one digest of all weights in the log to the next."""
    data: DataParameters
    """What is read."""
    optimizer: OptimizerParameters
    """How a gradient moves the weights."""
    schedule: ScheduleParameters
    """How long and at which rates."""
    parent: BegunFrom | None = None
    """What it goes on from; missing for a training that begins with new weights."""

    @property
    def begun_at(self) -> int:
        """Step of the state that the training began with."""
        return self.parent.step if self.parent else 0

    def sample(self, step: int) -> int:
        """Number the first sample that the step from state `step` to the next reads."""
        begun_with = self.parent.first_sample if self.parent else 0
        return first_sample(step, self.data.global_batch, self.begun_at, begun_with)

    def tokens(self, step: int) -> int:
        """Targets trained on until `step`, those of the parent included."""
        before = self.parent.tokens if self.parent else 0
        return before + (step - self.begun_at) * self.data.global_batch * (self.data.width - 1)

    @property
    def published_steps(self) -> list[int]:
        """Steps of its checkpoints, ascending. The state that it began with belongs to the release of its parent."""
        steps = schedule(self.checkpoints, self.schedule.steps)
        return [step for step in steps if step > self.parent.step] if self.parent else steps


class Checkpoint(Typed):
    """What the manifest of a model repeats of the record of a checkpoint."""

    revision: str
    """Name of its folder."""
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Updates so far."""
    tokens: Count
    """Tokens read so far."""
    loss: float | None
    """Loss of the last batch before its update; null at step 0."""
    weights_digest: TensorsDigest
    """Digest of the weights."""
    state_digest: TensorsDigest
    """Digest of the whole state."""
    parent: TensorsDigest | None
    """State digest of the checkpoint before it; of the first, that of the state that the training began with."""
    storage: Literal["stored", "virtual"]
    """`stored`: in the release. A manifest lists no others."""

    @classmethod
    def of_record(cls, record: Record) -> "Checkpoint":
        """What is repeated of `record`."""
        tree = record.to_json()
        return cls.from_json({key: tree[key] for key in cls.model_fields}, f"record of {record.revision}")


class Trained(Manifest):
    """A trained model: its log and its checkpoints."""

    shipped = ("log",)

    stage: Literal["train"]
    of: str
    parameters: RecipeParameters
    model: dict[str, Json]
    """The description of the model (section 10.3)."""
    parameters_unique: Count
    """Numbers in its weights, shared ones once."""
    parameters_if_repeated: Count
    """The same with an FFN that layers share counted for each of them."""
    tokens: Count
    """Tokens that it was trained on."""
    checkpoints: Annotated[list[Checkpoint], Field(min_length=1)]
    """Its checkpoints, ascending."""
    numerics: Numerics
    """What decides its bits beside data, code and recipe."""
    rows: RowCount | None = None
    """Rows that others published: how many there are."""
    dropped_rows: RowCount | None = None
    """Of these, rows that no step reads."""

    @field_validator("checkpoints")
    @classmethod
    def _stored(cls, checkpoints: list[Checkpoint]) -> list[Checkpoint]:
        for entry in checkpoints:
            if entry.storage != "stored":
                raise ValueError(f"{entry.revision}: storage is {entry.storage}; a release lists what it stores")
        return checkpoints

    @property
    def stored_steps(self) -> list[int]:
        """Steps of its stored states, ascending."""
        return sorted(entry.step for entry in self.checkpoints)

    def is_virtual(self, step: int) -> bool:
        """Whether the state at `step` is virtual: the log has the digest of its weights, and it is not stored."""
        stored = self.stored_steps
        return (
            stored[0] < step <= self.parameters.schedule.steps
            and step % self.parameters.digest_every == 0
            and step not in stored
        )

    def virtual_steps(self) -> list[int]:
        """Steps of its virtual states, ascending; more than `MAX_CHECKPOINTS` are refused."""
        if self.num_virtual > MAX_CHECKPOINTS:
            raise EverystepError(f"{self.of}: {self.num_virtual} virtual states; at most {MAX_CHECKPOINTS} at a time")
        every, steps = self.parameters.digest_every, self.parameters.schedule.steps
        return [step for step in range(every, steps + 1, every) if self.is_virtual(step)]

    @property
    def num_virtual(self) -> int:
        """Number of its virtual states."""
        every, stored = self.parameters.digest_every, self.stored_steps
        due = self.parameters.schedule.steps // every - stored[0] // every
        return due - sum(step % every == 0 for step in stored[1:])


class Result(Typed):
    """A checkpoint on the held-out rows: a line of `evaluation.jsonl`."""

    revision: str
    """Name of the checkpoint."""
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Its step."""
    tokens: Count
    """Tokens that it was trained on."""
    loss: Bits
    """Mean loss, in nats per token."""
    bits_per_byte: Bits
    """The same per byte of text, in bits."""
    standard_error: Bits | None
    """Standard error of the bits per byte, over rows; null for fewer than two."""


class SourceResult(Result):
    """A checkpoint on the held-out targets of one source: a line of `sources.jsonl`."""

    source: str
    """The source."""


class SourceText(Typed):
    """What the held-out rows that were read hold of a source."""

    rows: RowCount
    """Rows with a target of it."""
    targets: Count
    """Its targets."""
    bytes: Count
    """Bytes of text that they stand for."""


class EvaluateParameters(Declared):
    """The section `evaluate` of `params.yaml`."""

    rows: Annotated[int, Field(ge=1)] | None = None
    """Held-out rows that are read; all of them if it is null or missing."""
    train_rows: Annotated[int, Field(ge=0)]
    """Training rows that are read for each stored checkpoint, of the batch that led to it."""
    micro_batch: Annotated[int, Field(ge=1)]
    """Rows that are read at once."""
    prompts: list[str]
    """Texts that each stored checkpoint continues."""
    sample_tokens: Annotated[int, Field(ge=1)]
    """Tokens that it writes at most."""


class Evaluated(Manifest):
    """The learning record of a model, what it sums up to, and what the model writes at every stored checkpoint."""

    shipped = ("evaluation", "sources", "losses", "samples")

    stage: Literal["evaluate"]
    of: str
    parameters: EvaluateParameters
    tokenizer_sha256: Sha256
    """SHA-256 of the tokenizer whose bytes were counted."""
    rows: RowCount
    """Held-out rows that were read."""
    train_rows: RowCount
    """Training rows in the record."""
    targets: Count
    """Tokens predicted in the held-out rows."""
    bytes: Count
    """Bytes of text that they stand for."""
    sources: dict[str, SourceText]
    """Source → what the held-out rows hold of it."""
    results: Annotated[list[Result], Field(min_length=1)]
    """One for each checkpoint, ascending."""
    by_source: list[SourceResult]
    """One for each checkpoint and each of `sources`, ascending."""
    loss: Bits
    """Loss of the last, again, where `dvc metrics` finds it."""
    bits_per_byte: Bits
    """Bits per byte of the last, again."""


class ScoreParameters(Declared):
    """The section `score` of `params.yaml`."""

    checkpoints: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_STEPS)] | Literal["first", "last"]], Field(min_length=1)
    ]
    """Steps of the checkpoints that are scored; `first` and `last` are the stored ones."""


class ScoredCheckpoint(Typed):
    """A checkpoint that was scored."""

    revision: str
    """Its name."""
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Its step."""
    weights_digest: TensorsDigest
    """Digest of the weights."""
    storage: Literal["stored", "virtual"]
    """`virtual`: it was made by replay."""


class Scored(Manifest):
    """Scores of some checkpoints of a model on the tasks."""

    shipped = ("items", "scores", "results")

    stage: Literal["score"]
    of: str
    parameters: ScoreParameters
    tokenizer_sha256: Sha256
    """SHA-256 of the tokenizer."""
    context: Annotated[int, Field(ge=1, le=MAX_CONTEXT)]
    """Tokens that the model reads at once; a longer item is not scored."""
    checkpoints: Annotated[list[ScoredCheckpoint], Field(min_length=1)]
    """The checkpoints, ascending."""
    too_long: Counts
    """Task → items that are longer."""
    last: dict[str, dict[str, float | None]]
    """Task → metric → its value at the last of them, again, where `dvc metrics` finds it."""


class RowsRead(Typed):
    """What one model read."""

    samples: Count
    """Rows, as often as they were read."""
    rows: RowCount
    """Different rows."""


class ReadCounts(Typed):
    """How much of the training rows the models of a release read."""

    models: dict[str, RowsRead]
    """Model → what it read."""
    rows: RowCount
    """Different rows that at least one model read."""
    documents: Count
    """Documents with a token in these rows."""
    tokens: Count
    """Their tokens there."""
    documents_by_source: Counts
    """Source → documents; 0 for what was not read."""
    tokens_by_source: Counts
    """Source → tokens."""
    documents_by_license: Counts
    """SPDX expression → documents."""
    tokens_by_license: Counts
    """SPDX expression → tokens."""


class Coverage(Manifest, ReadCounts):
    """How much of the training rows the models of a release read, counted by the stage `release`."""

    stage: Literal["coverage"]
    of: None


class ModelFacts(Typed):
    """A model, as card and `everystep show` tell it."""

    name: str
    """Its name."""
    parameters: Count
    """Unique parameters."""
    parameters_if_repeated: Count
    """Parameters if an FFN that layers share is counted for each of them."""
    tokens: Count
    """Tokens that it was trained on."""
    rows_read: RowCount
    """Different rows that held them."""
    share_read: float
    """These as a share of all training rows."""
    epochs: float
    """Rows read, repeated ones included, over all training rows."""
    global_batch: Count
    """Rows that a step reads."""
    checkpoints: list[str]
    """Names of its checkpoints, ascending."""
    steps: list[Count]
    """Their steps."""
    numerics: str
    """Its numerics class."""
    validation_loss: float
    """Loss of its last checkpoint."""
    bits_per_byte: float
    """Bits per byte of its last checkpoint."""
    validation_tokens: Count
    """Tokens predicted for these."""
    losses: list[float]
    """Loss of each checkpoint."""


class LicenseFacts(Typed):
    """What the training rows hold under one licence."""

    license: str
    """SPDX expression."""
    documents: Count
    """Documents in the training rows."""
    documents_read: Count
    """Of these, documents with a token that a model read."""
    tokens: Count
    """Tokens in the training rows."""
    tokens_read: Count
    """Of these, tokens in rows that a model read."""
    share: float
    """Share of all tokens."""
    share_read: float
    """Share of all tokens read."""


class RowFacts(Typed):
    """Rows of a release."""

    train: RowCount
    """Training rows."""
    validation: RowCount
    """Held-out rows."""
    read: RowCount
    """Different training rows that at least one model read."""


class Released(Manifest):
    """A release, as the project that built it records it."""

    stage: Literal["release"]
    of: None
    root_sha256: Sha256
    """SHA-256 of `release.json`."""
    sums_sha256: Sha256
    """SHA-256 of `SHA256SUMS`, which lists the stored bytes."""
    lock_sha256: Sha256
    """SHA-256 of the release's `dvc.lock`."""
    files: Count
    """Files of the release."""
    rows: RowFacts
    """Its rows."""
    models: list[ModelFacts]
    """Its models."""
    licenses: list[LicenseFacts]
    """What its training rows hold, by licence."""


M = TypeVar("M", bound=Manifest)
KINDS: dict[str, type[Manifest]] = {
    "code": Code,
    "fetch": Fetched,
    "rows": PublishedRows,
    "parent": Parent,
    "extract": Extracted,
    "evaluation_sets": EvaluationSets,
    "evaluation_ngrams": EvaluationNgrams,
    "filter": Filtered,
    "dedup": Deduplicated,
    "tokenizer": TokenizerTrained,
    "tokenize": Tokens,
    "search": Searchable,
    "tasks": TasksMade,
    "train": Trained,
    "evaluate": Evaluated,
    "score": Scored,
    "coverage": Coverage,
    "forgotten": Forgetting,
    "release": Released,
}
"""The kind of manifest that each stage writes."""
STAGE_OF = {kind: stage for stage, kind in KINDS.items()}


def path_of(kind: type[Manifest], of: str | None = None) -> Path:
    """Where the manifest of this kind is."""
    return manifest_path(STAGE_OF[kind], of)


def read_manifest(kind: type[M], path: Path) -> M:
    """The manifest of this kind in the file `path`."""
    return parse_manifest(kind, _content(path), path)


def read_any_manifest(path: Path) -> Manifest:
    """The manifest in the file `path`, of the kind that it says it is."""
    return parse_any_manifest(_content(path), path)


def parse_manifest(kind: type[M], content: bytes, path: Path) -> M:
    """The manifest of this kind in `content`, the bytes of the file `path`."""
    tree = parse(content, path)
    _require_manifest(tree, path, STAGE_OF[kind])
    return kind.from_json(tree, path)


def parse_any_manifest(content: bytes, path: Path) -> Manifest:
    """The manifest in `content`, of the kind that it says it is."""
    tree = parse(content, path)
    _require_manifest(tree, path)
    stage = tree["stage"]
    if not isinstance(stage, str) or stage not in KINDS:
        raise EverystepError(f"{path}: stage: {stage!r:.100} is not a stage that writes manifests")
    return KINDS[stage].from_json(tree, path)


def _require_manifest(tree: Json, path: Path, stage: str | None = None) -> None:
    if not isinstance(tree, dict) or tree.get("format") != FORMAT or "stage" not in tree:
        raise EverystepError(f"{path}: not a manifest of format {FORMAT}")
    if stage and tree["stage"] != stage:
        raise EverystepError(f"{path}: not a manifest of format {FORMAT} of stage {stage}")


def _content(path: Path) -> bytes:
    try:
        return read_small(path)
    except FileNotFoundError as error:
        raise EverystepError(f"{path}: no such file; run `dvc repro` first, or point at a release folder") from error
    except OSError as error:
        raise EverystepError(f"{path}: cannot be read: {error.strerror}") from error
