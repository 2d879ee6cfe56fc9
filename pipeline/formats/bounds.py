"""Upper bounds for the numbers of recipes and manifests, far above any model that was ever published.

A number from outside decides how long something runs or how much memory it takes; without a bound it could stop any
reader.
"""

MAX_STEPS = 10**9
MAX_CHECKPOINTS = 100_000
MAX_GLOBAL_BATCH = 1 << 20
MAX_CONTEXT = 1 << 20
MAX_ROWS = 1 << 40
MAX_PASSES = 10_000
"""Passes over all rows that a training may make, if the steps that read a document are listed."""
MAX_READS = 1 << 24
"""Reads of one document's rows that are listed at most."""
MAX_LAYERS = 1024
MAX_VOCABULARY = 1 << 24
MAX_WIDTH = 1 << 20
MAX_FFN_WIDTH = 1 << 24
