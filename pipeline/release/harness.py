"""Scores of one checkpoint in the result schema of lm-evaluation-harness, whose tools then read them.

The keys are those of version 0.4.13 but for what says when and where it ran: clocks, hosts, libraries. The samples are
in `items.parquet`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipeline.formats.canonical import Json
from pipeline.formats.scores import Score
from pipeline.formats.tasks import Task
from pipeline.release.metrics import RESAMPLES, SEEDS

VERSION = "0.4.13"
FALLS = ("perplexity", "bits_per_byte")
"""Metrics of which less is better."""


class Model(NamedTuple):
    """What was evaluated."""

    name: str
    revision: str
    weights_digest: str
    parameters: int
    context: int
    end_token: int | None


def results(model: Model, scores: Iterable[Score], tasks: Mapping[str, Task]) -> Json:
    """The tree of one checkpoint; a task has its name in the harness, and ours if it is not from there."""
    by_task: dict[str, list[Score]] = {}
    for score in scores:
        by_task.setdefault(score.task, []).append(score)
    labels = {name: _label(name, tasks[name]) for name in by_task}
    return {
        "results": {label: _results(label, by_task[name]) for name, label in labels.items()},
        "group_subtasks": {},
        "configs": {label: _config(label, tasks[name], by_task[name]) for name, label in labels.items()},
        "versions": {label: tasks[name].definition_sha256 for name, label in labels.items()},
        "n-shot": dict.fromkeys(labels.values(), 0),
        "higher_is_better": {
            label: {score.metric: score.metric not in FALLS for score in by_task[name]}
            for name, label in labels.items()
        },
        "n-samples": {
            label: {"original": tasks[name].found, "effective": by_task[name][0].items}
            for name, label in labels.items()
        },
        "config": {
            "model": "everystep",
            "model_args": {"model": model.name, "revision": model.revision},
            "model_num_parameters": model.parameters,
            "model_dtype": "torch.float32",
            "model_revision": model.revision,
            "model_sha": model.weights_digest,
            "batch_size": None,
            "batch_sizes": [],
            "device": None,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": RESAMPLES * SEEDS,
            "gen_kwargs": None,
        },
        "lm_eval_version": VERSION,
        "eot_token_id": model.end_token,
        "max_length": model.context,
        "model_source": "everystep",
        "model_name": model.name,
        "model_name_sanitized": model.name,
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
        "task_hashes": {label: tasks[name].data_sha256 for name, label in labels.items()},
    }


def _label(name: str, task: Task) -> str:
    return name if task.stock is None else task.stock.task


def _results(label: str, scores: list[Score]) -> Json:
    tree: dict[str, Json] = {"name": label, "alias": label, "sample_len": scores[0].items}
    for score in scores:
        if score.value is not None:
            tree[f"{score.metric},none"] = score.value
            error = score.standard_error
            tree[f"{score.metric}_stderr,none"] = "N/A" if error is None else error
    return tree


def _config(label: str, task: Task, scores: list[Score]) -> Json:
    return {
        "task": label,
        "output_type": "loglikelihood" if "perplexity" in task.metrics else "multiple_choice",
        "num_fewshot": 0,
        "repeats": 1,
        "target_delimiter": task.delimiter,
        "metric_list": [{"metric": score.metric, "higher_is_better": score.metric not in FALLS} for score in scores],
        "metadata": {
            "definition_sha256": task.definition_sha256,
            "data_sha256": task.data_sha256,
            "chance": task.chance,
            "too_long": scores[0].too_long,
        },
    }
