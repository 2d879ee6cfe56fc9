"""A project seen as a release: its trained models, promised by its own manifests instead of a root manifest.

So a builder looks at what was trained before anything is released, through the same checks, and so does an auditor of
a training on rows that others published, which has no release. Listed are the recipe, the log and the files behind
the checkpoints of every trained model, the tokenizer and the rows; what there is none of is not listed.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import Differs, EverystepError, well_shaped
from pipeline.base.files import safe_join, sha256_file
from pipeline.base.paths import MANIFESTS, RECIPES, RUNS, TOKENIZER, TOKENS
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json
from pipeline.formats.manifests import read_manifest, shards_of
from pipeline.formats.release import ROOT, kind_of, read_root
from pipeline.formats.stages import manifest_path


def root_of(folder: Path, follow_links: bool = False) -> dict[str, Json]:
    """The root manifest of a release, or what one would promise of a project's trained models."""
    if (folder / ROOT).exists():
        return read_root(folder, follow_links)
    models = sorted(path.stem for path in (folder / MANIFESTS / "models").glob("*.json"))
    trained = [model for model in models if (folder / RUNS / model).is_dir()]
    if not trained:
        raise EverystepError(f"{folder}: neither a release nor a project that has trained a model (`dvc repro`)")
    promised = dict([*_tokenizer(folder), *_rows(folder)])
    for model in trained:
        promised |= _model(folder, model)
    files = {path: {"digest": digest, "kind": kind_of(path)} for path, digest in promised.items()}
    return {"name": folder.resolve().name, "version": None, "files": files}


def _tokenizer(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / manifest_path("tokenizer")
    if path.is_file():
        with well_shaped(path):
            for file in read_manifest(path, "tokenizer")["files"]:
                yield (TOKENIZER.parent / file["path"]).as_posix(), file["sha256"]


def _rows(folder: Path) -> Iterator[tuple[str, str]]:
    """Our own rows; those of others are promised by the manifests of the models that read them."""
    path = manifest_path("tokenize")
    if (folder / path).is_file():
        yield path.as_posix(), sha256_file(folder / path)
        for shard in shards_of(read_manifest(folder / path, "tokenize"), "train"):
            yield (TOKENS / shard.path).as_posix(), shard.sha256


def _model(folder: Path, model: str) -> Iterator[tuple[str, str]]:
    """Weights by the digest in the manifest; a record by its own, once it tells what the manifest tells."""
    path = manifest_path("train", model)
    yield path.as_posix(), sha256_file(folder / path)
    with well_shaped(folder / path):
        manifest = read_manifest(folder / path, "train")
        recipe = (RECIPES / f"{model}.yaml").as_posix()
        yield recipe, manifest["inputs"][recipe]
        yield from (((RUNS / model / shard.path).as_posix(), shard.sha256) for shard in shards_of(manifest, "log"))
        for entry in manifest["checkpoints"]:
            state = RUNS / model / ck.revision(entry["step"], entry["tokens"])
            record = ck.read_record(safe_join(folder, state.as_posix())).to_json()
            if {key: record[key] for key in entry} != entry:
                raise Differs(f"{folder / state}: not the checkpoint that {path} promises; run `dvc repro`")
            yield (state / ck.WEIGHTS).as_posix(), entry["weights_digest"]
            yield (state / ck.OPTIMIZER).as_posix(), record["optimizer_digest"]
            yield from (
                ((state / name).as_posix(), sha256_file(folder / state / name)) for name in (ck.RECORD, ck.CONFIG)
            )
