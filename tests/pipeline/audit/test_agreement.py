"""What a release says twice: an attacker changes one of the two, makes every digest fit, and is found.

`verify` stops at the first kind of fault, so each of these says that nothing else would have noticed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import canonical
from pipeline.formats.lines import encode_line, write_lines
from pipeline.formats.tables import REMOVALS, removal, write_table
from pipeline.release.papers import PAPERS
from tests.releases import checkpoint, copied, everystep, read_json, reseal, write_json
from tests.shards import read_lines

MODEL = "mobilellm"
MANIFEST = f"manifests/models/{MODEL}.json"
EVALUATED = f"manifests/evaluations/{MODEL}.json"
ORDER = "data/tokens/order.jsonl.zst"


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


def found(release: Path) -> list[str]:
    """The faults that `verify` names once every digest fits again."""
    reseal(release)
    done = everystep("verify", release, "--json")
    assert done.code == 1, done.said
    faults: list[str] = json.loads(done.out)["faults"]
    return faults


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def in_json(path: Path, change: Callable[[Any], object]) -> None:
    tree = read_json(path)
    change(tree)
    write_json(path, tree)


@pytest.mark.parametrize("file", [f"runs/{MODEL}/log", f"results/{MODEL}/evaluation"])
def test_a_better_loss_in_a_csv_is_found(release: Path, file: str) -> None:
    last = json.loads((release / f"{file}.jsonl").read_text().splitlines()[-1])
    edit(release / f"{file}.csv", str(last["loss"]), "0.125")
    (fault,) = found(release)
    number = len((release / f"{file}.jsonl").read_text().splitlines())
    assert fault.startswith(f"{file}.csv: row {number} is ")
    assert "0.125" in fault
    assert f"{file}.jsonl gives" in fault
    assert str(last["loss"]) in fault


@pytest.mark.parametrize("file", [f"runs/{MODEL}/log", f"results/{MODEL}/evaluation"])
def test_a_csv_without_its_last_row_or_column_or_at_all_is_found(release: Path, file: str) -> None:
    path = release / f"{file}.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    (fault,) = found(release)
    assert fault.startswith(f"{file}.csv: row {len(lines) - 1} is missing, {file}.jsonl gives ")
    path.write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in lines))
    (fault,) = found(release)
    assert fault.startswith(f"{file}.csv: its columns are ")
    path.write_bytes(b"")
    assert found(release)
    path.unlink()
    assert found(release) == [f"{file}.csv: missing"]


@pytest.mark.parametrize("folder", ["documents/notes", "filtered/notes", "deduplicated"])
def test_a_removal_that_its_stage_did_not_count_is_found(release: Path, folder: str) -> None:
    path = release / "data" / folder / "removals.parquet"
    rows = [*pq.read_table(path).to_pylist(), removal("filter", "notes", "notes/none", "cap")]
    write_table(path, rows, REMOVALS, "removals.parquet")
    fault, croissant = found(release)
    assert croissant.startswith("croissant.json: line ")  # has the digest of the table as it was
    assert fault.startswith(f"manifests/{folder}.json: removed is {{")
    assert f"data/{folder}/removals.parquet holds {{'cap': 1" in fault


def test_an_evaluation_that_the_manifest_does_not_have_is_found(release: Path) -> None:
    path = release / f"results/{MODEL}/evaluation.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["bits_per_byte"] = 0.5
    path.write_bytes(b"".join(canonical(line) + b"\n" for line in lines))
    faults = found(release)
    assert faults[0].startswith(f"{EVALUATED}: result {len(lines)} is ")
    assert "'bits_per_byte': 0.5" in faults[0]


def test_an_evaluation_of_a_checkpoint_that_is_not_there_is_found(release: Path) -> None:
    name = checkpoint(release, MODEL, 4).name

    def rename(tree: dict[str, Any]) -> None:
        (result,) = (each for each in tree["results"] if each["revision"] == name)
        result["revision"] = "step000005-tokens1280"

    in_json(release / EVALUATED, rename)
    for kind in ("jsonl", "csv"):
        edit(release / f"results/{MODEL}/evaluation.{kind}", name, "step000005-tokens1280")
    order, missing = found(release)
    assert order == f"{EVALUATED}: its results are not those of the model's checkpoints, in their order"
    assert missing.endswith(f"{EVALUATED}: results: none of {name}")


def test_a_better_last_loss_in_the_manifest_alone_is_found(release: Path) -> None:
    path = release / EVALUATED
    tree = json.loads(path.read_bytes())
    write_json(path, tree | {"loss": 0.5})
    assert found(release)[0] == f"{EVALUATED}: loss is 0.5, the rest of the release gives {tree['results'][-1]['loss']}"


def test_params_that_another_build_used_are_found(release: Path) -> None:
    path = release / "params.yaml"
    tree = json.loads(path.read_bytes())
    tree["tokenizer"]["sample_bytes"] += 1
    write_json(path, tree)
    assert found(release) == [
        "manifests/tokenizer.json: was built with another `tokenizer` than the one in params.yaml"
    ]


OF_MODEL = f"| {MODEL} | 69,952 |"  # of the table that begins with parameters
CELLS = [OF_MODEL, "| validation loss |", "| letters |", "| share of tokens |", "| normalize |"]


@pytest.mark.parametrize("old", [*CELLS, "| dedup | exact_duplicate"])
def test_a_number_in_a_table_of_the_card_is_found(release: Path, old: str) -> None:
    card = release / "README.md"
    (honest,) = [line for line in card.read_text().splitlines() if old in line]
    edit(card, honest, honest.replace(old, f"{old} 7"))
    (fault,) = found(release)
    assert fault.endswith(f" is {honest.replace(old, f'{old} 7')}, params.yaml and the manifests give {honest}")


def test_a_line_that_is_missing_or_too_much_in_the_card_is_found(release: Path) -> None:
    card = release / "README.md"
    text = card.read_text()
    (honest,) = [line for line in text.splitlines() if OF_MODEL in line]
    card.write_text(text.replace(honest + "\n", ""))
    assert found(release)[0].endswith(f"params.yaml and the manifests give {honest}")
    card.write_text(text + honest + "\n")
    assert found(release)[0].endswith(f" is {honest}, params.yaml and the manifests give ")


def test_any_sentence_of_the_card_that_the_facts_do_not_give_is_found(release: Path) -> None:
    edit(release / "README.md", "All models read the same rows", "No models read the same rows")
    (fault,) = found(release)
    assert " is No models read the same rows in the same order" in fault


def test_a_picture_that_shows_other_losses_is_found(release: Path) -> None:
    edit(release / "loss.svg", "validation loss (nats per token)", "validation loss (bits per token)")
    (fault,) = found(release)
    assert fault.startswith("loss.svg: line ")


def test_a_published_order_that_the_seed_does_not_give_is_found(release: Path) -> None:
    rows = [json.loads(line) for line in read_lines(release / ORDER)]
    rows[2], rows[3] = rows[3], rows[2]
    write_lines(release / ORDER, map(encode_line, rows), "order.jsonl.zst")
    (fault,) = found(release)
    seed = read_json(release / "manifests/tokens.json")["parameters"]["seed"]
    assert fault == f"{ORDER}: line 3 is {rows[2]}, the seed {seed} gives {rows[3]}"
    write_lines(release / ORDER, map(encode_line, rows[:-1]), "order.jsonl.zst")
    assert found(release)[0] == f"{ORDER}: holds {len(rows) - 1} rows, manifests/tokens.json says {len(rows)}"


def test_an_order_of_another_seed_than_the_models_read_is_found(release: Path) -> None:
    in_json(release / "manifests/tokens.json", lambda tree: tree["parameters"].update(seed=7))
    assert found(release)[0].startswith(f"{ORDER}: line 1 is ")


@pytest.mark.parametrize("key", ["parameters_unique", "tokens"])
def test_a_model_that_claims_another_size_is_found(release: Path, key: str) -> None:
    manifest = read_json(release / MANIFEST)
    in_json(release / MANIFEST, lambda tree: tree.update({key: 123456}))
    edit(release / "README.md", f" {manifest[key]:,} ", " 123,456 ")
    expected = f"{MANIFEST}: {key} is 123456, the rest of the release gives {manifest[key]}"
    assert expected in found(release)


@pytest.mark.parametrize(
    ("key", "change"),
    [("tokens_by_license", {"CC0-1.0": 90000}), ("documents", 280), ("rows", 2746), ("models", {})],
)
def test_a_coverage_that_the_order_and_the_index_do_not_give_is_found(release: Path, key: str, change: Any) -> None:
    path = release / "manifests" / "coverage.json"
    in_json(path, lambda tree: tree.update({key: change}))
    start = f"manifests/coverage.json: {key} is {change}, the order and the index give "
    assert found(release)[0].startswith(start)


def test_a_notice_that_leaves_out_an_attribution_is_found(release: Path) -> None:
    """One that `params.yaml` asks for; and a notice without a source, or with a line too many."""
    honest = (release / "NOTICE").read_text()
    in_json(release / "params.yaml", lambda tree: tree["descriptions"]["notes"].update(attribution="By nobody."))
    fault = "NOTICE: line 5 is tales: The tales. nobody. CC0-1.0., params.yaml and the manifests give     By nobody."
    assert found(release) == [fault]
    edit(release / "NOTICE", "notes: The notes. nobody. CC0-1.0.\n", "")
    assert found(release)[0].startswith("NOTICE: line 4 is tales: ")
    in_json(release / "params.yaml", lambda tree: tree["descriptions"]["notes"].update(attribution=None))
    (release / "NOTICE").write_text(honest + "And of others.\n")
    assert found(release) == ["NOTICE: line 6 is And of others., params.yaml and the manifests give "]


@pytest.mark.parametrize(
    ("old", "new"),
    [('license: "apache-2.0"', 'license: "mit"'), ('- "en"', '- "de"'), ("tags:", "library_name: x\ntags:")],
)
def test_a_card_that_tells_the_hub_something_else_is_found(release: Path, old: str, new: str) -> None:
    edit(release / "README.md", old, new)
    (fault,) = found(release)
    assert fault.startswith("README.md: line ")


@pytest.mark.parametrize("key", ["name", "version"])
def test_a_root_manifest_of_another_name_than_params_is_found(release: Path, key: str) -> None:
    in_json(release / "params.yaml", lambda tree: tree["release"].update({key: "other"}))
    fault, *of_papers = found(release)
    assert fault == f"release.json: {key} is '{read_json(release / 'release.json')[key]}', params.yaml says 'other'"
    assert all(other.startswith(tuple(f"{name}: line " for name in PAPERS)) for other in of_papers)


def test_a_title_that_differs_between_card_and_params_is_found(release: Path) -> None:
    in_json(release / "params.yaml", lambda tree: tree["descriptions"]["notes"].update(title="Others"))
    card, notice, *others = found(release)
    assert {other.partition(":")[0] for other in others} == {
        "disclosures/ab2013.md",
        "disclosures/training-content.json",
        "disclosures/training-content.md",
        "report/index.html",
    }
    assert card.startswith("README.md: line ") and "| notes |" in card and "The notes" in card
    assert notice == (
        "NOTICE: line 4 is notes: The notes. nobody. CC0-1.0., "
        "params.yaml and the manifests give notes: Others. nobody. CC0-1.0."
    )


def test_params_without_words_are_found(release: Path) -> None:
    in_json(release / "params.yaml", lambda tree: tree.pop("descriptions"))
    (fault,) = found(release)
    assert fault.endswith("params.yaml: descriptions: missing; add it")


# The chain of checkpoints: found by the gate, of which `verify` is one user.


def relinked(release: Path, step: int, **changes: Any) -> None:
    """Change the record of one checkpoint, and what manifest and revisions say of it."""
    folder = checkpoint(release, MODEL, step)
    old = ck.read_record(folder)
    new = old.model_copy(update=changes)
    ck.write_record(folder, new)

    def follow(manifest: Any) -> None:
        for entry in manifest["checkpoints"]:
            if entry["step"] == step:
                entry.update({key: value for key, value in new.to_json().items() if key in entry})

    in_json(release / MANIFEST, follow)
    edit(release / "revisions.jsonl", old.state_digest, new.state_digest)


def test_a_checkpoint_whose_parent_is_not_the_one_before_it_is_found(release: Path) -> None:
    grandparent = ck.read_record(checkpoint(release, MODEL, 1)).state_digest
    relinked(release, 4, parent=grandparent)
    (fault,) = found(release)
    assert "step000004-tokens1024: its parent is not the checkpoint before it" in fault


def test_a_first_checkpoint_that_claims_a_parent_is_found(release: Path) -> None:
    relinked(release, 0, parent=ck.read_record(checkpoint(release, MODEL, 8)).state_digest)
    (fault,) = found(release)
    assert "step000000-tokens0: its parent is not the checkpoint before it" in fault


def test_a_state_digest_that_its_parts_do_not_give_is_found(release: Path) -> None:
    relinked(release, 8, state_digest=ck.state_digest("tensors-v1:" + "0" * 64, "tensors-v1:" + "1" * 64, 8))
    (fault,) = found(release)
    assert "step000008-tokens2048: its state digest does not follow from its parts" in fault


@pytest.mark.parametrize(
    ("manifest", "keys", "says"),
    [
        ("manifests/filtered/tales.json", ("documents",), "are not the"),
        ("manifests/deduplicated.json", ("removed", "near_duplicate"), "are not the"),
        ("manifests/tokens.json", ("splits", "train", "documents"), "dedup passed on"),
    ],
)
def test_a_document_that_no_stage_accounts_for_is_found(
    release: Path, manifest: str, keys: tuple[str, ...], says: str
) -> None:
    def lose_one(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] -= 1

    in_json(release / manifest, lose_one)
    assert any(fault.startswith(manifest) and says in fault for fault in found(release))
