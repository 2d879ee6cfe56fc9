"""The state that a training goes on from, if its recipe names one: the right one, of a model of the same shapes."""

from pathlib import Path

from pipeline.base.errors import Differs
from pipeline.base.files import sha256_file
from pipeline.base.paths import PARENT, RECIPES
from pipeline.formats import checkpoints as ck
from pipeline.formats.current import read_current
from pipeline.formats.manifests import BegunFrom, Parent
from pipeline.formats.model import ModelSpec, tensor_shapes
from pipeline.formats.release import ListedFile, kind_of
from pipeline.formats.tensors import TensorFile
from pipeline.release.ancestors import parent_state
from pipeline.release.release import Release
from trainer.recipe import Recipe


def begun_from(release: Release, recipe: Recipe, spec: ModelSpec) -> Path | None:
    """Return the folder of the state that the training of `recipe` goes on from, or None if it begins with new weights.

    The whole chain of files between the state and the root manifest of its release is compared, the weights too.
    """
    if recipe.parent is None:
        return None
    where = f"{RECIPES}/{recipe.name}.yaml"
    begun = BegunFrom.from_json(recipe.parent.model_dump(), where)
    state = parent_state(release, begun, where)
    weights, _ = (release.file(PARENT / state.folder / name) for name in (ck.WEIGHTS, ck.OPTIMIZER))
    require_shapes_of(spec, weights, where)
    return weights.parent


def here() -> Release:
    """Open this project, as far as the current manifest of the stage `parent` promises it."""
    manifest = read_current(Parent)
    promised = {manifest.path.as_posix(): sha256_file(manifest.path)} | manifest.promises()
    files = {path: ListedFile(kind=kind_of(path), digest=digest) for path, digest in promised.items()}
    return Release(Path(), Path().resolve().name, None, files)


def require_shapes_of(spec: ModelSpec, weights: Path, recipe: str) -> None:
    """Compare shapes before a model is built: a recipe could ask for more memory than there is."""
    with TensorFile(weights) as file:
        if file.shapes() != tensor_shapes(spec):
            raise Differs(f"{weights}: these are not the tensors of the model in {recipe}")
