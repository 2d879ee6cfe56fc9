"""A program that lets lm-evaluation-harness make requests of local rows: `python their_requests.py FOLDER FILES`.

FOLDER holds `TASK.jsonl` for each stock task, rows in the form of the data set that its YAML file reads; FILES is JSON,
task → that YAML file. The program writes `requests.json`: task → for each row, [context, continuation] of each choice
and the place of the right one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval  # type: ignore[import-not-found,unused-ignore]
from lm_eval.tasks import TaskManager, get_task_dict  # type: ignore[import-not-found,unused-ignore]

STOCK = Path(lm_eval.__file__).parent / "tasks"
YAML = """
include: {stock}
task: local_{task}
tag: null
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{validation: {rows}}}}}
training_split: null
test_split: null
fewshot_split: null
validation_split: validation
"""


def main(folder: Path, files: dict[str, str]) -> None:
    """Make the requests of each task in `files`, task → its YAML file in the harness."""
    for task, file in files.items():
        text = YAML.format(stock=STOCK / file, task=task, rows=folder / f"{task}.jsonl")
        (folder / f"{task}.yaml").write_text(text)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = [f"local_{task}" for task in files]
    made = {task.removeprefix("local_"): requests(each) for task, each in get_task_dict(names, manager).items()}
    (folder / "requests.json").write_text(json.dumps(made))


def requests(task: Any) -> list[tuple[list[tuple[str, str]], int]]:
    """The requests of a task and its gold choices, by row."""
    task.build_all_requests()
    found: dict[int, list[tuple[str, str]]] = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append(instance.args)
    gold = task.doc_to_text if task.config.task == "local_winogrande" else task.doc_to_target
    docs = [*task.eval_docs]
    return [(found[number], 0 if len(found[number]) == 1 else int(gold(doc))) for number, doc in enumerate(docs)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
