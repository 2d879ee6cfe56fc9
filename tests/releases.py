"""A release to break: a copy, the command on it, and an attacker who makes every digest fit again."""

import contextlib
import hashlib
import io
import json
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.files import list_files, sha256_file
from pipeline.base.yaml import load_yaml
from pipeline.cli import program
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import canonical, pretty
from pipeline.formats.digests import tensors_digest
from pipeline.formats.lines import LineFile, Shard
from pipeline.formats.log import as_csv
from pipeline.formats.manifests import KINDS, Coverage
from pipeline.formats.release import (
    REVISIONS,
    ROOT,
    SUMS,
    ListedFile,
    content_digest,
    contents_digest,
    is_listed,
    kind_of,
)
from pipeline.formats.stages import COUNTED, OF_FORKS, STAGES, output_folder
from pipeline.formats.tables import DOCUMENT_INDEX, digest_table, group_digests
from pipeline.release.disclosures.evidence import Evidence, described, gather_evidence
from pipeline.release.facts import Facts, gather
from pipeline.release.papers import PAPERS
from pipeline.release.release import Release

ORDER = [stage.manifest for stage in (*OF_FORKS, *STAGES, *COUNTED)]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


def everystep(*arguments: str | Path) -> Done:
    """Run a command in this process. An exception that the command does not handle fails the test: a traceback."""
    out, err, argv, on_pipe = io.StringIO(), io.StringIO(), sys.argv, signal.getsignal(signal.SIGPIPE)
    sys.argv = ["everystep", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    finally:
        sys.argv = argv
        signal.signal(signal.SIGPIPE, on_pipe)
    return Done(code, out.getvalue(), err.getvalue())


def copied(release: Path, folder: Path) -> Path:
    """A copy whose files share nothing with the DVC cache and may be written."""
    shutil.copytree(release, folder, copy_function=shutil.copyfile)
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def unsealed(folder: Path, version: str = "1") -> Release:
    """A folder as a release of just the files that are there, whatever a root manifest says."""
    listed = [path for path in list_files(folder) if is_listed(path)]
    files = {
        path: ListedFile(kind=kind_of(path), digest=content_digest(folder / path, kind_of(path))) for path in listed
    }
    return Release(folder, folder.name, version, files)


def facts_of(folder: Path) -> Facts:
    """The facts of a release."""
    release = Release.open(folder)
    return gather(release, release.manifest(Coverage))


def evidence_of(folder: Path) -> Evidence:
    """The evidence of a folder as it is, whatever its lists promise."""
    release = unsealed(folder)
    sums = {path: sha256_file(folder / path) for path in described(release)}
    return gather_evidence(release, release.manifest(Coverage), sums, contents_of(release.files))


def contents_of(files: Mapping[str, ListedFile]) -> str:
    """The contents digest of a release with these files."""
    return contents_digest({path: file for path, file in files.items() if path not in PAPERS})


def shards_of(tree: Any, output: str) -> list[Shard]:
    """The shards of one output of a manifest."""
    return [Shard.from_json(shard, output) for shard in tree["outputs"][output]]


def write_json(path: Path, tree: Any) -> None:
    path.write_bytes(pretty(tree))


def flip(path: Path, place: float, bit: int = 0) -> None:
    """Change one bit of a file; `place` is a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(bytes(content))


def reseal(release: Path) -> None:
    """Recompute what a release says of its own bytes, as an attacker would: manifests, lock, root and SHA256SUMS."""
    paths = [path for path in list_files(release) if path.startswith("manifests/")]
    for path in sorted(paths, key=lambda path: ORDER.index(path.split("/")[1].removesuffix(".json"))):
        tree = read_json(release / path)
        tree["inputs"] = {name: _digest(release / name, old) for name, old in tree["inputs"].items()}
        for output, shards in tree["outputs"].items():
            if output in KINDS[tree["stage"]].shipped:
                for shard in shards:
                    place = release / output_folder(tree["stage"], tree["of"]) / shard["path"]
                    shard |= _measured(place)
                    if shard.get("groups") and place.is_file():
                        shard["groups"] = group_digests(place, DOCUMENT_INDEX)
        write_json(release / path, tree)
    _relock(release)
    _redigest_croissant(release)
    root = read_json(release / ROOT)
    _redigest_card(release, root["files"])
    listed = [path for path in list_files(release) if is_listed(path) and not (release / path).is_symlink()]
    root["files"] = {
        path: {"digest": content_digest(release / path, kind_of(path)), "kind": kind_of(path)} for path in listed
    }
    write_json(release / ROOT, root)
    reseal_sums(release)


def reseal_with_page(release: Path) -> None:
    """Reseal, and let the page of the report say what the manifests say now."""
    reseal(release)
    name = "report/index.html"
    (release / name).write_bytes(PAPERS[name](evidence_of(release)))
    reseal(release)


def _redigest_croissant(release: Path) -> None:
    """Let `croissant.json` have the digests of the files as they are."""
    path = release / "croissant.json"
    if path.is_file():
        text = path.read_text()
        for file in json.loads(text).get("distribution", []):
            place = release / str(file.get("contentUrl"))
            if "sha256" in file and place.is_file():
                text = text.replace(file["sha256"], sha256_file(place))
        path.write_text(text)


def _redigest_card(release: Path, before: Any) -> None:
    """Let card and page have the contents digest of the files as they are."""
    old = contents_of({path: ListedFile.from_json(file, path) for path, file in before.items()})
    new = contents_of(unsealed(release).files)
    for paper in (release / "README.md", release / "report" / "index.html"):
        if paper.is_file():
            paper.write_text(paper.read_text().replace(old, new))


def reseal_file(release: Path, path: str) -> None:
    """Recompute the root manifest's entry of one file, and SHA256SUMS."""
    root = read_json(release / ROOT)
    root["files"][path] = {"digest": content_digest(release / path, kind_of(path)), "kind": kind_of(path)}
    write_json(release / ROOT, root)
    reseal_sums(release)


def reseal_sums(release: Path) -> None:
    """Recompute SHA256SUMS alone."""
    paths = [path for path in list_files(release) if path != SUMS and (release / path).is_file()]
    (release / SUMS).write_text("".join(f"{sha256_file(release / path)}  {path}\n" for path in paths))


def reseal_model(release: Path, model: str) -> None:
    """Recompute records, the chain of parents, the model's manifest and the revisions from the tensors as they lie."""
    folder = release / "runs" / model
    parent = None
    records = []
    for step, checkpoint in ck.find_checkpoints(folder):
        weights, moments = (tensors_digest(ck.read_tensors(checkpoint / name)) for name in (ck.WEIGHTS, ck.OPTIMIZER))
        state = ck.state_digest(weights, moments, step)
        old = ck.read_record(checkpoint)
        new: dict[str, Any] = {
            "weights_digest": weights,
            "optimizer_digest": moments,
            "state_digest": state,
            "parent": parent,
        }
        records.append(old.model_copy(update=new))
        ck.write_record(checkpoint, records[-1])
        parent = state
    path = release / "manifests" / "models" / f"{model}.json"
    manifest = read_json(path)
    keys = manifest["checkpoints"][0].keys()
    manifest["checkpoints"] = [{key: record.to_json()[key] for key in keys} for record in records]
    write_json(path, manifest)
    lines = [json.loads(line) for line in (release / REVISIONS).read_text().splitlines()]
    known = {record.step: record.to_json() for record in records}
    lines = [line if line["model"] != model else {key: known[line["step"]][key] for key in line} for line in lines]
    (release / REVISIONS).write_bytes(b"".join(canonical(line) + b"\n" for line in lines))


def edit_log(release: Path, model: str, edit: Any) -> None:
    """`edit` gets the list of entries (dicts) of a released log and changes it in place; the table follows."""
    path = release / "runs" / model / "log.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    edit(entries)
    path.write_bytes(b"".join(canonical(entry) + b"\n" for entry in entries))
    path.with_suffix(".csv").write_bytes(as_csv(entries))


def swap(one: Path, other: Path) -> None:
    """Exchange two files or folders."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def checkpoint(release: Path, model: str, step: int) -> Path:
    return dict(ck.find_checkpoints(release / "runs" / model))[step]


def _relock(release: Path) -> None:
    """Recompute `dvc.lock`: the sections of `params.yaml`, and the MD5 of what the release holds as a whole."""
    path = release / "dvc.lock"
    if not path.is_file() or path.is_symlink():
        return
    tree, params = read_json(path), load_yaml(release / "params.yaml")
    for entry in tree["stages"].values():
        for sections in [entry.get("params", {}).get("params.yaml", {})]:
            sections.update({key: _section(params, key) for key in sections})
        for about in (*entry.get("deps", []), *entry["outs"]):
            place = release / about["path"]
            if place.is_file() or about["path"].startswith(("data/tokens", "data/tokenizer", "results/", "scores/")):
                about["md5"], about["size"] = _md5(place)
    write_json(path, tree)


def _section(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _md5(place: Path) -> tuple[str, int]:
    """MD5 and size of a file, or of a folder as DVC computes them."""
    if place.is_file():
        return hashlib.md5(place.read_bytes()).hexdigest(), place.stat().st_size
    found = {name: _md5(place / name) for name in list_files(place) if (place / name).is_file()}
    listed = [{"md5": md5, "relpath": name} for name, (md5, _) in found.items()]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir", sum(
        size for _, size in found.values()
    )


def _digest(path: Path, old: str) -> str:
    return sha256_file(path) if path.is_file() else old


def _measured(path: Path) -> dict[str, Any]:
    """Lines, bytes and SHA-256 of the content of a shard, as manifests carry them."""
    if not path.is_file():
        return {}
    if path.name.endswith(".parquet"):
        found = digest_table(path)
    elif path.name.endswith(".zst"):
        with LineFile(path) as file:
            found = file.digest()
    elif path.suffix in (".ids", ".nodes"):  # their lines are rows and nodes, of fixed sizes
        return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    else:
        content = path.read_bytes()
        found = (content.count(b"\n"), len(content), sha256_file(path))
    return dict(zip(("lines", "bytes", "sha256"), found, strict=True))
