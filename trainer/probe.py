"""The probe: the validation loss of every stored checkpoint, computed again from the very files of a release.

A digest says that a file is the one that was listed; only a loss says that it is a model that works. The rows, their
number and the micro-batch are those of the evaluation in the release, and so are the bits, in the same numerics class.
In the class `native` another processor may round differently: there a loss may differ by `TOLERANCE` of itself.
"""

from collections.abc import Iterator

from pipeline.base.paths import TOKENIZER, TOKENS
from pipeline.formats import checkpoints as ck
from pipeline.formats.manifests import Evaluated, Tokens
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.release import Release
from trainer.evaluate import result_of, sum_nats, validation_rows
from trainer.launch import default_processes, launch
from trainer.recipe import load_recipe

TOLERANCE = 1e-4


def probe(release: Release, model: str) -> Iterator[str]:
    """Compute the losses of a model's checkpoints, and yield each that is not the one in its evaluation."""
    release.file(f"recipes/{model}.yaml")
    recipe, spec = load_recipe(model, release.folder)
    evaluated, tokens = release.manifest(Evaluated, model), release.manifest(Tokens)
    for shard in tokens.shards("validation"):
        release.file(TOKENS / shard.path)
    rows = validation_rows(tokens, evaluated.parameters.rows, release.folder / TOKENS)
    states = list(release.states(model).values())
    folders = [state.file(ck.RECORD).parent for state in states]
    for state in states:
        state.file(ck.WEIGHTS)
    micro_batch = evaluated.parameters.micro_batch
    processes = default_processes(recipe.data.num_leaves)
    nats = launch(sum_nats, processes, recipe.numerics, model, spec, folders, rows, micro_batch)
    targets = rows[:, 1:]
    num_bytes = int(token_bytes(release.file(TOKENIZER))[targets].sum())
    allowed = 0.0 if recipe.numerics == "portable" else TOLERANCE
    for folder, total, logged in zip(folders, nats, evaluated.results, strict=True):
        found = result_of(folder, total, targets.size, num_bytes)
        near = found.revision == logged.revision and abs(found.loss - logged.loss) <= allowed * abs(logged.loss)
        if not (near if allowed else found == logged):
            yield (
                f"{folder}: the validation loss of its weights is {found.loss}, "
                f"{evaluated.path} says {logged.loss} for {logged.revision}"
            )
