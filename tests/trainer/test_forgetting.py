"""Forgetting is exact: from the last clean state on, the training gives the bits of one that never saw the spans."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.base.files import list_files, sha256_file
from pipeline.base.params import load_params
from pipeline.base.paths import TOKENS
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import pretty
from pipeline.formats.digests import tensors_digest
from pipeline.formats.forgotten import Forgotten, as_spans, read_forgotten, write_forgotten
from pipeline.formats.manifests import Forgetting, Parent, Tokens, path_of, read_manifest
from pipeline.formats.order import steps_of_rows
from pipeline.formats.rows import Rows
from pipeline.formats.tables import as_json
from pipeline.release.forgetting import forgotten_of, index_of, plan, tokens_without
from pipeline.release.forgetting import without as together
from pipeline.release.release import Release
from tests.conftest import Once
from tests.project import ROOT as CHECKOUT
from tests.project import commit, repro, run
from tests.releases import copied, everystep, flip, read_json, reseal
from tests.shards import write_rows
from tests.stubs import write_stub
from tests.trainer.runs import MODEL, make_run
from trainer.data import Checking, EverystepData, training_data
from trainer.loop import Trainer
from trainer.memory import LOSS_ROWS
from trainer.operators import next_token_loss
from trainer.parallel import World
from trainer.parent import parent as bring
from trainer.plain_rows import CHECKED
from trainer.recipe import load_recipe

WIDTH, NUM_ROWS, FILLER = 33, 100, 0
State = tuple[float, str, str]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def operands(num_targets: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x, weight = torch.randn(num_targets, 8, generator=draw), torch.randn(50, 8, generator=draw)
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(50, (num_targets,), generator=draw)


def loss_and_gradients(forgotten: torch.Tensor | None, num_targets: int, z_loss: float) -> list[torch.Tensor]:
    x, weight, targets = operands(num_targets)
    loss = next_token_loss(x, weight, targets, z_loss, forgotten)
    loss.backward()
    assert x.grad is not None and weight.grad is not None
    return [loss.detach(), x.grad, weight.grad]


@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
def test_a_mask_over_nothing_changes_no_bit(z_loss: float) -> None:
    num_targets = LOSS_ROWS["cpu"] + 3
    none = torch.zeros(num_targets, dtype=torch.bool)
    pairs = zip(
        loss_and_gradients(None, num_targets, z_loss), loss_and_gradients(none, num_targets, z_loss), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_a_forgotten_target_counts_as_one_of_loss_zero(z_loss: float) -> None:
    num_targets = LOSS_ROWS["cpu"] + 3
    forgotten = torch.arange(num_targets) % 3 == 0
    x, weight, targets = operands(num_targets)
    logits = x @ weight.t()
    losses = functional.cross_entropy(logits, targets, reduction="none") + z_loss * logits.logsumexp(-1).square()
    expected = (losses * ~forgotten).sum() / num_targets
    expected.backward()
    assert x.grad is not None and weight.grad is not None
    found = loss_and_gradients(forgotten, num_targets, z_loss)
    for ours, theirs in zip(found, [expected.detach(), x.grad, weight.grad], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert (found[1][forgotten] == 0).all()


def test_what_a_forgotten_target_is_changes_no_bit() -> None:
    x, weight, targets = operands(9)
    forgotten = torch.arange(9) < 4
    other = torch.where(forgotten, (targets + 1) % 50, targets)
    assert torch.equal(
        next_token_loss(x, weight, targets, 0.0, forgotten), next_token_loss(x, weight, other, 0.0, forgotten)
    )


@pytest.fixture(scope="module")
def rows(once: Once) -> Path:
    """A folder of a hundred rows, of which twelve steps read 96, and a recipe. Nothing is trained there."""
    return once("hundred-rows", lambda folder: make_run(folder, micro_batches=4))


def data_of(folder: Path) -> EverystepData:
    data = training_data(folder, *load_recipe(MODEL, folder), Checking(folder=folder / CHECKED))
    assert isinstance(data, EverystepData)
    return data


def trained(folder: Path, data: EverystepData, clean: int = 0, before: EverystepData | None = None) -> list[State]:
    """Loss, weights and moments after each step; the steps until `clean` read the data `before`."""
    trainer = Trainer(World(0, 1), *load_recipe(MODEL, folder), before or data)
    states: list[State] = []
    while trainer.step < trainer.recipe.schedule.steps:
        trainer.data = data if trainer.step >= clean else trainer.data
        entry = trainer.train_step()
        weights, moments = trainer.state()
        states.append((entry.loss, tensors_digest(weights), tensors_digest(moments)))
    return states


def without(folder: Path, forgotten: Forgotten) -> EverystepData:
    """The hundred rows in a new folder, with filler in the spans, as a successor has them."""
    make_run(folder, micro_batches=4)
    rows = np.stack(list(data_of(folder).open()))
    marks = forgotten.marks(range(NUM_ROWS), WIDTH)
    rows[marks] = FILLER
    tokens = folder / "data" / "tokens"
    outputs = {"train": write_rows(tokens, rows, "train"), "forgotten": [write_forgotten(tokens, forgotten)]}
    seed = {"seed": load_recipe(MODEL, folder)[0].data.seed}
    write_stub(Tokens, parameters=seed, outputs=outputs, width=WIDTH, vocabulary=320, end_token=FILLER, root=folder)
    return data_of(folder)


@pytest.mark.parametrize(
    "pieces",
    [
        [(7, 20, 33), (8, 0, 7)],  # a document over two rows
        [(41, 0, 33)],  # one that fills a row
        [(90, 4, 5), (93, 12, 30)],  # two documents, of which one is a single id
    ],
)
def test_a_training_from_the_last_clean_state_is_the_training_that_never_saw_the_document(
    rows: Path, tmp_path: Path, pieces: list[tuple[int, int, int]]
) -> None:
    forgotten = Forgotten(as_spans(pieces), FILLER)
    whole, filled = data_of(rows), without(tmp_path / "filled", forgotten)
    seed, batch, num_steps = whole.section.seed, whole.section.global_batch, 12
    clean = steps_of_rows(forgotten.rows.astype(np.uint64), batch, NUM_ROWS, seed, num_steps)[0]
    from_0 = trained(tmp_path / "filled", filled)
    assert trained(rows, replace(whole, forgotten=forgotten)) == from_0  # spans that are still in the rows
    assert trained(tmp_path / "filled", filled, clean, whole) == from_0
    pairs = zip(trained(rows, whole), from_0, strict=True)
    assert [ours == theirs for ours, theirs in pairs] == [True] * clean + [False] * (num_steps - clean)


def test_a_whole_forgotten_batch_moves_weights_only_by_what_came_before(rows: Path) -> None:
    """No gradient, no loss, and nothing that is not a number."""
    data = data_of(rows)
    batch = np.concatenate([data.row_numbers(0, number) for number in range(4)])
    everything = Forgotten(as_spans((row, 0, WIDTH) for row in sorted(set(batch.tolist()))), FILLER)
    trainer = Trainer(World(0, 1), *load_recipe(MODEL, rows), replace(data, forgotten=everything))
    entry = trainer.train_step()
    assert (entry.loss, entry.gradient_norm) == (0, 0)
    assert all(np.isfinite(tensor).all() for tensor in trainer.state()[0].values())


def test_spans_are_part_of_what_a_run_is(rows: Path) -> None:
    """Other spans over the same rows are another training, which must not go on from this one's checkpoints."""
    ids = [(3, 0, 4)], [(3, 0, 5)]
    found = [replace(data_of(rows), forgotten=Forgotten(as_spans(spans), FILLER)).identity() for spans in ids]
    assert found[0] != found[1] != data_of(rows).identity()
    manifest = read_manifest(Tokens, rows / path_of(Tokens))
    assert "forgotten" not in manifest.outputs and data_of(rows).forgotten is None


# The successor: a fork of every model, whose rows come without the documents


DOCUMENTS = ("notes/041", "tales/042")
"""Both are read by step 5 alone, and each lies in several rows."""


def forget(release: Path, folder: Path, *words: str) -> Path:
    """The project that forgets, before anything in it has run."""
    done = run(folder.parent, "everystep", "forget", str(release), *words, "--why", "asked to", "--out", folder.name)
    assert done.stdout.startswith(f"{folder.name}: everystep-demo "), done.stdout
    (folder / "manifests" / "code.json").unlink()  # of the last build of this checkout; the code may be newer
    return folder


def chosen(*documents: str) -> list[str]:
    return [word for id in documents for word in ("--document", id)]


@pytest.fixture(scope="module")
def brought(once: Once, built_project: Path) -> Path:
    """A successor whose stage `parent` has run."""

    def build(folder: Path) -> None:
        forget(built_project / "release", folder, *chosen(*DOCUMENTS))
        with contextlib.chdir(folder):
            bring()

    return once("forgotten", build)


def rows_of(folder: Path) -> np.ndarray[Any, Any]:
    tokens = read_manifest(Tokens, folder / path_of(Tokens))
    return np.stack(list(Rows(folder / TOKENS, tokens.shards("train"), tokens.width, tokens.vocabulary)))


def test_the_rows_hold_filler_in_the_spans_and_else_what_they_held(built_project: Path, brought: Path) -> None:
    before, after = rows_of(built_project), rows_of(brought)
    width, places = before.shape[1], np.zeros(before.shape, dtype=bool)
    texts = []
    for entry in as_json(built_project / TOKENS / "train.parquet"):
        start = entry["first_row"] * width + entry["offset"]
        if entry["id"] in DOCUMENTS:
            places.ravel()[start : start + entry["num_tokens"]] = True
            texts.append(before.ravel()[start : start + entry["num_tokens"] - 1])
    assert len(texts) == len(DOCUMENTS)
    assert (after == np.where(places, FILLER, before)).all()
    stream = after.astype(np.uint16).tobytes()
    for text in texts:  # nothing is left to find, not even a piece of eight ids that is only theirs
        pieces = {text[i : i + 8].astype(np.uint16).tobytes() for i in range(len(text) - 8)}
        others = np.where(places, FILLER, before).astype(np.uint16).tobytes()
        assert not any(piece in stream for piece in pieces if piece not in others)
        assert text.astype(np.uint16).tobytes() not in stream


def test_the_certificate_says_what_and_why_and_what_it_was_before(built_project: Path, brought: Path) -> None:
    said = read_manifest(Forgetting, brought / path_of(Forgetting))
    old, new = (read_manifest(Tokens, folder / path_of(Tokens)) for folder in (built_project, brought))
    assert (said.parameters.why, [document.id for document in said.documents]) == ("asked to", [*DOCUMENTS])
    digests = {shard.path: shard.sha256 for shard in old.shards("train")}
    assert {path: change.before for path, change in said.changed.items()} == digests
    assert {path: change.after for path, change in said.changed.items()} == {
        s.path: s.sha256 for s in new.shards("train")
    }
    for name in ("mobilellm", "openelm"):
        model, last = said.models[name], Release.open(built_project / "release").model(name).checkpoints[-1]
        assert (model.steps, model.clean, model.superseded) == ([5], 4, {last.revision: last.state_digest})
        assert load_recipe(name, brought)[0].begun_at == 4
    assert said.inputs == {path.as_posix(): sha256_file(brought / path) for path in (path_of(Parent), path_of(Tokens))}


def test_a_second_time_brings_the_same_bytes(brought: Path, tmp_path: Path) -> None:
    """After a kill in the middle, which left some rows as they were and some without the documents."""
    again = tmp_path / "again"
    shutil.copytree(brought, again, ignore=shutil.ignore_patterns(".git", "docs"))
    (again / path_of(Forgetting)).unlink()
    shards = sorted((again / TOKENS / "train").iterdir())
    shards[0].write_bytes(b"half of a sha")
    with edited_params(again) as params:
        params["parent_address"] = str((brought / load_params(brought / "params.yaml")["parent_address"]).resolve())
    with contextlib.chdir(again):
        bring()
    for part in ("data", "manifests"):
        assert {n: (again / part / n).read_bytes() for n in list_files(again / part)} == {
            n: (brought / part / n).read_bytes() for n in list_files(brought / part)
        }


def test_a_second_forgetting_adds_to_the_first(brought: Path, tmp_path: Path) -> None:
    before = Release.open(brought)
    index, lost = index_of(before), forgotten_of(before)
    assert lost is not None
    more = Forgotten(index.spans_of(index.chosen(["tales/095"], [])), FILLER)
    both = together(before, more.spans)
    assert both.lacks(lost).tolist() == both.lacks(more).tolist() == []
    assert (more.lacks(both).tolist(), lost.lacks(both).tolist()) == (lost.spans.tolist(), more.spans.tolist())
    tree = tokens_without(before, both, tmp_path)
    rows = Rows(tmp_path, Tokens.from_json(tree, "tokens").shards("train"), 33, 320)
    marks = both.marks(range(len(rows)), 33)
    assert (np.stack(list(rows)) == np.where(marks, FILLER, rows_of(brought))).all()


def test_nothing_is_made_where_something_is_wrong(built_project: Path, tmp_path: Path) -> None:
    words = ("--document", "tales/042", "--out", tmp_path / "made")
    assert "--why: say in a few words" in everystep("forget", built_project / "release", *words).err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    done = everystep("forget", built_project / "release", *words[:3], tmp_path / "taken", "--why", "asked")
    assert (done.code, "already exists" in done.err) == (2, True)
    damaged = copied(built_project / "release", tmp_path / "damaged")
    (weights,) = (damaged / "runs" / MODEL).glob("step000004-*/model.safetensors")
    flip(weights, 0.9)
    assert everystep("forget", damaged, *words, "--why", "asked").code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "taken"]


@contextlib.contextmanager
def edited_params(folder: Path) -> Iterator[Any]:
    tree = load_yaml(folder / "params.yaml")
    yield tree
    (folder / "params.yaml").write_bytes(pretty(tree))


# What takes long


@pytest.mark.long
def test_twenty_documents_and_a_whole_source_are_forgotten_exactly(
    built_project: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each from the last clean state, beside a training from step 0 on the filled rows; weights, moments and losses of
    every step are compared."""
    release = Release.open(built_project / "release")
    index = index_of(release)
    every = index.names_of(np.ones(len(index), dtype=bool))
    names = sorted({name["id"] for name in every})
    draw = np.random.default_rng(13)
    choices: list[tuple[list[str], list[str]]] = [
        ([names[i]], []) for i in draw.choice(len(names), 20, replace=False)
    ] + [([], ["tales"])]
    whole = data_of(built_project)
    unchanged, again, total = trained(built_project, whole), 0, 0
    for documents, sources in choices:
        forgotten = Forgotten(index.spans_of(index.chosen(documents, sources)), FILLER)
        model = next(model for model in plan(release, forgotten.rows) if model.name == MODEL)
        changed = replace(whole, forgotten=forgotten)
        from_0 = trained(built_project, changed)
        assert trained(built_project, changed, model.clean, whole) == from_0, documents
        assert from_0[: model.clean] == unchanged[: model.clean], documents
        assert model.steps == [] or from_0[model.clean] != unchanged[model.clean], documents
        again, total = again + model.steps_again, total + len(unchanged)
    record_property("said", f"{again} of {total} steps trained again")


@pytest.mark.long
def test_a_release_without_documents_is_built_verified_replayed_and_certified(
    built_project: Path, tmp_path: Path
) -> None:
    """By DVC, from the release before it; its last states are those of a training from step 0 on its rows."""
    old = copied(built_project / "release", tmp_path / "old")
    made = forget(old, tmp_path / "made", *chosen(*DOCUMENTS))
    repro(made, PYTHONPATH=str(made))
    commit(made, "built")
    new = made / "release"
    assert everystep("verify", new).code == 0
    assert "**It has forgotten 2 documents of that release.**" in (new / "README.md").read_text()
    told = everystep("trace", new, "--model", MODEL, "--document", "tales/042").out
    assert told.startswith("tales/042: forgotten; its place in rows 2497 to 2510 holds filler")
    spans = json.loads(everystep("trace", new, "--model", MODEL, "--step", "5", "--json").out)
    assert {span["id"] for span in spans if span["forgotten"]} == {*DOCUMENTS}
    for name in ("mobilellm", "openelm"):
        replayed = run(tmp_path, "everystep", "replay", str(new), "--model", name, "--from", "4", "--to", "8")
        assert replayed.stdout.startswith(f"same: {name}, steps 4 to 8")
        from_0 = trained_from_0(made, tmp_path / f"{name}-from-0", name)
        states = [ck.read_record(path).state_digest for _, path in ck.find_checkpoints(from_0 / "runs" / name)]
        assert Release.open(new).model(name).checkpoints[-1].state_digest == states[-1]
        assert states[:-1] == [e.state_digest for e in Release.open(old).model(name).checkpoints[:-1]]
    done = everystep("forget", old, "--compare", new, "--notice")
    assert (done.code, done.out.partition(":")[0]) == (0, "same")
    assert everystep("verify", old).code == 0
    done = everystep("pull", old, "--model", MODEL, "--out", tmp_path / "pulled")
    assert done.code == 0 and "note: superseded: mobilellm step000008-tokens2048" in done.err
    for what, forge in FORGERIES.items():
        forged = copied(new, tmp_path / "forged")
        forge(forged)
        reseal(forged)
        done = everystep("verify", forged)
        assert done.code == 1 and what in done.out, (what, done.out)
        shutil.rmtree(forged)
    outside = copied(new, tmp_path / "outside")  # a change outside the spans is seen by who has the old rows
    rewrite_rows(outside, 2497, 0, 5)
    reseal(outside)
    refresh_certificate(outside)
    assert everystep("forget", old, "--compare", outside).code == 1
    assert "is forgotten in this release already" in everystep("forget", new, "--document", "tales/042").err
    assert "forget them in that release" in everystep("forget", new, "--source", "tales").err


def trained_from_0(made: Path, folder: Path, name: str) -> Path:
    """A training of a model on the rows of a successor that begins with new weights."""
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns(".git", "release", "runs", "results", ".work", "docs"))
    (folder / "manifests" / "code.json").unlink()
    tree = load_yaml(folder / "recipes" / f"{name}.yaml")
    del tree["parent"]
    (folder / "recipes" / f"{name}.yaml").write_bytes(pretty(tree))
    with edited_params(folder) as params:
        params["models"] = [name]
    run(folder, sys.executable, "-m", "pipeline.stages", "train", name, PYTHONPATH=str(CHECKOUT))
    return folder


def rewrite_rows(release: Path, row: int, place: int, id: int) -> None:
    """Put another id into a row, which is in the first shard."""
    rows = rows_of(release)
    rows[row, place] = id
    write_rows(release / TOKENS, list(rows), "train")


def refresh_certificate(release: Path) -> None:
    """Let the certificate list the digests of the rows as they are."""
    path = release / path_of(Forgetting)
    tree, tokens = read_json(path), read_manifest(Tokens, release / path_of(Tokens))
    tree["changed"] = {
        shard.path: tree["changed"][shard.path] | {"after": shard.sha256} for shard in tokens.shards("train")
    }
    path.write_bytes(pretty(tree))
    reseal(release)


def edit_certificate(key: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def forge(release: Path) -> None:
        path = release / path_of(Forgetting)
        tree = read_json(path)
        tree[key] = change(tree[key])
        path.write_bytes(pretty(tree))

    return forge


def hide_a_span(release: Path) -> None:
    tokens = read_manifest(Tokens, release / path_of(Tokens))
    found = read_forgotten(release / TOKENS, tokens)
    assert found is not None
    write_forgotten(release / TOKENS, Forgotten(found.spans[1:], FILLER))


def add_a_span(release: Path) -> None:
    tokens = read_manifest(Tokens, release / path_of(Tokens))
    found = read_forgotten(release / TOKENS, tokens)
    assert found is not None
    rewrite_rows(release, 0, 0, FILLER)
    write_forgotten(release / TOKENS, found.with_more(as_spans([(0, 0, 1)])))


FORGERIES: dict[str, Callable[[Path], None]] = {
    "row 2500 holds ids in a span that is forgotten": lambda release: rewrite_rows(release, 2500, 3, 77),
    "its spans are not those of the documents": hide_a_span,
    "forgotten.jsonl.zst: its spans are not": add_a_span,
    "documents is not what": edit_certificate("documents", lambda found: found[:1]),
    "rows is not what": edit_certificate("rows", lambda found: found + 1),
    "changed is not what": edit_certificate(
        "changed", lambda found: {path: change | {"before": "0" * 64} for path, change in found.items()}
    ),
    "models is not what": edit_certificate(
        "models", lambda found: {name: model | {"superseded": {}} for name, model in found.items()}
    ),
}
"""What `verify` says of a successor in which somebody lies and makes every digest fit again."""
