"""A forger who forges one stretch of a real training, differently for each seed, and audits of what they publish.

    python -m tests.trainer.forgeries FOLDER SAMPLE FIRST COUNT

FOLDER holds a trained project. For each seed, one line of JSON: the stretch that was forged, those that the beacon
chose, and those in which the audit found a difference. The forger makes every digest right again, and each forgery is
one bad stretch: training goes on honestly from what it leaves.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from pipeline.formats import checkpoints as ck
from pipeline.formats.manifests import Checkpoint, Code, digest_of_code
from pipeline.formats.release import FORMAT, ROOT
from pipeline.formats.sampling import Stretch
from pipeline.release.code import installed
from pipeline.release.release import Release
from pipeline.release.stretches import plan_audit, stretches
from tests.releases import edit_log, read_json, reseal, write_json
from tests.stubs import write_stub
from tests.trainer.runs import MODEL
from trainer import numerics
from trainer.sampled import replay_chosen

SHARED = (".safetensors", ".zst")
"""Files that copies of a release may share, because no forger writes into them."""


def main(folder: Path, sample: int, first: int, count: int) -> None:
    numerics.enter("portable")
    honest = sealed(folder / "honest", folder)
    every = stretches(Release.open(honest), [MODEL])
    jumps = [jumped(folder / f"jump{number}", honest, stretch) for number, stretch in enumerate(every)]
    for seed in range(first, first + count):
        draw = random.Random(seed)
        number = draw.randrange(len(every))
        is_jump = draw.random() < 0.5
        forged = jumps[number] if is_jump else falsified(folder / "falsified", honest, every[number], draw)
        release = Release.open(forged)
        plan = plan_audit(release, [MODEL], hashlib.sha256(f"beacon {seed}".encode()).hexdigest(), sample)
        findings = replay_chosen(release, plan.chosen).findings
        found = [
            one for one, finding in zip(plan.chosen, findings, strict=True) if finding.first_difference is not None
        ]
        print(json.dumps({"stretches": len(every), "forged": every[number], "chosen": plan.chosen, "found": found}))


def sealed(out: Path, folder: Path) -> Path:
    """What is in a trained project, as a release, with the code of this checkout."""
    for part in ("manifests", "recipes", "runs", "data"):
        copy(folder / part, out / part)
    files = installed(["trainer/loop.py", "trainer/model.py"])
    stages = {"train": {"digest": digest_of_code(files), "files": [*files]}}
    write_stub(Code, root=out, files=files, stages=stages, swhid=f"swh:1:dir:{'0' * 40}")
    write_json(out / ROOT, {"format": FORMAT, "name": "forged", "version": "1", "files": {}})
    reseal(out)
    return out


def jumped(out: Path, honest: Path, stretch: Stretch) -> Path:
    """A training whose weights or moments jump at the end of one stretch, and which goes on from there. For the first
    stretch, it begins with other weights than the recipe gives."""
    from trainer.checkpoint import Writer
    from trainer.data import Checking, training_data
    from trainer.loop import Trainer
    from trainer.parallel import World
    from trainer.recipe import load_recipe

    copy(honest, out)
    recipe, spec = load_recipe(MODEL, out)
    trainer = Trainer(World(0, 1), recipe, spec, training_data(out, recipe, spec, Checking(folder=out / ".marks")))
    states = dict(ck.find_checkpoints(out / "runs" / MODEL))
    start, at = trainer.load(states[stretch.start]), stretch.stop if stretch.start else 0
    before = start.state_digest if at else None
    entry, entries = None, {}
    with Writer(out / "runs" / MODEL, recipe, spec, trainer.numerics(), before) as writer:
        while True:
            if trainer.step == at:
                vector = trainer.optimizer.second if stretch.start % 2 else trainer.flat.values
                vector[len(vector) // 2] += 1e-7
            if entry is not None:
                entry = entry.model_copy(update={"weights_digest": trainer.weights_digest()})
                entries[trainer.step] = entry.to_json()
            if trainer.step >= at and trainer.step in states:
                shutil.rmtree(states[trainer.step])
                writer.save(trainer.step, trainer.tokens, entry, *trainer.state())
            if trainer.step == recipe.schedule.steps:
                break
            entry = trainer.train_step()
    shutil.rmtree(out / ".marks")
    edit_log(out, MODEL, lambda lines: lines.__setitem__(slice(None), [entries.get(e["step"], e) for e in lines]))
    path = out / "manifests" / "models" / f"{MODEL}.json"
    records = [ck.read_record(state) for _, state in ck.find_checkpoints(out / "runs" / MODEL)]
    write_json(path, read_json(path) | {"checkpoints": [Checkpoint.of_record(one).to_json() for one in records]})
    reseal(out)
    return out


def falsified(out: Path, honest: Path, stretch: Stretch, draw: random.Random) -> Path:
    """The honest training with one number of one line of the log a little off, or one digest between stored states."""
    shutil.rmtree(out, ignore_errors=True)
    copy(honest, out)
    step = draw.randrange(stretch.start + 1, stretch.stop + 1)
    key = draw.choice(["loss", "gradient_norm", "learning_rate"])
    if step < stretch.stop and draw.random() < 0.5:
        key = "weights_digest"

    def edit(entries: list[dict[str, Any]]) -> None:
        value = entries[step - 1][key]
        other = f"tensors-v1:{draw.randbytes(32).hex()}" if key == "weights_digest" else value * (1 + 2**-40)
        assert other != value
        entries[step - 1][key] = other

    edit_log(out, MODEL, edit)
    reseal(out)
    return out


def copy(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, copy_function=lambda a, b: os.link(a, b) if a.endswith(SHARED) else shutil.copyfile(a, b)
    )


if __name__ == "__main__":
    with contextlib.redirect_stderr(Path(os.devnull).open("w")):
        main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
