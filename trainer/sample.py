"""Sample: a checkpoint continues a text, token by token, with the trainer's own decoder and its cache.

Every draw is a function of (seed, position) and the logits; no generator holds a state. The decoder computes in the
numerics class that the state was trained in, so a `portable` model gives the same text on every machine of that class.
"""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError, how_to_install
from pipeline.base.paths import TOKENIZER
from pipeline.formats.samples import SEED, TEMPERATURE, TOP_K, reason_to_end
from pipeline.formats.vocabulary import end_token, token_texts
from pipeline.release.release import State
from trainer.launch import launch

if TYPE_CHECKING:
    from trainer.model import Decoder
    from trainer.parallel import World

Logits = NDArray[np.float64]
Choose = Callable[[Logits, int], int]
Show = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Prompt to continue, how far, and how to draw."""

    prompt: str
    tokens: int
    temperature: float = TEMPERATURE
    top_k: int = TOP_K
    seed: int = SEED


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A continuation. `text` is the bytes of `token_ids` as UTF-8; `ended` is one of the reasons in
    `pipeline.formats.samples`."""

    model: str
    revision: str
    weights_digest: str
    prompt: str
    text: str
    token_ids: list[int]
    ended: str


def sample(state: State, request: Request, show: Show) -> Sample:
    """Continue `request.prompt` with one state of a model; `show` gets it, then each piece as it comes."""
    tokenizer = state.release.file(TOKENIZER)
    prompt = encode(tokenizer, request.prompt)
    if len(prompt) > state.spec.context:
        raise EverystepError(
            f"--prompt: {len(prompt)} tokens do not fit the context of {state.model}, {state.spec.context}; shorten it"
        )
    told: Sample = launch(_sample, 1, state.record.numerics.name, state, tokenizer, prompt, request, show)
    return told


def _sample(world: "World", state: State, tokenizer: Path, prompt: list[int], request: Request, show: Show) -> Sample:
    """Sample, once the process is in its numerics class."""
    from trainer.model import Decoder, load_tensors

    model = Decoder(state.spec).to(world.device)
    load_tensors(model, state.weights())
    texts, end = token_texts(tokenizer), end_token(tokenizer)
    written, token_ids = codecs.getincrementaldecoder("utf-8")("replace"), []
    pieces: list[str] = []
    show(request.prompt)
    for token in written_tokens(model, prompt, len(texts), end, request):
        token_ids.append(token)
        pieces.append(written.decode(texts[token]))
        show(pieces[-1])
    pieces.append(written.decode(b"", final=True))
    show(pieces[-1])
    return Sample(
        model=state.record.model,
        revision=state.record.revision,
        weights_digest=state.record.weights_digest,
        prompt=request.prompt,
        text="".join(pieces),
        token_ids=token_ids,
        ended=reason_to_end(token_ids, end, request.tokens),
    )


def written_tokens(model: "Decoder", prompt: list[int], vocabulary: int, end: int, request: Request) -> Iterator[int]:
    """Yield what a model writes after a prompt, to the end token, the end of the context, or as far as asked."""
    choose = partial(draw, temperature=request.temperature, top_k=request.top_k, seed=request.seed)
    for token in islice(continuation(model, prompt, vocabulary, choose), request.tokens):
        yield token
        if token == end:
            return


def continuation(model: "Decoder", prompt: list[int], vocabulary: int, choose: Choose) -> Iterator[int]:
    """Yield the tokens after the prompt until the context is full, each `choose(logits_V, position)`.

    A row of training has `context + 1` ids, so the last token is at position `context`. Ids from `vocabulary` on only
    pad the embedding; they have no text and are never chosen.
    """
    import torch

    from trainer.model import Cache

    cache, token = Cache(), prompt[-1]
    device = model.embedding.weight.device
    with torch.no_grad():
        if len(prompt) > 1:
            model.hidden(torch.tensor([prompt[:-1]], device=device), cache)
    for position in range(len(prompt), model.spec.context + 1):
        with torch.no_grad():
            logits_V = model(torch.tensor([[token]], device=device), cache)[0, -1, :vocabulary]
        token = choose(logits_V.double().cpu().numpy(), position)
        yield token


def draw(logits_V: Logits, position: int, *, temperature: float, top_k: int, seed: int) -> int:
    """Draw one of the `top_k` likeliest tokens by softmax(logits / temperature); of equal logits the lower id is first.

    The uniform number is the first 53 bits of Philox (Salmon et al., 2011) keyed by (seed, position).
    """
    if not np.isfinite(logits_V).all():
        raise EverystepError("the logits of this checkpoint are not finite: the training had diverged there")
    if temperature == 0:
        return int(logits_V.argmax())
    likeliest = np.argsort(-logits_V, kind="stable")[:top_k]
    weights = np.exp((logits_V[likeliest] - logits_V[likeliest[0]]) / temperature).cumsum()
    key: Any = np.array([seed, position], dtype=np.uint64)
    uniform = (int(np.random.Philox(key=key).random_raw()) >> 11) * 2.0**-53
    return int(likeliest[np.searchsorted(weights, uniform * weights[-1], side="right")])


def encode(tokenizer_json: Path, text: str) -> list[int]:
    """Encode a prompt. An empty one is the beginning of a document, which follows an end token."""
    if not text:
        return [end_token(tokenizer_json)]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EverystepError(f"--prompt: not UTF-8: {error.reason}") from error
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EverystepError(f"--prompt: needs the library tokenizers; {how_to_install('train')}") from error
    ids: list[int] = Tokenizer.from_file(str(tokenizer_json)).encode(text, add_special_tokens=False).ids
    return ids
