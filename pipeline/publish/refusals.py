"""Why a release may not go out. `everystep publish` goes on only if there is no reason.

The bytes are what `verify` checks: every file, the chain of manifests, and of every model and step the tensors, the
log, the parents and the displacement of the weights. Here is what a release alone cannot show: that its licences are
allowed, that the project it was built from is committed as it is, and that commit and lock are signed.
"""

import hashlib
from collections.abc import Iterator

from pipeline.audit.signed import DATA
from pipeline.audit.verify import verify
from pipeline.base.errors import EverystepError
from pipeline.base.paths import MANIFESTS, TOKENIZER
from pipeline.build.git import git, try_git
from pipeline.formats.canonical import parse
from pipeline.formats.manifests import Tokens
from pipeline.formats.model import ModelSpec
from pipeline.formats.release import ROOT, SIGNATURES
from pipeline.formats.stages import manifest_path
from pipeline.formats.vocabulary import token_texts
from pipeline.release.release import Release

LOCK = "dvc.lock"


def refusals(release: Release) -> Iterator[str]:
    """Each reason, as a sentence that names the file and the fix."""
    report = verify(release.folder)
    yield from report.faults
    for path in [*report.links, *report.others]:
        yield f"{path}: is no file of the release; remove it"
    if report.faults:
        return  # what follows reads these files
    yield from _licenses(release)
    yield from _vocabularies(release)
    try:
        committed(release)
    except EverystepError as error:
        yield str(error)


def unsigned(release: Release) -> Iterator[str]:
    """Why the signatures do not say what a publication needs: one signer of every byte, and of data and all models
    with the commit that the project is at."""
    report = verify(release.folder)
    yield from report.faults
    signatures, commit, every = report.signatures, committed(release), {DATA, *release.models()}
    if report.faults or signatures is None:
        return
    if not signatures.signers:
        yield f"{release.folder / SIGNATURES}: nobody has signed; give --key, or run `everystep sign`"
        return
    for signer in signatures.signers:
        named = {claim.about for claim in signatures.claims if claim.key == signer.key and claim.commit == commit}
        if named >= every:
            return
    yield f"{release.folder / SIGNATURES}: nobody has signed data and models with commit {commit}; sign again"


def committed(release: Release) -> str:
    """The commit that the project of a release stands at, whose tree is clean and names this very release."""
    project = release.folder.resolve().parent
    if try_git(project, "rev-parse", "--show-toplevel").returncode:
        raise EverystepError(f"{release.folder}: is not in a Git repository; publish from the project that built it")
    changed = git(project, "status", "--porcelain")
    if changed:
        files = ", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines()[:5])
        raise EverystepError(f"{project}: has changes that are not committed ({files}); commit them, or undo them")
    path = manifest_path("release").as_posix()
    shown = try_git(project, "show", f"HEAD:./{path}")
    if shown.returncode:
        raise EverystepError(f"{project / path}: is not committed; commit {MANIFESTS}/ and {LOCK}")
    manifest = parse(shown.stdout.encode(), project / path)
    promised = manifest.get("root_sha256") if isinstance(manifest, dict) else None
    if promised != hashlib.sha256((release.folder / ROOT).read_bytes()).hexdigest():
        raise EverystepError(f"{project / path}: names another release than {release.folder}; run `make release`")
    return git(project, "rev-parse", "HEAD")


def _licenses(release: Release) -> Iterator[str]:
    """The licence of every document that went in is one that the filter allows."""
    allowed = release.params().get("filter", {}).get("licenses", [])
    tokens = release.manifest(Tokens)
    for split in ("train", "validation"):
        for license in getattr(tokens.splits, split).documents_by_license:
            if license not in allowed:
                yield f"{tokens.path}: {split} holds documents under {license}, which filter.licenses does not list"


def _vocabularies(release: Release) -> Iterator[str]:
    """Tokenizer, rows and weights agree on the number of tokens."""
    tokens, texts = release.manifest(Tokens), token_texts(release.file(TOKENIZER))
    if len(texts) != tokens.vocabulary:
        yield f"{TOKENIZER}: has {len(texts)} tokens, {tokens.path} says {tokens.vocabulary}"
    for name in release.models():
        model = release.model(name)
        spec = ModelSpec.from_json(model.model, str(model.path))
        if spec.vocabulary < tokens.vocabulary:
            yield f"{model.path}: its embedding has {spec.vocabulary} rows, the tokenizer {tokens.vocabulary} tokens"
        for entry in model.checkpoints:
            counted = model.parameters.tokens(entry.step)
            if entry.tokens != counted:
                yield f"{model.path}: {entry.revision}: until step {entry.step} the recipe reads {counted} tokens"
