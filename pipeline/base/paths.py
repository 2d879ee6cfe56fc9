"""Where things lie, relative to a project and, the same, to a release. Stage, module and folder share a name."""

from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")
MANIFESTS = Path("manifests")
RAW = Path("data/raw")
DOCUMENTS = Path("data/documents")
EVALUATION_SETS = Path("data/evaluation_sets")
EVALUATION_NGRAMS = Path("data/evaluation_ngrams")
FILTERED = Path("data/filtered")
DEDUPLICATED = Path("data/deduplicated")
TOKENIZER = Path("data/tokenizer/tokenizer.json")
TOKENS = Path("data/tokens")
PUBLISHED_ROWS = Path("data/llm360")
"""Rows that others published, where a release begins with them."""
RUNS = Path("runs")
RESULTS = Path("results")
RELEASE = Path("release")
WORK = Path(".work")
"""Scratch that survives a kill; never part of a release, never hashed."""

REMOVALS_FILE = "removals.parquet"
REPLACED_FILE = "replaced.parquet"
SPLITS = ("train", "validation")
