"""Paths of files and folders, relative to a project or, identically, to a release; and the cache of this user."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")
SIZES = Path("sizes.yaml")
"""What a project declares of its corpora before they are fetched; only a plan reads it."""
MANIFESTS = Path("manifests")
RAW = Path("data/raw")
DOCUMENTS = Path("data/documents")
EVALUATION_SETS = Path("data/evaluation_sets")
EVALUATION_NGRAMS = Path("data/evaluation_ngrams")
FILTERED = Path("data/filtered")
DEDUPLICATED = Path("data/deduplicated")
TOKENIZER = Path("data/tokenizer/tokenizer.json")
TOKENS = Path("data/tokens")
SEARCH = Path("data/search")
TASKS = Path("data/tasks")
PUBLISHED_ROWS = Path("data/llm360")
"""Published rows of token ids, if a release begins with them."""
PARENT = Path("data/parent")
"""A sparse copy of the release that this one goes on from: what proves the state that its training began with."""
RUNS = Path("runs")
RESULTS = Path("results")
SCORES = Path("scores")
RELEASE = Path("release")
WORK = Path(".work")
"""Scratch files that survive a kill; never part of a release, never hashed."""

REMOVALS_FILE = "removals.parquet"
REPLACED_FILE = "replaced.parquet"
SPLITS = ("train", "validation")

CACHE = "EVERYSTEP_CACHE"


def cache_folder() -> Path:
    """Where what can be made again is kept: `EVERYSTEP_CACHE`, else `everystep` in the cache of this user.

    That is `XDG_CACHE_HOME`, or `~/.cache` where it is not set or, against the rule, relative.
    """
    if chosen := os.environ.get(CACHE):
        return Path(chosen).absolute()
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "everystep"
