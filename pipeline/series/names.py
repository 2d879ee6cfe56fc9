"""Steps in the names of checkpoints: of branches, folders and files, as different publishers write them.

`step143000` (Pythia), `stage1-step140000-tokens587B` (OLMo), `ckpt_100` (LLM360), `chck_10M` (BabyLM), `checkpoint-500`
(transformers), `iter_0001000` (Megatron), `step-50K` (TinyLlama). What is left of a name without its numbers is
its template; names of one template are one series.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
STEP = re.compile(
    r"(?<![a-z])(?:global_?)?(?:steps?|ckpt|chck|checkpoint|iter(?:ation)?|epoch|chunk)[-_=]?(\d{1,15})([kmbt]?)(?![0-9a-z])",
    re.IGNORECASE,
)
TOKENS = re.compile(r"(?<![a-z])tokens?[-_=]?(\d{1,18}(?:\.\d{1,6})?)([kmbt]?)(?![0-9a-z])", re.IGNORECASE)
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")
ABBREVIATED = 3
"""Equal differences in a row from which a list of steps is shortened."""


class Named(NamedTuple):
    """What a name says."""

    step: int
    tokens: float | None
    template: str
    """The name with `#` for step and tokens."""


def parse_name(name: str) -> Named | None:
    """The last step in a name; None if there is none."""
    found = list(STEP.finditer(name))
    if not found:
        return None
    step, tokens = found[-1], TOKENS.search(name)
    template, places = name, [(step.start(1), step.end(2))]
    if tokens:
        places.append((tokens.start(1), tokens.end(2)))
    for start, end in sorted(places, reverse=True):
        template = f"{template[:start]}#{template[end:]}"
    return Named(int(_number(step)), _number(tokens) if tokens else None, template)


def family(path: str) -> str:
    """The name that the shards of one container share: `model-#-of-#.safetensors`."""
    return SHARD.sub("-#-of-#", path)


def shards(paths: Sequence[str]) -> dict[str, list[str]]:
    """Shards that are missing by the names of those that are there, by family."""
    there: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if match := SHARD.search(path):
            there.setdefault((family(path), int(match[2])), set()).add(int(match[1]))
    return {
        name: [name.replace("-#-of-#", f"-{number:05}-of-{total:05}") for number in missing]
        for (name, total), numbers in there.items()
        if (missing := [number for number in range(1, total + 1) if number not in numbers])
    }


def steps_in_words(steps: Sequence[int]) -> str:
    """Steps as a person lists them: `0, 1, 2, 4, 1000 to 53000 by 1000`."""
    words, first = [], 0
    while first < len(steps):
        last = first + 1
        while last + 1 < len(steps) and steps[last + 1] - steps[last] == steps[first + 1] - steps[first]:
            last += 1
        if last - first >= ABBREVIATED:
            words.append(f"{steps[first]} to {steps[last]} by {steps[first + 1] - steps[first]}")
            first = last + 1
        else:
            words.append(str(steps[first]))
            first += 1
    return ", ".join(words)


def _number(match: re.Match[str]) -> float:
    return float(match[1]) * UNITS[match[2].lower()]
