"""`python -m trainer.attribution RELEASE MODEL STEP GROUPS OUT`: make a table of counterfactuals (`make whatif`).

If the folder OUT is there, the table in it is made again and compared.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.base.console import run_command
from pipeline.base.errors import Differs, EverystepError
from pipeline.formats.counterfactuals import Counterfactuals, read_counterfactuals
from pipeline.release.release import Release
from trainer import numerics
from trainer.attribution.table import make_table


def main(address: str, model: str, step: str, groups: str, out: str) -> None:
    """Make the table, or make it again."""
    if not step.isdecimal() or not groups.isdecimal():
        raise EverystepError(f"{step} {groups}: give the step to start from and the number of groups")
    asked = (Release.open(address), model, int(step), int(groups))
    if not Path(out).exists():
        table = make_table(*asked, Path(out))
        print(f"{out}: {table.groups} runs of {model} from step {table.start.step} to {table.stop.step}")
    else:
        before = read_counterfactuals(Path(out))
        numerics.prepare("portable")  # may restart this program, so it comes before the folder
        with TemporaryDirectory() as scratch:
            table = make_table(*asked, Path(scratch) / "table")
        _compare(before, table, out)
        print(f"same: {out}, {table.groups} runs of {model} from step {table.start.step} to {table.stop.step}")
    for score in table.agreement:
        print(f"{score.targets:8}{score.prediction:10}{score.score:6.3f}  {score.low:6.3f} to {score.high:6.3f}")


def _compare(before: Counterfactuals, table: Counterfactuals, out: str) -> None:
    """Raise `Differs` if a table that was made again is another; it may have been made by other code."""
    ours, theirs = (made.to_json() | {"code": ""} for made in (table, before))
    if different := sorted(key for key in ours if ours[key] != theirs.get(key)):
        raise Differs(f"{out}: made again, it differs in {', '.join(different)}")


if __name__ == "__main__":
    run_command(main, "RELEASE MODEL STEP GROUPS OUT")
