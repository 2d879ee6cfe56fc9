"""What the trainer's decoder says after a prompt, kept in a file to be compared with what other programs say."""

from pathlib import Path

import numpy as np
import torch

from trainer.model import Decoder

PROMPT = np.random.default_rng(3).integers(1, 320, 20).tolist()
NUM_TOKENS = 40


@torch.no_grad()
def save_ours(model: Decoder, path: Path) -> None:
    """Keep the logits of the prompt, (T, V), and the prompt with its most likely continuation."""
    ids_BT = torch.tensor([PROMPT])
    logits_TV = model(ids_BT)[0].numpy()
    for _ in range(NUM_TOKENS):
        ids_BT = torch.cat((ids_BT, model(ids_BT)[:, -1:].argmax(-1)), dim=1)
    np.savez(path, ids=ids_BT[0].numpy(), logits=logits_TV)


def require_the_same(ours: Path, theirs: Path, tolerance: float) -> None:
    expected, found = np.load(ours), np.load(theirs)
    assert expected["logits"].std() > 0.5, "weights under which the logits matter"
    np.testing.assert_allclose(found["logits"][:, : expected["logits"].shape[1]], expected["logits"], atol=tolerance)
    assert found["ids"].tolist() == expected["ids"].tolist()
    assert len(set(expected["ids"][-NUM_TOKENS:].tolist())) > 1, "a continuation that moves"
