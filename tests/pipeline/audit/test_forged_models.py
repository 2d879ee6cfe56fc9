"""Forged models: an attacker changes a training, its records or its evaluation, and makes every digest fit again.

Each forgery has the lowest rung of the ladder that catches it, and the same table is in docs/reference/forgeries.md.
What only a replay can see passes `verify`, which then says on which rung it stands.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.audit.recompute.scores import given_by
from pipeline.base.files import sha256_file, write_bytes
from pipeline.base.paths import SCORES
from pipeline.formats import checkpoints as ck
from pipeline.formats import losses
from pipeline.formats.canonical import canonical, parse, pretty
from pipeline.formats.log import as_csv
from pipeline.formats.manifests import Scored
from pipeline.formats.release import ROOT
from pipeline.formats.scores import ITEMS_FILE, SCORED_ITEMS, SCORES_FILE
from pipeline.formats.tables import read_table, write_table
from pipeline.formats.vocabulary import token_bytes, token_texts
from pipeline.release.papers import PAPERS
from pipeline.release.release import Release
from pipeline.release.results import HeldOut
from pipeline.release.rungs import Rung
from pipeline.release.targets import targets_of_release
from tests.pipeline.audit.forging import Forgery, write_explorer
from tests.project import run
from tests.releases import (
    checkpoint,
    copied,
    edit_log,
    everystep,
    evidence_of,
    read_json,
    reseal,
    reseal_model,
    reseal_with_page,
    swap,
    unsealed,
    write_json,
)

MODEL, OTHER = "mobilellm", "openelm"
LN_2 = float(np.log(2))
Tree = dict[str, Any]


# What an attacker does


def edit_manifest(release: Path, kind: str, change: Callable[[Tree], object], model: str = MODEL) -> None:
    path = release / "manifests" / kind / f"{model}.json"
    tree = read_json(path)
    change(tree)
    write_json(path, tree)


def edit_recipe(release: Path, change: Callable[[Tree], object]) -> None:
    """Change a recipe, and what the manifest repeats of it."""

    def repeat(tree: Tree) -> None:
        change(tree["parameters"])
        write_bytes(release / "recipes" / f"{MODEL}.yaml", pretty(tree["parameters"]))

    edit_manifest(release, "models", repeat)


def edit_weights(release: Path, step: int, change: Callable[[dict[str, Any]], object], name: str = ck.WEIGHTS) -> None:
    path = checkpoint(release, MODEL, step) / name
    tensors = ck.read_tensors(path)
    change(tensors)
    ck.write_tensors(path, tensors)
    reseal_model(release, MODEL)


def edit_records(release: Path, change: Callable[[Tree], object], step: int = 4) -> None:
    """Change a record as bytes, whatever its model would say."""
    path = checkpoint(release, MODEL, step) / ck.RECORD
    tree = read_json(path)
    change(tree)
    write_json(path, tree)


def edit_results(release: Path, change: Callable[[Tree], object]) -> None:
    """Change every result of an evaluation wherever it is written."""
    path = release / "results" / MODEL / "evaluation.jsonl"
    lines = [parse(line, path) for line in path.read_bytes().splitlines()]
    for line in lines:
        change(line)
    write_bytes(path, b"".join(canonical(line) + b"\n" for line in lines))
    write_bytes(path.with_suffix(".csv"), as_csv(lines))

    def repeat(tree: Tree) -> None:
        tree["results"] = lines
        tree["loss"], tree["bits_per_byte"] = lines[-1]["loss"], lines[-1]["bits_per_byte"]

    edit_manifest(release, "evaluations", repeat)


def edit_record(release: Path, change: Callable[[Tree], object]) -> None:
    """Change the columns of a learning record, by their names."""
    path = release / "results" / MODEL / losses.NAME
    revisions = losses.stored_revisions(path)
    columns = {name: column.to_pylist() for name, column in _columns(path, revisions).items()}
    change(columns)
    keys = pa.table({name: columns[name] for name in losses.KEYS.names}, schema=losses.KEYS)
    floats = {name: np.array(columns[name], dtype=np.float32) for name in revisions}
    losses.write_losses(path, losses.NAME, keys, floats)


def _columns(path: Path, revisions: list[str]) -> dict[str, Any]:
    table = read_table(path, losses.losses_schema(revisions))
    return {name: table[name] for name in table.column_names}


def sum_up(release: Path) -> None:
    """Write again what follows from the record."""
    folder, opened = release / "results" / MODEL, Release.open(release)
    targets = targets_of_release(opened, MODEL)
    revisions = [entry.revision for entry in opened.model(MODEL).checkpoints]
    columns = _columns(folder / losses.NAME, revisions)
    shape = targets.num_held_out, targets.shape[1]
    held_out = {name: columns[name].to_numpy()[: shape[0] * shape[1]].reshape(shape) for name in revisions}
    known = HeldOut.of(targets, token_bytes(release / "data/tokenizer/tokenizer.json"))
    results, by_source = known.results(opened.model(MODEL).checkpoints, held_out)
    last = results[-1]
    changed: Tree = {"loss": last.loss, "bits_per_byte": last.bits_per_byte}
    for name, key, lines in (
        ("evaluation", "results", [result.to_json() for result in results]),
        ("sources", "by_source", [result.to_json() for result in by_source]),
    ):
        write_bytes(folder / f"{name}.jsonl", b"".join(canonical(line) + b"\n" for line in lines))
        write_bytes(folder / f"{name}.csv", as_csv(lines))
        changed[key] = lines
    edit_manifest(release, "evaluations", lambda tree: tree.update(changed))


def edit_samples(release: Path, change: Callable[[Tree], object]) -> None:
    """Change the last line of what the checkpoints wrote."""
    path = release / "results" / MODEL / "samples.jsonl"
    *lines, last = [parse(line, path) for line in path.read_bytes().splitlines()]
    change(last)
    write_bytes(path, b"".join(canonical(line) + b"\n" for line in [*lines, last]))


def write_papers(release: Path) -> None:
    """Write the data of the explorer and every paper again from what the release now says."""
    write_explorer(release)
    evidence = evidence_of(release)
    for name, render in PAPERS.items():
        write_bytes(release / name, render(evidence))


# The forgeries


def other_seed(release: Path) -> None:
    edit_recipe(release, lambda recipe: recipe.update(seed=2))


def pretrained(release: Path) -> None:
    def nudge(tensors: dict[str, Any]) -> None:
        tensors["embedding.weight"] = np.add(tensors["embedding.weight"], 1e-6, dtype=np.float32)

    edit_weights(release, 0, nudge)


def moving_at_first(release: Path) -> None:
    def nudge(tensors: dict[str, Any]) -> None:
        name = min(tensors)
        tensors[name] = np.full_like(tensors[name], 1e-12)

    edit_weights(release, 0, nudge, ck.OPTIMIZER)


def other_deviation(release: Path) -> None:
    edit_recipe(release, lambda recipe: recipe["model"].update(initial_std=0.03))
    edit_manifest(release, "models", lambda tree: tree["model"]["initialization"].update(std=0.03))
    described = read_json(release / "manifests" / "models" / f"{MODEL}.json")["model"]
    for _, folder in ck.find_checkpoints(release / "runs" / MODEL):
        old = read_json(folder / ck.CONFIG)
        write_json(folder / ck.CONFIG, {key: described[key] for key in old})


def other_deviation_in_the_recipe(release: Path) -> None:
    edit_recipe(release, lambda recipe: recipe["model"].update(initial_std=0.03))


def gentler_rate(release: Path) -> None:
    edit_log(release, MODEL, lambda entries: entries[4].update(learning_rate=entries[4]["learning_rate"] / 2))


def other_peak(release: Path) -> None:
    edit_recipe(release, lambda recipe: recipe["schedule"].update(peak=0.004))


def more_tokens(release: Path) -> None:
    edit_log(release, MODEL, lambda entries: entries[4].update(tokens=2 * entries[4]["tokens"]))


def larger_batch(release: Path) -> None:
    edit_recipe(release, lambda recipe: recipe["data"].update(global_batch=16))


def leap(release: Path) -> None:
    def scale(tensors: dict[str, Any]) -> None:
        tensors["embedding.weight"] = np.multiply(tensors["embedding.weight"], 2, dtype=np.float32)

    edit_weights(release, 8, scale)
    settle(release, 8)


def moments_lost(release: Path) -> None:
    def clear(tensors: dict[str, Any]) -> None:
        for name in tensors:
            tensors[name] = np.zeros_like(tensors[name])

    edit_weights(release, 4, clear, ck.OPTIMIZER)


def settle(release: Path, step: int) -> None:
    """Let the log agree with the record of a step."""
    record = read_json(checkpoint(release, MODEL, step) / ck.RECORD)
    edit_log(release, MODEL, lambda entries: entries[step - 1].update(weights_digest=record["weights_digest"]))


def within_reach(release: Path) -> None:
    def nudge(tensors: dict[str, Any]) -> None:
        tensors["embedding.weight"] = np.add(tensors["embedding.weight"], 1e-6, dtype=np.float32)

    edit_weights(release, 4, nudge)
    settle(release, 4)


def same_weights_twice(release: Path) -> None:
    one, other = (checkpoint(release, MODEL, step) / ck.WEIGHTS for step in (2, 4))
    write_bytes(other, one.read_bytes())
    reseal_model(release, MODEL)
    settle(release, 4)


def models_exchanged(release: Path) -> None:
    swap(release / "runs" / MODEL, release / "runs" / OTHER)


def native(release: Path) -> None:
    for _, folder in ck.find_checkpoints(release / "runs" / MODEL):
        tree = read_json(folder / ck.RECORD)
        write_json(folder / ck.RECORD, tree | {"numerics": tree["numerics"] | {"class": "native"}})
    edit_manifest(release, "models", lambda tree: tree["numerics"].update({"class": "native"}))


def other_torch(release: Path) -> None:
    for _, folder in ck.find_checkpoints(release / "runs" / MODEL):
        tree = read_json(folder / ck.RECORD)
        write_json(folder / ck.RECORD, tree | {"numerics": tree["numerics"] | {"torch": "2.5.1"}})
    edit_manifest(release, "models", lambda tree: tree["numerics"].update(torch="2.5.1"))


def better_loss_in_training(release: Path) -> None:
    edit_log(release, MODEL, lambda entries: entries[6].update(loss=entries[6]["loss"] * 0.9))


def smoother_gradient(release: Path) -> None:
    edit_log(release, MODEL, lambda entries: entries[6].update(gradient_norm=entries[6]["gradient_norm"] * 0.9))


def invented_virtual_state(release: Path) -> None:
    edit_log(release, MODEL, lambda entries: entries[5].update(weights_digest="tensors-v1:" + "5" * 64))


def other_clipping(release: Path) -> None:
    edit_recipe(release, lambda recipe: recipe["optimizer"].update(clip_norm=0.5))


def better_evaluation(release: Path) -> None:
    edit_results(release, lambda line: line.update(loss=line["loss"] * 0.9, bits_per_byte=line["bits_per_byte"] * 0.9))


def better_record(release: Path) -> None:
    def shrink(columns: Tree) -> None:
        for name in columns.keys() - {*losses.KEYS.names}:
            columns[name] = [loss * 0.9 for loss in columns[name]]

    edit_record(release, shrink)
    sum_up(release)


def other_repetitions(release: Path) -> None:
    edit_record(release, lambda columns: columns["repetitions"].__setitem__(20, 9))


def other_source(release: Path) -> None:
    edit_record(release, lambda columns: columns["source"].reverse())


def better_text(release: Path) -> None:
    edit_samples(release, lambda line: line.update(text="To be, or not to be"))


def other_tokens_written(release: Path) -> None:
    texts = token_texts(release / "data/tokenizer/tokenizer.json")

    def say(line: Tree) -> None:
        count = len(line["token_ids"])
        line.update(token_ids=[40] * count, text=(texts[40] * count).decode())

    edit_samples(release, say)


def better_loss_alone(release: Path) -> None:
    edit_results(release, lambda line: line.update(loss=line["loss"] * 0.9))


def edit_scores(release: Path, change: Callable[[list[Tree]], object]) -> None:
    """Change the table of scores, and what follows from it."""
    table = release / SCORES / MODEL / ITEMS_FILE
    rows = read_table(table, SCORED_ITEMS).to_pylist()
    change(rows)
    write_table(table, rows, SCORED_ITEMS, ITEMS_FILE)
    opened = unsealed(release)
    files, facts = given_by(opened, opened.manifest(Scored, MODEL), rows)
    for name, content in files.items():
        write_bytes(table.parent / name, content)
    edit_manifest(release, "scores", lambda tree: tree.update(facts))


def better_scores(release: Path) -> None:
    edit_scores(release, lambda rows: [row.update(log_likelihood=-0.5) for row in rows if row["gold"]])


def shorter_answers(release: Path) -> None:
    edit_scores(release, lambda rows: [row.update(bytes=2 * row["bytes"]) for row in rows])


def better_metrics_alone(release: Path) -> None:
    path = release / SCORES / MODEL / SCORES_FILE
    lines = [parse(line, path) for line in path.read_bytes().splitlines()]
    for line in lines:
        line["value"] = 0.875
    write_bytes(path, b"".join(canonical(line) + b"\n" for line in lines))


def unlike_items_of_checkpoints(release: Path) -> None:
    edit_scores(release, lambda rows: rows[-1].update(tokens=rows[-1]["tokens"] + 1))


def more_bytes(release: Path) -> None:
    path = release / "manifests" / "evaluations" / f"{MODEL}.json"
    num_bytes = read_json(path)["bytes"]
    edit_results(release, lambda line: line.update(bits_per_byte=line["bits_per_byte"] * num_bytes / (2 * num_bytes)))
    edit_manifest(release, "evaluations", lambda tree: tree.update(bytes=2 * num_bytes))


def fewer_targets(release: Path) -> None:
    targets = read_json(release / "manifests" / "evaluations" / f"{MODEL}.json")["targets"]
    edit_results(release, lambda line: line.update(bits_per_byte=line["bits_per_byte"] / 2))
    edit_manifest(release, "evaluations", lambda tree: tree.update(targets=targets // 2))


def other_tokenizer_said(release: Path) -> None:
    edit_manifest(release, "evaluations", lambda tree: tree.update(tokenizer_sha256="5" * 64))


def fewer_held_out_rows_said(release: Path) -> None:
    edit_manifest(release, "evaluations", lambda tree: tree["parameters"].update(rows=1))


def input_left_out(release: Path) -> None:
    edit_manifest(release, "models", lambda tree: tree["inputs"].pop("manifests/tokens.json"))


def section_left_out(release: Path) -> None:
    edit_manifest(release, "evaluations", lambda tree: tree["params"].clear())


def larger_count(release: Path) -> None:
    edit_manifest(release, "models", lambda tree: tree.update(parameters_if_repeated=10**9))


def longer_card(release: Path) -> None:
    path = release / "README.md"
    write_bytes(path, path.read_bytes() + b"\nTrained on licensed books only.\n")


def smoother_table(release: Path) -> None:
    path = release / "runs" / MODEL / "log.csv"
    write_bytes(path, path.read_bytes().replace(b",", b",0", 1))


def checkpoint_unlisted(release: Path) -> None:
    path = release / "revisions.jsonl"
    write_bytes(path, b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


def renamed(release: Path) -> None:
    tree = read_json(release / ROOT)
    write_json(release / ROOT, tree | {"version": "9.9"})


def record_says(key: str, value: object) -> Callable[[Path], None]:
    def forge(release: Path) -> None:
        edit_records(release, lambda tree: tree.update({key: value}))

    return forge


FILES, CONSISTENT, RECOMPUTED, REPLAYED = Rung.FILES, Rung.CONSISTENT, Rung.RECOMPUTED, Rung.REPLAYED
FORGERIES = [
    Forgery("another seed in the recipe", RECOMPUTED, other_seed, "seed 2 and the initialization"),
    Forgery("other weights as step 0", RECOMPUTED, pretrained, "are not what seed"),
    Forgery("moments at step 0", RECOMPUTED, moving_at_first, "no step has been taken"),
    Forgery("another initial deviation", RECOMPUTED, other_deviation, "are not what seed"),
    Forgery("another deviation, in the recipe alone", CONSISTENT, other_deviation_in_the_recipe, "another model than"),
    Forgery("a gentler rate in the log", CONSISTENT, gentler_rate, "has learning_rate"),
    Forgery("another peak in the recipe", CONSISTENT, other_peak, "the recipe makes it"),
    Forgery("more tokens in the log", CONSISTENT, more_tokens, "tokens, the recipe makes it"),
    Forgery("a larger batch in the recipe", CONSISTENT, larger_batch, "tokens, the recipe makes it"),
    Forgery("weights that leap", RECOMPUTED, leap, "step000004-tokens1024 to step000008-tokens2048"),
    Forgery("moments that are lost", RECOMPUTED, moments_lost, "step000004"),
    Forgery("one set of weights at two steps", CONSISTENT, same_weights_twice, "has the same weights as"),
    Forgery("two models exchanged", CONSISTENT, models_exchanged, "runs/mobilellm"),
    Forgery("another numerics class", CONSISTENT, native, "numerics.class"),
    Forgery("another torch", CONSISTENT, other_torch, "constraints.txt pins"),
    Forgery("another number of applied updates", CONSISTENT, record_says("applied_updates", 3), "applied_updates"),
    Forgery("another interval of digests", CONSISTENT, record_says("digest_interval", 2), "digest_interval"),
    Forgery("another parent in a record", CONSISTENT, record_says("parent", "tensors-v1:" + "5" * 64), "step000004"),
    Forgery("another rate in a record", CONSISTENT, record_says("learning_rate", 0.5), "learning_rate"),
    Forgery("an unknown key in a record", CONSISTENT, record_says("quality", "high"), "quality: unknown key"),
    Forgery("a better loss in the log", REPLAYED, better_loss_in_training, "step 7: loss", "replay"),
    Forgery("a smaller gradient in the log", REPLAYED, smoother_gradient, "step 7: gradient_norm", "replay"),
    Forgery("an invented virtual state", REPLAYED, invented_virtual_state, "step 6: weights_digest", "replay"),
    Forgery("weights changed within reach", REPLAYED, within_reach, "step 4: weights_digest", "replay"),
    Forgery("another clipping in the recipe", REPLAYED, other_clipping, "step 1: ", "replay"),
    Forgery("better evaluations, everywhere but in the record", RECOMPUTED, better_evaluation, "losses give"),
    Forgery("better losses of every target", REPLAYED, better_record, "by its weights, not", "replay --evaluation"),
    Forgery("another count of repetitions", RECOMPUTED, other_repetitions, "line 21 is"),
    Forgery("tokens under another source", RECOMPUTED, other_source, "losses.parquet: line"),
    Forgery("a better text of a sample", RECOMPUTED, better_text, "not that of its tokens"),
    Forgery(
        "other tokens in a sample", REPLAYED, other_tokens_written, "not what these weights", "replay --evaluation"
    ),
    Forgery("better scores, everywhere", REPLAYED, better_scores, "computed again", "replay --evaluation"),
    Forgery("longer answers in the scores", RECOMPUTED, shorter_answers, "its choices are not those of"),
    Forgery("better metrics than the scores of the items", RECOMPUTED, better_metrics_alone, "scores.jsonl"),
    Forgery("other tokens at one checkpoint", RECOMPUTED, unlike_items_of_checkpoints, "not those of the first"),
    Forgery("better losses with the old bits per byte", CONSISTENT, better_loss_alone, "bits per byte, not"),
    Forgery("more bytes of held-out text", RECOMPUTED, more_bytes, "bytes is"),
    Forgery("fewer targets", RECOMPUTED, fewer_targets, "targets is"),
    Forgery("another tokenizer of the evaluation", CONSISTENT, other_tokenizer_said, "tokenizer_sha256"),
    Forgery("fewer held-out rows said", RECOMPUTED, fewer_held_out_rows_said, "evaluations/mobilellm.json"),
    Forgery("an input left out of a manifest", CONSISTENT, input_left_out, "does not list manifests/tokens.json"),
    Forgery("a section left out of a manifest", CONSISTENT, section_left_out, "does not list `evaluate`"),
    Forgery("another number of parameters", CONSISTENT, larger_count, "parameters_if_repeated"),
    Forgery("a sentence more in the card", CONSISTENT, longer_card, "README.md"),
    Forgery("another number in a table", CONSISTENT, smoother_table, "log.csv"),
    Forgery("a checkpoint left out of revisions.jsonl", CONSISTENT, checkpoint_unlisted, "revisions.jsonl"),
    Forgery("another version in release.json", CONSISTENT, renamed, "version"),
]
REWRITTEN = (REPLAYED, RECOMPUTED)
"""Where he gets past what is said twice, he wrote the papers again, too."""


@pytest.fixture
def forged(built_project: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The release with one forgery, everything that he can compute computed again."""
    release = copied(built_project / "release", tmp_path / "release")
    forgery: Forgery = request.param
    forgery.forge(release)
    reseal(release)
    if forgery.rung in REWRITTEN:
        write_papers(release)
        reseal(release)
    return release


def _cases(*rungs: Rung) -> pytest.MarkDecorator:
    chosen = [forgery for forgery in FORGERIES if forgery.rung in rungs]
    return pytest.mark.parametrize(
        ("forged", "forgery"), [(f, f) for f in chosen], indirect=["forged"], ids=[f.name for f in chosen]
    )


@_cases(CONSISTENT, RECOMPUTED)
def test_a_forged_model_is_caught_on_its_rung_and_not_below(forged: Path, forgery: Forgery) -> None:
    found = everystep("verify", forged, "--json")
    assert found.code == 1, found.said
    report = parse(found.out.encode(), "report")
    assert any(forgery.named in fault for fault in report["faults"]), report["faults"]
    assert report["rung"] == Rung(forgery.rung - 1).word
    below = everystep("verify", forged, "--rung", Rung(forgery.rung - 1).word)
    assert below.code == 0, below.said


@_cases(REPLAYED)
def test_what_only_a_replay_sees_passes_verify_which_says_where_it_stands(forged: Path, forgery: Forgery) -> None:
    found = everystep("verify", forged)
    assert found.code == 0, found.said
    assert "rung 3 of 5 (recomputed)" in found.out
    assert "vouched for by nobody" in found.out
    stretch = ["--evaluation"] if "evaluation" in forgery.command else ["--from", "0", "--to", "8"]
    replayed = run(
        forged.parent,
        "everystep",
        "replay",
        "release",
        "--model",
        MODEL,
        *stretch,
        check=False,
        EVERYSTEP_PROCESSES="1",
    )
    assert replayed.returncode == 1, replayed.stderr
    assert forgery.named in replayed.stdout


@_cases(REPLAYED)
def test_a_named_root_catches_them_on_the_first_rung(forged: Path, forgery: Forgery, built_project: Path) -> None:
    honest = sha256_file(built_project / "release" / ROOT)
    for command in (("verify", forged, "--root", honest), ("verify", f"{forged}#sha256={honest}")):
        found = everystep(*command)
        assert found.code == 1
        assert "another release, or a changed one" in found.said
    assert everystep("show", f"{forged}#sha256={honest}").code == 1


def test_the_honest_release_reaches_the_third_rung_and_its_project_vouches_for_it(built_project: Path) -> None:
    found = everystep("verify", built_project / "release", "--json")
    report = parse(found.out.encode(), "report")
    assert (found.code, report["rung"]) == (0, "recomputed")
    assert report["vouched"] == "manifests/release.json of the project around it"


def test_a_project_that_recorded_another_release_says_so(built_project: Path, tmp_path: Path) -> None:
    copied(built_project / "release", tmp_path / "release")
    record = read_json(built_project / "manifests" / "release.json")
    (tmp_path / "manifests").mkdir()
    for key in ("root_sha256", "sums_sha256"):
        write_json(tmp_path / "manifests" / "release.json", record | {key: "5" * 64})
        found = everystep("verify", tmp_path / "release")
        assert found.code == 1
        assert "is not the one that" in found.out


def test_a_stretch_without_digests_shows_nothing_and_says_so(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    edit_recipe(release, lambda recipe: recipe.update(digest_every=8))
    edit_log(release, MODEL, lambda entries: [entry.update(weights_digest=None) for entry in entries[:7]])
    for _, folder in ck.find_checkpoints(release / "runs" / MODEL):
        write_json(folder / ck.RECORD, read_json(folder / ck.RECORD) | {"digest_interval": 8})
    reseal_with_page(release)
    report = json.loads(everystep("verify", release, "--json").out)
    (fault,) = report["faults"]  # a virtual checkpoint was scored, which has no digest any more
    assert fault.startswith(f"manifests/scores/{MODEL}.json: checkpoints: is "), fault
    command = ("everystep", "replay", "release", "--model", MODEL, "--from", "4", "--to", "6")
    done = run(tmp_path, *command, check=False, EVERYSTEP_PROCESSES="1")
    assert done.returncode == 2
    assert "a replay would show nothing; go on to step 8" in done.stderr
