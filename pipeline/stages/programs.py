"""The program of each stage: the function of its name, in which module that is, and which code is loaded with it.

The stage `code` writes down the code of all stages; the entry point refuses to run a stage with any other. Modules are
named and not imported, because some of them are the trainer's.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from pipeline.base.errors import EverystepError
from pipeline.base.files import sha256_file
from pipeline.formats.manifests import Code, path_of, read_manifest
from pipeline.formats.stages import BY_NAME, OF_FORKS, ON_ROWS, STAGES

ROOT = Path(__file__).parents[2]
"""The folder of the packages `pipeline` and `trainer` that run."""
ENTRY_POINT = "pipeline.stages.__main__"
NAMES = [stage.name for stage in (*STAGES, *ON_ROWS, *OF_FORKS)]
ELSEWHERE = {
    "dedup": "pipeline.stages.dedup.stage",
    "tokenize": "pipeline.stages.tokenize.stage",
    "tasks": "pipeline.stages.tasks.stage",
    "parent": "trainer.parent",
    "train": "trainer.train",
    "evaluate": "trainer.evaluate",
    "score": "trainer.score",
}
"""The modules of stages that are not `pipeline.stages.NAME`."""


def run_stage(*words: str) -> None:
    """Run the stage that `words` name, and the source or model it runs for."""
    if not words or words[0] not in NAMES:
        raise EverystepError(f"usage: python -m pipeline.stages NAME [OF]; NAME is one of {', '.join(NAMES)}")
    stage = BY_NAME[words[0]]
    takes = [] if stage.per == "release" else [stage.per.upper()]
    if len(words) != 1 + len(takes):
        times = f"for each {stage.per}" if takes else "once"
        command = " ".join(["python -m pipeline.stages", stage.name, *takes])
        raise EverystepError(f"stage {stage.name}: runs {times}; usage: {command}")
    if stage.name != "code":
        require_current_code(stage.name)
    program: Callable[..., None] = getattr(import_module(module_of(stage.name)), stage.name)
    program(*words[1:])
    if stage.name != "code":
        require_current_code(stage.name)  # its workers may have loaded what was edited meanwhile


def module_of(stage: str) -> str:
    """The name of the module that holds the program of a stage."""
    return ELSEWHERE.get(stage, f"pipeline.stages.{stage}")


def require_current_code(stage: str) -> None:
    """Raise unless the code of a stage is what `manifests/code.json` lists, which DVC assumes is the code that runs.

    Without that file, nothing is checked.
    """
    path = path_of(Code)
    if not path.is_file():
        return
    if Path("pipeline").is_dir() and not Path("pipeline").samefile(ROOT / "pipeline"):
        raise EverystepError(f"{ROOT}: the code that runs is not that of this project; run `make release` here")
    for name, sha256 in read_manifest(Code, path).files_of(stage).items():
        if not (ROOT / name).is_file() or sha256_file(ROOT / name) != sha256:
            raise EverystepError(f"{path}: out of date: {name} has changed since it was written; run `dvc repro`")
