"""The papers of a release: each a pure function of its facts.

The stage `release` writes them and `verify` renders them again, so that none can say what the manifests do not. A new
paper is one line here and its function.
"""

from collections.abc import Callable

from pipeline.release.card import write_card, write_notice
from pipeline.release.facts import Facts
from pipeline.release.plot import draw_losses

PAPERS: dict[str, Callable[[Facts], bytes]] = {
    "README.md": write_card,
    "NOTICE": write_notice,
    "loss.svg": draw_losses,
}
"""Name of a paper → the function that renders it."""
