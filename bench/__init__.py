"""One script a claim: `python -m bench.NAME` prints JSON. docs/benchmarks.md has what came out."""
