"""`python -m trainer.attribution RELEASE MODEL STEP GROUPS OUT`: make a table of counterfactuals (`make whatif`)."""

from pathlib import Path

from pipeline.base.console import run_command
from pipeline.base.errors import EverystepError
from pipeline.release.release import Release
from trainer.attribution.table import make_table


def main(address: str, model: str, step: str, groups: str, out: str) -> None:
    """Make the table."""
    if not step.isdecimal() or not groups.isdecimal():
        raise EverystepError(f"{step} {groups}: give the step to start from and the number of groups")
    table = make_table(Release.open(address), model, int(step), int(groups), Path(out))
    print(f"{out}: {table.groups} runs of {model} from step {table.start.step} to {table.stop.step}")
    for score in table.agreement:
        print(f"{score.targets:8}{score.prediction:10}{score.score:6.3f}  {score.low:6.3f} to {score.high:6.3f}")


if __name__ == "__main__":
    run_command(main, "RELEASE MODEL STEP GROUPS OUT")
