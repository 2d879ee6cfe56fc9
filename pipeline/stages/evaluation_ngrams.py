"""Hash the n-grams of the evaluation sets, for the step `contamination` of the filter.

Reads `data/evaluation_sets`; writes `data/evaluation_ngrams/ngrams.parquet` (see `pipeline.formats.ngrams`) and
`manifests/evaluation_ngrams.json`. No text of an item is written. An item whose texts are all shorter than an
n-gram cannot be found; such items are counted.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import fresh_folder
from pipeline.base.params import load_section
from pipeline.base.paths import EVALUATION_NGRAMS, EVALUATION_SETS
from pipeline.blocks.contamination import ngram_hashes
from pipeline.blocks.shingles import Hashes
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import EvaluationNgrams, EvaluationSets
from pipeline.formats.ngrams import write_ngrams
from pipeline.formats.stages import manifest_path
from pipeline.sources.items import rows_of
from pipeline.sources.rows import as_text, column
from pipeline.stages.evaluation_sets import EvaluationParams, EvaluationSet
from pipeline.stages.upstream import check_fetched


def evaluation_ngrams() -> None:
    """Hash the n-grams of all declared sets."""
    params = load_section(EvaluationParams, "evaluation_sets")
    basis = take_basis([manifest_path("evaluation_sets")], ["evaluation_sets.words", "evaluation_sets.sets"])
    check_fetched(EvaluationSets, None, EVALUATION_SETS)
    folder = fresh_folder(EVALUATION_NGRAMS)
    found: list[Hashes] = []
    owners: list[tuple[str, str]] = []
    counts: dict[str, dict[str, int]] = {}
    with progress("evaluation_ngrams", len(params.sets), "sets") as advance:
        for name, declared in sorted(params.sets.items()):
            items = {item: _hash_item(texts, params.words) for item, texts in _items(name, declared)}
            if not items:
                raise EverystepError(f"evaluation_sets.sets.{name}: no item in {declared.members}; correct its members")
            found += items.values()
            owners += [(name, item) for item in items]
            counts[name] = _count(list(items.values()))
            advance(1)
    hashes, first = np.unique(np.concatenate(found), return_index=True)
    owner_of = np.repeat(np.arange(len(owners)), [len(grams) for grams in found])[first]
    table = write_ngrams(folder, hashes, [owners[i] for i in owner_of.tolist()])
    write_manifest(
        EvaluationNgrams,
        None,
        basis,
        parameters={
            "words": params.words,
            "sets": {name: declared.model_dump() for name, declared in params.sets.items()},
        },
        outputs={"ngrams": [table]},
        sets=counts,
    )


def _hash_item(texts: list[str], words: int) -> Hashes:
    return np.unique(np.concatenate([ngram_hashes(text, words) for text in texts]))


def _count(grams: list[Hashes]) -> dict[str, int]:
    return {
        "items": len(grams),
        "items_too_short": sum(not len(each) for each in grams),
        "ngrams": len(np.unique(np.concatenate(grams))),
    }


def _items(name: str, declared: EvaluationSet) -> Iterator[tuple[str, list[str]]]:
    """Yield (item, its texts); a repeated item, such as one row for each answer, is taken once."""
    where = f"evaluation_sets.sets.{name}"
    seen: set[str] = set()
    for number, row in enumerate(rows_of(EVALUATION_SETS, declared.members)):
        item = str(number) if declared.id is None else as_text(column(row, declared.id))
        texts = [text for path in declared.texts for text in _strings(column(row, path))]
        if not texts:
            raise EverystepError(f"{where}.texts: item {item} has no text in {', '.join(declared.texts)}; correct them")
        if item not in seen:
            seen.add(item)
            yield item, texts


def _strings(value: Any) -> list[str]:
    """List a string, or every string of a list."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
