"""Pieces of a long computation, each kept in a folder when it is complete, so that any number of processes share the
work and a killed one loses only the piece that it was at.

What is in a piece does not depend on who computes it, or when.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.files import atomic_writer
from pipeline.base.locks import Busy, in_turn, only_one

Piece = dict[str, NDArray[Any]]


def compute(folder: Path, pieces: Mapping[str, Callable[[], Piece]], done: Callable[[str], None]) -> None:
    """Compute the pieces that are missing: first those at which no other process is, then whatever is left by them.

    On return all of them are there. `done` is called for each, when it is.
    """
    said = set()
    for waits in (False, True):
        for name, piece in pieces.items():
            path = folder / f"{name}.npz"
            if not path.exists():
                busy = f"{name}: another process computes it; waiting"
                try:
                    with (in_turn if waits else only_one)(folder / f"{name}.lock", busy):
                        if not path.exists():
                            _keep(path, piece())
                except Busy:
                    continue
            if name not in said:
                said.add(name)
                done(name)


def read(folder: Path, name: str) -> Piece:
    """Read a piece that is there."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _keep(path: Path, piece: Piece) -> None:
    arrays: Any = piece
    with atomic_writer(path) as file:
        np.savez(file, **arrays)
