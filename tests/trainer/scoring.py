"""Scores of made-up items in many batches and orders: `python -m tests.trainer.scoring CLASS [FAMILY ...]`.

Prints, for each family, the digests of all log-likelihoods that came out, one for each way to compute them, and the
largest difference from a plain pass over each choice by itself.
"""

import hashlib
import json
import random
import sys
from typing import Any

from pipeline.formats.tasks import Prompt
from trainer import numerics

WAYS = (1, 100, 700, 2048, 9000)
"""Tokens of a batch."""


def items_of(draw: random.Random, vocabulary: int, context: int, number: int) -> list[list[Prompt]]:
    """Items of up to four choices, of which some share a context and some have one token."""

    def ids(most: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(draw.randint(1, most))]

    items = []
    for _ in range(number):
        shared, longest = ids(context // 2), context // 2
        choices = [Prompt(shared, ids(draw.choice([1, 6, longest]))) for _ in range(draw.randint(1, 4))]
        items.append([*choices, Prompt(ids(context // 2), choices[0].continuation)] if draw.random() < 0.2 else choices)
    return items


def ways(family: str) -> dict[str, Any]:
    """What comes out for one family."""
    import torch

    from tests.trainer.exports import build, read_spec
    from trainer.likelihoods import batches_of, can_share, score_batch, texts_of

    spec = read_spec(family)
    model, draw = build(spec), random.Random(family)
    items = items_of(draw, spec.vocabulary, spec.context, 24)
    texts = texts_of(items)
    digests: list[str] = []
    scores: dict[int, tuple[float, bool]] = {}
    for tokens in WAYS:
        for batch in batches_of(texts, tokens if can_share(spec) else 1):
            scores |= {number: (value, is_greedy) for number, value, is_greedy in score_batch(model, batch)}
        digests.append(hashlib.sha256(json.dumps(sorted(scores.items())).encode()).hexdigest())
        draw.shuffle(texts)
    worst = 0.0
    prompts = [prompt for item in items for prompt in item]
    with torch.no_grad():
        for number, (context, continuation) in enumerate(prompts):
            logits_TV = model(torch.tensor([context + continuation[:-1]]))[0, len(context) - 1 :].double()
            plain = logits_TV.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None]).sum()
            worst = max(worst, abs(float(plain) - scores[number][0]))
    return {"digests": digests, "worst": worst}


if __name__ == "__main__":
    numerics.enter(sys.argv[1])
    print(json.dumps({family: ways(family) for family in sys.argv[2:]}))
