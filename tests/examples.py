"""What is generated in `examples/`: `python -m tests.examples` writes it again.

`examples/amber/dvc.yaml`: the stage `rows`, and the checkout's own `code` and `train`; `train` reads those rows instead
of ours. In each README.md what the release costs, between two marks: what `everystep plan` prints.
"""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.base.files import write_bytes
from pipeline.base.params import model_names
from pipeline.base.paths import PARAMS, PUBLISHED_ROWS, TOKENS
from pipeline.base.yaml import load_yaml
from pipeline.formats.stages import manifest_path
from pipeline.plan.plan import Figure, make_plan
from pipeline.plan.rates import load_rates
from pipeline.plan.table import markdown
from tests.imports import ROOT
from trainer.planned import planned

EXAMPLES = ROOT / "examples"
ON_ROWS = EXAMPLES / "amber" / "dvc.yaml"
COSTS = re.compile(r"(?<=<!-- costs -->\n).*?(?=<!-- /costs -->)", re.S)
HEAD = """\
# The stages of a release that begins with rows of token ids that others published: fetch them, train on them.
# Written by `python -m tests.examples` from the dvc.yaml of the checkout.
"""


def stages_on_rows() -> dict[str, Any]:
    """The whole `dvc.yaml` as a tree."""
    rows = {
        "desc": "published rows of token ids",
        "cmd": "python -m pipeline.stages rows",
        "params": [{manifest_path("code").as_posix(): ["stages.rows.digest"]}, "rows"],
        "outs": [PUBLISHED_ROWS.as_posix()],
        "metrics": [{manifest_path("rows").as_posix(): {"cache": False}}],
    }
    ours = load_yaml(ROOT / "dvc.yaml")["stages"]
    code, train = ours["code"], ours["train"]
    others = {
        manifest_path("tokenize").as_posix(): manifest_path("rows").as_posix(),
        TOKENS.as_posix(): PUBLISHED_ROWS.as_posix(),
    }
    train["do"]["deps"] = [others.get(dep, dep) for dep in train["do"]["deps"]]
    return {"stages": {"code": code, "rows": rows, "train": train}}


def plan_of(example: Path) -> list[Figure]:
    """What `everystep plan` says of an example."""
    return make_plan(example, [planned(name, example) for name in model_names(example / PARAMS)], load_rates())


def main() -> None:
    """Write both."""
    for readme in sorted(EXAMPLES.glob("*/README.md")):
        costs = markdown(plan_of(readme.parent))
        write_bytes(readme, COSTS.sub(costs.replace("\\", r"\\"), readme.read_text("utf-8")).encode())
    dumper = YAML()
    dumper.width = 1 << 16
    dumper.indent(mapping=2, sequence=4, offset=2)
    with ON_ROWS.open("w", encoding="utf-8") as file:
        file.write(HEAD)
        dumper.dump(stages_on_rows(), file)


if __name__ == "__main__":
    main()
