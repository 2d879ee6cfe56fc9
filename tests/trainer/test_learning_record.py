"""The losses of a learning record: of each target, the same bits for any number of processes, and of virtual states."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.base.errors import EverystepError
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import parse
from pipeline.formats.losses import KEYS, stored_revisions
from pipeline.formats.manifests import Evaluated
from pipeline.release.release import Release
from tests.project import run
from tests.releases import copied
from tests.trainer.runs import MODEL
from tests.trainer.tiny import tiny_spec
from trainer.losses import compute_losses
from trainer.model import Decoder, initialize
from trainer.parallel import World
from trainer.recipe import load_recipe

JOB = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from trainer.launch import launch
from trainer.losses import compute_losses
from trainer.recipe import load_recipe

if __name__ == "__main__":
    folder, states = Path(sys.argv[1]), [Path(state) for state in sys.argv[2:]]
    _, spec = load_recipe("mobilellm", folder)
    rows = np.random.default_rng(1).integers(0, 320, (11, 33))
    about = "portable", "mobilellm", spec, states, rows, 2
    found = [launch(compute_losses, processes, *about) for processes in (1, 2, 4)]
    print(json.dumps([hashlib.sha256(losses.tobytes()).hexdigest() for losses in found]))
"""


def states_of(folder: Path) -> list[Path]:
    return [path for _, path in ck.find_checkpoints(folder / "runs" / MODEL)]


@pytest.mark.parametrize("family", ["mobilellm", "openelm", "pythia"])
def test_the_loss_of_a_micro_batch_is_the_mean_of_the_losses_of_its_targets(family: str) -> None:
    model = Decoder(tiny_spec(family))
    initialize(model, 1)
    rows = torch.randint(model.spec.vocabulary, (20, 33), generator=torch.Generator().manual_seed(1))
    losses = model.losses(rows)
    assert losses.shape == (20, 32) and not losses.requires_grad
    assert float(losses.mean()) == model.loss(rows).item()
    expected = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    assert float(losses.mean()) == pytest.approx(expected.item(), rel=1e-5)


def test_two_and_four_processes_give_the_bits_of_one(reference: Path, tmp_path: Path) -> None:
    """Eleven rows, two at a time: six micro-batches, so that the shares of four processes are uneven."""
    (tmp_path / "job.py").write_text(JOB)
    said = json.loads(run(tmp_path, "python", "job.py", str(reference), *map(str, states_of(reference)[:2])).stdout)
    assert len(said) == 3 and len({*said}) == 1, said


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_no_numbers_name_the_checkpoint_and_the_cure(
    reference: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state whose files are as they were written, but whose losses are not finite."""
    state = dict(ck.find_checkpoints(reference / "runs" / MODEL))[4]
    monkeypatch.setattr(Decoder, "losses", lambda self, rows: torch.full((len(rows), rows.shape[1] - 1), value))
    _, spec = load_recipe(MODEL, reference)
    with pytest.raises(EverystepError, match=rf"step000004-\S+: .* {value}: mobilellm had diverged at step 4, .*peak"):
        compute_losses(World(0, 1), MODEL, spec, [state], np.zeros((3, 33), dtype=np.int64), 2)


def test_the_sums_of_the_record_are_the_evaluation(built_project: Path) -> None:
    release = Release.open(built_project / "release")
    for model in release.models():
        evaluated = release.manifest(Evaluated, model)
        table = pq.read_table(built_project / "release" / "results" / model / "losses.parquet")
        held_out = table.filter(table["split"].to_numpy(zero_copy_only=False) == "validation")
        assert held_out.num_rows == evaluated.targets == evaluated.rows * 32
        assert table.num_rows == (evaluated.rows + evaluated.train_rows) * 32
        csv = (built_project / "results" / model / "evaluation.csv").read_text().splitlines()
        columns = csv[0].split(",")
        for line, result in zip(csv[1:], evaluated.results, strict=True):
            nats = math.fsum(held_out[result.revision].to_pylist())
            cells = dict(zip(columns, line.split(","), strict=True))
            assert float(cells["loss"]) == result.loss == nats / evaluated.targets
            assert float(cells["bits_per_byte"]) == nats / 0.6931471805599453 / evaluated.bytes
            parts = [entry for entry in evaluated.by_source if entry.revision == result.revision]
            whole = math.fsum(part.loss * evaluated.sources[part.source].targets for part in parts)
            assert whole == pytest.approx(nats, rel=1e-12)


def test_any_state_has_losses_with_the_bits_of_the_record(built_project: Path, tmp_path: Path) -> None:
    """Step 6 is virtual, step 4 stored."""
    release = copied(built_project / "release", tmp_path / "release")
    command = ("everystep", "losses", "release", "--model", MODEL, "--step", "4", "--step", "6", "--out", "out.parquet")
    done = run(tmp_path, *command, "--json", EVERYSTEP_PROCESSES="1")
    said = json.loads(done.stdout)
    path = release / "results" / MODEL / "losses.parquet"
    record, found = pq.read_table(path), pq.read_table(tmp_path / "out.parquet")
    assert stored_revisions(tmp_path / "out.parquet") == said["revisions"]
    assert said["targets"] == found.num_rows
    assert found.select(KEYS.names).equals(record.select(KEYS.names))
    stored, virtual = said["revisions"]
    assert found[stored].equals(record[stored])
    assert virtual not in record.column_names
    before, after = (float(np.mean(record[name].to_numpy())) for name in record.column_names[-2:])
    assert min(before, after) <= float(np.mean(found[virtual].to_numpy())) <= max(before, after)


def test_samples_are_what_the_command_prints(built_project: Path) -> None:
    lines = (built_project / "results" / MODEL / "samples.jsonl").read_bytes().splitlines()
    written: list[Any] = [parse(line) for line in lines]
    release = Release.open(built_project / "release")
    parameters = release.manifest(Evaluated, MODEL).parameters
    assert [line["prompt"] for line in written] == parameters.prompts * len(release.states(MODEL))
    line = written[-1]
    command = ("everystep", "sample", "release", "--model", MODEL, "--step", str(line["step"]), "--json")
    more = ("--prompt", line["prompt"], "--tokens", str(parameters.sample_tokens))
    printed = json.loads(run(built_project, *command, *more).stdout)
    assert {key: printed[key] for key in line if key != "step"} == {key: line[key] for key in line if key != "step"}
