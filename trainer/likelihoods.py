"""Log-likelihoods of continuations given contexts: all checkpoints of a model in one pass over the prompts.

The bits of an item depend on the item alone, and not on the batch that it is computed in, the order of the items or the
number of processes. Its choices that share a context are one row of ids: the context once, then each continuation,
which sees the context and itself (`trainer.model.Tree`). A row is padded on the right to a multiple of `ROWS` tokens.
In the class `portable`, rows of equal length are computed together: each begins at a multiple of `ROWS` rows of a
product, and no number depends on what is computed beside it (tests/trainer/test_likelihoods.py). MKL promises no such
thing, so in the class `native` each row is computed by itself.

Shape suffixes as in `trainer.model`; N asked tokens, of all rows of a batch.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.formats import checkpoints as ck
from pipeline.formats.model import ModelSpec
from pipeline.formats.tasks import Prompt
from trainer.fits import place_of, require_score

if TYPE_CHECKING:
    from trainer.model import Decoder
    from trainer.parallel import World

ROWS = 12
"""OpenBLAS packs 12 rows for its kernels, which take 6 at once; the rest of a product goes through others, with another
order of additions. With 16 rows, half of the numbers of a product changed with the batch (docs/decisions.md)."""
BATCH_TOKENS = 2048
LOGIT_ROWS = 20 * ROWS
WIDTHS = 4
"""What divides every width where texts share a batch: 12 rows of it are then whole vectors of torch's operators, whose
rest goes through another function."""
NO_PROMPT = -1


class Scores(NamedTuple):
    """What each checkpoint says of each prompt, shape (checkpoints, prompts)."""

    log_likelihoods: NDArray[np.float64]
    """In nats."""
    greedy: NDArray[np.bool_]
    """Whether every token of the continuation is the likeliest one there."""


class Text(NamedTuple):
    """A context with its continuations as a row of ids, padded to a multiple of `ROWS`, and which tokens are asked."""

    tokens: list[int]
    positions: list[int]
    branches: list[tuple[int, int]]
    """Where the context is in the row, and each continuation but for its last token."""
    places: list[int]
    """Places of the row after which a token is asked, padded to a multiple of `ROWS`."""
    targets: list[int]
    """The token that is asked there."""
    prompts: list[int]
    """The prompt that it belongs to, by number; `NO_PROMPT` is padding."""


def fits(prompt: Prompt, context: int) -> bool:
    """Whether a model of this context reads the prompt whole: the last token is predicted and not read."""
    return len(prompt.context) + len(prompt.continuation) - 1 <= context


def score_checkpoints(
    world: "World",
    name: str,
    spec: ModelSpec,
    checkpoints: Sequence[Path],
    items: Sequence[Sequence[Prompt]],
    batch_tokens: int = BATCH_TOKENS,
) -> Scores:
    """Score the prompts of all items, numbered through, with each checkpoint; the processes share the batches.

    Raises `EverystepError` with the checkpoint's name if one of its numbers is not finite.
    """
    from trainer.model import Decoder, load_tensors

    batches = batches_of(texts_of(items), batch_tokens if can_share(spec) else 1)
    num_prompts = sum(map(len, items))
    longest = max((len(text.tokens) for batch in batches for text in batch), default=0)
    require_score(spec, place_of(world.device.type == "cpu", world.size), longest, batch_tokens)
    model = Decoder(spec).to(world.device)
    mine = batches[world.rank :: world.size]
    found = np.zeros((len(checkpoints), 2, num_prompts))
    with progress(f"score {name}", len(checkpoints) * len(mine), "batches", quiet=world.rank != 0) as advance:
        for number, checkpoint in enumerate(checkpoints):
            weights: Any = ck.read_verified(checkpoint, ck.WEIGHTS)
            load_tensors(model, weights)
            for batch in mine:
                for prompt, log_likelihood, is_greedy in score_batch(model, batch):
                    found[number, :, prompt] = log_likelihood, is_greedy
                advance(1, checkpoint.name)
    parts = np.array(world.gather_floats(found.ravel().tolist())).reshape(world.size, *found.shape)
    sums = parts.sum(axis=0)  # each number is zero in every process but one
    for checkpoint, (log_likelihoods, _) in zip(checkpoints, sums, strict=True):
        if not np.isfinite(log_likelihoods).all():
            raise EverystepError(
                f"{checkpoint}: a log-likelihood is not finite: the training had diverged there; declare other "
                "checkpoints in `score.checkpoints`"
            )
    return Scores(sums[:, 0], sums[:, 1] > 0)


def can_share(spec: ModelSpec) -> bool:
    """Whether texts of this model may share a batch: in the class `portable`, with widths that allow it."""
    from trainer.matmul import is_portable

    widths = [spec.width, *(width for layer in spec.layers for width in (layer.ffn_width, layer.head_width))]
    return is_portable() and all(width % WIDTHS == 0 for width in widths)


def texts_of(items: Sequence[Sequence[Prompt]]) -> list[Text]:
    """The rows of ids of all items: one for each context of an item, in order."""
    texts, number = [], 0
    for item in items:
        by_context: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for prompt in item:
            by_context.setdefault(tuple(prompt.context), []).append((number, prompt.continuation))
            number += 1
        texts += [_text(context, continuations) for context, continuations in by_context.items()]
    return texts


def _text(context: tuple[int, ...], continuations: list[tuple[int, list[int]]]) -> Text:
    length = len(context)
    text = Text([*context], [*range(length)], [(0, length)], [], [], [])
    for number, continuation in continuations:
        start = len(text.tokens)
        text.tokens.extend(continuation[:-1])
        text.positions.extend(range(length, length + len(continuation) - 1))
        text.branches.append((start, len(text.tokens)))
        text.places.extend([length - 1, *range(start, len(text.tokens))])
        text.targets.extend(continuation)
        text.prompts.extend([number] * len(continuation))
    for numbers, padding in (
        (text.tokens, 0),
        (text.positions, 0),
        (text.places, 0),
        (text.targets, 0),
        (text.prompts, NO_PROMPT),
    ):
        numbers.extend([padding] * (-len(numbers) % ROWS))
    return text


def batches_of(texts: Sequence[Text], batch_tokens: int) -> list[list[Text]]:
    """Texts of equal length in batches of at most this many tokens, or of one text, the longest first."""
    by_length: dict[int, list[Text]] = {}
    for text in texts:
        by_length.setdefault(len(text.tokens), []).append(text)
    return [
        alike[start : start + size]
        for length, alike in sorted(by_length.items(), reverse=True)
        for size in [max(1, batch_tokens // length)]
        for start in range(0, len(alike), size)
    ]


def score_batch(model: "Decoder", batch: Sequence[Text]) -> Iterator[tuple[int, float, bool]]:
    """Yield (number, log-likelihood, is greedy) of each prompt of a batch of texts of equal length."""
    import torch

    from trainer.exact import logarithm64
    from trainer.matmul import linear
    from trainer.model import Tree

    device = model.embedding.weight.device
    length = len(batch[0].tokens)
    tokens_BT, positions_BT = (
        torch.tensor([getattr(text, key) for text in batch], device=device) for key in ("tokens", "positions")
    )
    seen_BTT = torch.from_numpy(np.stack([_seen(text) for text in batch])).to(device)
    places_N = torch.tensor([row * length + place for row, text in enumerate(batch) for place in text.places])
    targets_N = torch.tensor([target for text in batch for target in text.targets], device=device)
    log_shares, is_greedy = [], []
    with torch.no_grad():
        x_BTM = model.hidden(tokens_BT, tree=Tree(positions_BT, seen_BTT))
        x_NM = x_BTM.flatten(0, 1)[places_N.to(device)]
        for start in range(0, len(x_NM), LOGIT_ROWS):
            rows = slice(start, start + LOGIT_ROWS)
            logits_NV = linear(x_NM[rows], model.head_VM)
            # In float64 a share is no zero while a logit is within 700 of the largest.
            shares_N = torch.softmax(logits_NV.double(), -1).gather(1, targets_N[rows, None])[:, 0]
            log_shares.append(logarithm64(shares_N.cpu().numpy()))
            is_greedy.append((logits_NV.argmax(-1) == targets_N[rows]).cpu().numpy())
    numbers = np.array([number for text in batch for number in text.prompts])
    for number in np.unique(numbers[numbers != NO_PROMPT]).tolist():
        of_it = numbers == number
        yield number, math.fsum(np.concatenate(log_shares)[of_it]), bool(np.concatenate(is_greedy)[of_it].all())


def _seen(text: Text) -> NDArray[np.bool_]:
    """Which place of a text sees which, shape (T, T). Padding sees itself, so that no row of a softmax is empty."""
    seen = np.eye(len(text.tokens), dtype=bool)
    (_, context), *_ = text.branches
    for start, stop in text.branches:
        seen[start:stop, :context] = True
        seen[start:stop, start:stop] = True
    return np.tril(seen)
