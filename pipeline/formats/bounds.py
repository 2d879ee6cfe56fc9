"""Upper bounds for the numbers of recipes and manifests, far above any model that was ever published.

A number from outside decides how long something runs or how much memory it takes; without a bound it could stop any
reader.
"""

from pipeline.formats.canonical import Json

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


def whole(tree: Json, *keys: str, least: int = 0, most: int) -> int:
    """The whole number under `keys` of a tree from outside; anything else, or one out of bounds, is a `ValueError`.

    Call it under `well_shaped`, which names the file.
    """
    value = tree
    for key in keys:
        value = value[key]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{'.'.join(keys)}: expected a whole number from {least} to {most}, got {value!r:.100}")
    return value
