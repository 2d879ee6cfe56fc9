"""A release small enough to be signed a hundred times, and what its signers leave in it."""

import hashlib
import json
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import canonical, pretty
from pipeline.formats.digests import tensors_digest
from pipeline.formats.manifests import Checkpoint, Code, EvaluationSets, Fetched, Tokens, Trained, digest_of_code
from pipeline.formats.release import ROOT
from pipeline.signing.bundles import signed_bundle
from pipeline.signing.envelopes import sealed
from pipeline.signing.keys import PRIVATE, PrivateKey, key_id, new_keys, read_private
from tests.releases import read_json, reseal_sums, unsealed, write_json
from tests.stubs import least_of, write_stub

CODE = {"trainer/model.py": b"width = 1\n"}
RAW = {"sha256": "1" * 64, "bytes": 3}
SWHID = f"swh:1:dir:{'2' * 40}"
COMMIT = "3" * 40
MODEL = "tiny"


def make_release(folder: Path) -> Path:
    """A release of one source, one model and one checkpoint; its digests are right, and its manifests say little."""
    files = {path: hashlib.sha256(content).hexdigest() for path, content in CODE.items()}
    stages = {"train": {"digest": digest_of_code(files), "files": list(CODE)}}
    write_stub(Code, root=folder, files=files, stages=stages, swhid=SWHID)
    hub = {"kind": "huggingface", "repository": "o/n", "revision": "4" * 40}
    write_stub(Fetched, "tales", root=folder, parameters=hub, files=[RAW | {"path": "rows.jsonl"}])
    package = {"kind": "package", "package": "An.Evaluation", "version": "1.0"}
    write_stub(EvaluationSets, root=folder, parameters=package, files=[RAW | {"path": "a.whl"}])
    write_stub(Tokens, root=folder, width=2, vocabulary=2)
    write_weights(folder, 1.0)
    texts = {"params.yaml": "{}\n", "constraints.txt": "a==1\n", "dvc.lock": "{}\n", "recipes/tiny.yaml": "{}\n"}
    for name, text in (texts | {"data/tokenizer/tokenizer.json": "{}\n", "runs/tiny/log.jsonl": ""}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return sealed_again(folder)


def write_weights(folder: Path, value: float) -> None:
    """The one checkpoint, and the manifest that names it."""
    weights: ck.Tensors = {"w": np.full(2, value, np.float32)}
    path = folder / "runs" / MODEL / ck.revision(0, 0) / ck.WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    ck.write_tensors(path, weights)
    entry = {"revision": path.parent.name, "weights_digest": tensors_digest(weights), "storage": "stored"}
    checkpoint = least_of(Checkpoint) | entry
    write_stub(Trained, MODEL, root=folder, checkpoints=[checkpoint])


def write_states(folder: Path, steps: Sequence[int], model: str, numerics_class: str = "portable") -> None:
    """The manifest of a model with states at these steps, whose files are not there."""
    entries = []
    for step in steps:
        digests = {"weights_digest": f"tensors-v1:{step:064x}", "state_digest": f"tensors-v1:{step + 1000:064x}"}
        entries.append(least_of(Checkpoint) | {"revision": ck.revision(step, step), "step": step, **digests})
    numerics = least_of(ck.Numerics) | {"class": numerics_class}
    parameters = {"digest_every": 2, "name": model}
    write_stub(Trained, model, root=folder, parameters=parameters, checkpoints=entries, numerics=numerics)


def sealed_again(folder: Path) -> Path:
    """The release with the digests of the files that are there."""
    files = {path: file.to_json() for path, file in unsealed(folder).files.items()}
    write_json(folder / ROOT, {"format": "everystep/release/3", "name": "small", "version": "1", "files": files})
    reseal_sums(folder)
    return folder


def make_key(folder: Path) -> tuple[PrivateKey, str]:
    """A new key and its id."""
    made = new_keys(folder)
    return read_private(folder / PRIVATE, lambda: b""), made


def payload_of(path: Path) -> Any:
    """The statement in an envelope or a bundle, whoever signed it."""
    tree = read_json(path)
    return json.loads(b64decode(tree.get("dsseEnvelope", tree)["payload"]))


def sign_statement(path: Path, statement: Any, key: PrivateKey) -> None:
    """Sign any statement, as its owner may."""
    path.write_bytes(pretty(sealed(canonical(statement), key, key_id(key.public_key()))))


def sign_bundle(path: Path, statement: Any, key: PrivateKey) -> None:
    """Sign any statement as a bundle."""
    tree = json.loads(signed_bundle("x", {"x": "0" * 64}, key))
    tree["dsseEnvelope"] = sealed(json.dumps(statement).encode(), key, "")
    path.write_text(json.dumps(tree))
