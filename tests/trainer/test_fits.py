"""What cannot fit is refused before the first step, with what would; nothing that was there is lost."""

import ctypes
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from tests.trainer.runs import end, make_run, start
from trainer.fits import GIB, ROOM, Place, needed, place_of, require_evaluation, require_score, require_training
from trainer.memory import Setting, training_memory
from trainer.recipe import load_recipe

GPU = Place("cuda", 1, 80 * GIB, "each GPU (A100)")


def cpu(gib: float, processes: int = 1) -> Place:
    return Place("cpu", processes, int(gib * GIB), "the machine")


def refusal(name: str, place: Place, processes: int = 1, saves: bool = True) -> str:
    recipe, spec = load_recipe(name)
    with pytest.raises(EverystepError) as refused:
        require_training(recipe, spec, place, processes, saves)
    return str(refused.value)


def test_a_recipe_that_does_not_fit_is_named_with_its_memory_and_the_micro_batch_that_would() -> None:
    said = refusal("openelm-1.1b", GPU, processes=8)
    assert said.startswith(
        "recipes/openelm-1.1b.yaml: data.micro_batch: 16 rows of 2048 tokens take 85.5 GiB, of which"
    )
    assert "each GPU (A100) has 80.0 GiB" in said
    assert "EVERYSTEP_RECOMPUTE=1 (the same bits" in said
    assert "data.micro_batch: 8 (other bits)" in said
    assert "EVERYSTEP_SHARDS=8" in said


def test_what_is_suggested_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, spec = load_recipe("openelm-1.1b")
    smaller = recipe.model_copy(update={"data": recipe.data.model_copy(update={"micro_batch": 8})})
    require_training(smaller, spec, GPU, 8)
    monkeypatch.setenv("EVERYSTEP_SHARDS", "8")
    require_training(recipe, spec, GPU, 8)
    monkeypatch.delenv("EVERYSTEP_SHARDS")
    monkeypatch.setenv("EVERYSTEP_RECOMPUTE", "1")
    require_training(recipe, spec, GPU, 8)


def test_a_replay_is_advised_nothing_that_changes_bits() -> None:
    said = refusal("openelm-1.1b", GPU, processes=8, saves=False)
    assert "EVERYSTEP_RECOMPUTE=1" in said and "other bits" not in said


def test_fewer_processes_are_advised_where_they_fit() -> None:
    recipe, spec = load_recipe("mobilellm")
    one = needed(training_memory(spec, Setting.of(recipe, processes=1)), cpu(1))
    assert "EVERYSTEP_PROCESSES=1 (the same bits)" in refusal("mobilellm", cpu(one / GIB + 0.01, processes=2), 2)


def test_what_fits_nowhere_says_what_the_least_would_take() -> None:
    assert "One row at a time, recomputed, would take " in refusal("pythia-12b", GPU)


@pytest.mark.parametrize("name", ["mobilellm", "mobilellm-125m", "amber-7b"])
def test_the_bound_is_what_is_needed_and_nothing_above_it_is_refused(name: str) -> None:
    recipe, spec = load_recipe(name)
    for place in (cpu(1, processes=2), replace(GPU, room=GIB)):
        device = "cuda" if place.device == "cuda" else "cpu"
        least = needed(training_memory(spec, Setting.of(recipe, device=device, processes=2)), place)
        require_training(recipe, spec, replace(place, room=least), 2)
        assert "take" in refusal(name, replace(place, room=least - 1), 2)
        require_training(recipe, spec, replace(place, room=0), 2)  # no limit


def test_where_memory_is_short_freed_blocks_go_back_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, int]] = []

    class Libc:
        def mallopt(self, key: int, value: int) -> int:
            asked.append((key, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    recipe, spec = load_recipe("mobilellm-125m")
    least = needed(training_memory(spec, Setting.of(recipe)), cpu(1))
    require_training(recipe, spec, replace(cpu(1), room=2 * least), 1)
    assert asked == []
    require_training(recipe, spec, replace(cpu(1), room=int(1.1 * least)), 1)
    assert asked == [(-3, 1 << 16)]
    assert "freed memory goes back to the system at once" in capsys.readouterr().err


def test_memory_is_that_of_the_machine_or_of_its_control_group_or_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = place_of(on_cpu=True, processes=3)
    (total, *_) = Path("/proc/meminfo").read_text().splitlines()
    assert 0 < found.room <= 1024 * int(total.split()[1]) and found.processes == 3
    monkeypatch.setenv(ROOM, "1.5")
    assert place_of(on_cpu=True, processes=1).room == 1.5 * GIB
    monkeypatch.setenv(ROOM, "1e-12")
    assert place_of(on_cpu=True, processes=1).room == 1  # 0 would be no limit
    for wrong in ("much", "inf", "-1", "nan"):
        monkeypatch.setenv(ROOM, wrong)
        with pytest.raises(EverystepError, match=f"EVERYSTEP_MEMORY={wrong}: give a number of GiB"):
            place_of(on_cpu=True, processes=1)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/job/task\n", {"job/task/memory.max": "max", "job/memory.max": "3000", "memory.max": "max"}, 3000),
        ("0::/\n", {"memory.max": "5000"}, 5000),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "7000"}, 7000),
        ("4:cpu:/a\n", {}, None),
    ],
)
def test_limits_of_control_groups_are_found(
    monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], limit: int | None
) -> None:
    from trainer import fits

    texts = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()} | {"/proc/self/cgroup": groups}
    monkeypatch.setattr(fits, "_read", lambda path: texts.get(str(path), ""))
    assert fits._control_group() == limit


def test_an_evaluation_that_does_not_fit_names_the_rows_that_would() -> None:
    spec = load_recipe("mobilellm-125m")[1]
    require_evaluation(spec, cpu(8), 4)
    with pytest.raises(EverystepError, match=r"evaluate\.micro_batch: 512 rows of 2048 tokens take .* write \d+\."):
        require_evaluation(spec, cpu(8), 512)
    with pytest.raises(EverystepError, match="use fewer processes"):
        require_evaluation(spec, cpu(0.5), 1)
    with pytest.raises(EverystepError, match="score: texts of 2048 tokens take"):
        require_score(spec, cpu(0.5), 2048, 2048)


def test_a_training_that_does_not_fit_ends_with_code_2_before_it_begins(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 1, "env", f"{ROOM}=0.01", sys.executable, "-m", "pipeline.stages", "train", "mobilellm")
    assert end(process) == 2
    said = (folder / "said").read_text()
    assert "data.micro_batch: 2 rows of 32 tokens take" in said and "has 0.0 GiB" in said
    assert "Traceback" not in said and not (folder / "runs").exists()
