"""CPU seconds of scores: one pass over all checkpoints of a model, and one run of lm-evaluation-harness for each.

`python -m bench.score PROJECT MODEL [CHECKPOINTS]` in an environment where `make .venv/tested` put the harness. PROJECT
is built. Both score the items of its tasks that fit the model, in one process and one thread; the harness gets a
checkpoint as a folder of transformers. Loading, tokenizing and start-up are in both numbers.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.audit.pull import pull
from pipeline.base.paths import RELEASE, TASKS, TOKENIZER
from pipeline.formats.manifests import TasksMade
from pipeline.formats.tasks import read_task
from pipeline.release.release import Release
from trainer.score import ask, encoder

CLIENT = Path(sys.prefix) / "clients" / "lm-eval"
OURS = """
import json, sys
from pathlib import Path
from pipeline.base.paths import RELEASE, TASKS, TOKENIZER
from pipeline.formats import checkpoints as ck
from pipeline.formats.manifests import TasksMade
from pipeline.formats.tasks import read_task
from pipeline.release.release import Release
from trainer.launch import launch
from trainer.likelihoods import score_checkpoints
from trainer.score import ask, encoder

release = Release.open(RELEASE)
made = release.manifest(TasksMade)
states = [release.state(sys.argv[1], int(step)) for step in sys.argv[2:]]
items = {name: list(read_task(TASKS, made.shard_of(name))) for name in made.tasks}
asked = [each for each in ask(items, encoder(release.file(TOKENIZER)), states[0].spec.context) if each.is_short]
folders = [state.file(ck.WEIGHTS).parent for state in states]
prompts = [each.prompts for each in asked]
launch(score_checkpoints, 1, states[0].record.numerics.name, sys.argv[1], states[0].spec, folders, prompts)
"""
THEIRS = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

lm = HFLM(pretrained=sys.argv[1], device="cpu", batch_size=16, dtype="float32")
pairs = json.load(open(sys.argv[2]))
lm.loglikelihood([Instance("loglikelihood", {}, tuple(pair), n) for n, pair in enumerate(pairs)], disable_tqdm=True)
"""
ALONE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {"HF_HUB_OFFLINE": "1"}


def cpu_seconds(*command: str | Path, **more: str) -> float:
    """CPU seconds of a program and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=os.environ | ALONE | more, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(project: Path, model: str, number: int) -> None:
    os.chdir(project)
    release = Release.open(RELEASE)
    states = [*release.states(model).values()][-number:]
    made = release.manifest(TasksMade)
    items = {name: list(read_task(TASKS, made.shard_of(name))) for name in made.tasks}
    asked_of_us = ask(items, encoder(release.file(TOKENIZER)), states[0].spec.context)
    pairs = [
        (choice.context, choice.continuation) for each in asked_of_us if each.is_short for choice in each.item.choices
    ]
    code = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory() as scratch:
        asked = Path(scratch) / "asked.json"
        asked.write_text(json.dumps(pairs))
        pull(release, {states[-1].revision: states[-1]}, Path(scratch) / "pulled")
        folder = Path(scratch) / "pulled" / states[-1].revision
        steps = [str(state.step) for state in states]
        ours = cpu_seconds(sys.executable, "-c", OURS, model, *steps, **code) / len(states)
        theirs = cpu_seconds(sys.executable, "-c", THEIRS, folder, asked, PYTHONPATH=str(CLIENT))
    print(f"load {os.getloadavg()[0]:.1f}; {len(pairs):,} choices, {len(states)} checkpoints of {model}")
    print(f"CPU seconds for each checkpoint: ours {ours:.1f}, the harness {theirs:.1f}, {theirs / ours:.1f} times")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 10)
