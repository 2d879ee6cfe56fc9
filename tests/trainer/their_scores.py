"""A program that lets lm-evaluation-harness score a model: `python their_scores.py MODEL ASKED`.

ASKED is a folder. Its `asked.json` holds `pairs`, [context, continuation], `tasks`, name → rows with `context`,
`choices` and `gold`, and `results`, a tree in the schema of the harness. `found.json` gets log-likelihood and greedy
flag of each pair, what the harness says of the tasks, and the table that it makes of the results.
"""

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval  # type: ignore[import-not-found,unused-ignore]
from lm_eval.api.instance import Instance  # type: ignore[import-not-found,unused-ignore]
from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found,unused-ignore]
from lm_eval.utils import make_table  # type: ignore[import-not-found,unused-ignore]


def main(model: Path, folder: Path) -> None:
    """Score what `folder / asked.json` asks with the model in a folder of transformers."""
    asked = json.loads((folder / "asked.json").read_text())
    lm = HFLM(pretrained=str(model), device="cpu", batch_size=4, dtype="float32")
    pairs = [
        Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=number)
        for number, pair in enumerate(asked["pairs"])
    ]
    found = {
        "pairs": lm.loglikelihood(pairs, disable_tqdm=True),
        "table": make_table(asked["results"]),
        "results": lm_eval.simple_evaluate(
            lm, tasks=[config(folder, name, rows) for name, rows in asked["tasks"].items()], log_samples=False
        )["results"],
    }
    (folder / "found.json").write_text(json.dumps(found))


def config(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A task of the harness over these rows."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(path)}},
        "validation_split": "validation",
        "doc_to_text": "{{context}}",
        "metadata": {"version": 1.0},
    }
    if all(len(row["choices"]) == 1 for row in rows):
        perplexity = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
        return common | {
            "output_type": "loglikelihood",
            "doc_to_target": "{{' ' + choices[0]}}",
            "metric_list": [perplexity, {"metric": "acc"}],
        }
    return common | {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
