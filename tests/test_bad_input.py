"""Bad input: a message that names file, key and fix, exit code 2 (1 where bytes differ), and nothing half-written."""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.console import exit_codes
from pipeline.base.files import list_files, sha256_file
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.stages.programs import run_stage
from tests.pipeline.sources.test_hostile import zst_of_zeros
from tests.project import BIN, ROOT, built, environment, params, recipe, repro, run
from tests.releases import copied, read_json, write_json
from tests.servers.loopback import Handler, serve

PARAMS = "params.yaml"
LATE = ("evaluate", "release")
Change = Callable[[dict[str, Any]], Any]


def stage(folder: Path, name: str, *of: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a stage of this checkout in `folder`, as dvc.yaml does."""
    one = {"PYTHONPATH": str(ROOT), "EVERYSTEP_WORKERS": "1", "EVERYSTEP_PROCESSES": "1"}
    return run(folder, sys.executable, "-m", "pipeline.stages", name, *of, check=False, **(one | env))


def expect_refusal(done: subprocess.CompletedProcess[str], *named: str, codes: tuple[int, ...] = (2,)) -> None:
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr
    for name in named:
        assert name in done.stderr


def put(key: str, value: Any) -> Change:
    """A change of a tree: set `a.b.c`."""

    def change(tree: dict[str, Any]) -> None:
        *path, last = key.split(".")
        for part in path:
            tree = tree[part]
        tree[last] = value

    return change


def drop(key: str) -> Change:
    def change(tree: dict[str, Any]) -> None:
        *path, last = key.split(".")
        for part in path:
            tree = tree[part]
        del tree[last]

    return change


def files_in(folder: Path) -> list[str]:
    return [path for path in list_files(folder) if "__pycache__" not in path]


# params.yaml

LETTERS = "sources.letters"
SAID = {"title": "Nobody's", "issuer": "nobody", "evidence": "none"}
HUGGINGFACE = {"kind": "huggingface", "repository": "a/b", "split": "train"}


def as_huggingface(**more: str) -> Change:
    def change(tree: dict[str, Any]) -> None:
        kept = {key: value for key, value in tree["sources"]["letters"].items() if key not in ("url", "sha256")}
        tree["sources"]["letters"] = kept | HUGGINGFACE | more

    return change


@pytest.mark.parametrize(
    ("change", "of", "named"),
    [
        (put("sorces", {}), "fetch letters", "sorces: unknown section"),
        (drop("dedup"), "fetch letters", "dedup: missing"),
        (put("sources", {}), "fetch letters", "sources: declare at least one"),
        (put("sources", ["letters"]), "fetch letters", "sources: declare at least one"),
        (put(LETTERS, None), "fetch letters", "sources.letters"),
        (drop(f"{LETTERS}.kind"), "fetch letters", "sources.letters.kind: expected one of package, url, huggingface"),
        (put(f"{LETTERS}.licence", "MIT"), "fetch letters", "sources.letters.licence: unknown key"),
        (drop(f"{LETTERS}.license"), "fetch letters", "sources.letters.license: missing"),
        (drop(f"{LETTERS}.sha256"), "fetch letters", "sources.letters.sha256: missing; pin"),
        (put(f"{LETTERS}.sha256", "ABC"), "fetch letters", "sources.letters.sha256: expected 64 lowercase hex digits"),
        (put(f"{LETTERS}.cap_bytes", "10"), "fetch letters", "sources.letters.cap_bytes"),
        (put(f"{LETTERS}.priority", 1.5), "fetch letters", "sources.letters.priority"),
        (put(f"{LETTERS}.languages", "en"), "fetch letters", "sources.letters.languages"),
        (put(f"{LETTERS}.reader", "pdf"), "fetch letters", "sources.letters.reader"),
        (put(f"{LETTERS}.package", "demo"), "fetch letters", "sources.letters.package: unknown key"),
        (put(f"{LETTERS}.url", "http::file:///etc/passwd"), "fetch letters", "sources.letters.url"),
        (as_huggingface(), "fetch letters", "sources.letters.revision: missing; pin the 40 hex digits"),
        (as_huggingface(revision="main"), "fetch letters", "sources.letters.revision: 'main' is a name that can move"),
        (as_huggingface(url="file:///x"), "fetch letters", "sources.letters.url: unknown key"),
        (put("filter.language.min_probability", 2.0), "filter letters", "filter.language.min_probability"),
        (put("filter.gopher_quality.min_doc_words", "20"), "filter letters", "filter.gopher_quality.min_doc_words"),
        (put("filter.gopher_quality.min_wrods", 2), "filter letters", "filter.gopher_quality.min_wrods: unknown key"),
        (put("evaluation_sets.words", 0), "evaluation_sets", "evaluation_sets.words"),
        (put("evaluation_sets.artefact.kind", "git"), "evaluation_sets", "evaluation_sets.artefact"),
        (put("evaluation_sets.artefact.sha256", ""), "evaluation_sets", "evaluation_sets.artefact.url.sha256: missing"),
        (put("evaluation_sets.sets", {}), "evaluation_sets", "evaluation_sets.sets"),
        (put("dedup.validation_share", 0), "dedup", "dedup.validation_share"),
        (put("dedup.seed", -1), "dedup", "dedup.seed"),
        (put("dedup.seed", 2**53 - 1), "dedup", "manifests/filtered/letters.json: no such file"),
        (put("tokenizer.vocabulary", 100), "tokenizer", "tokenizer.vocabulary"),
        (put("tokenize.context", 0), "tokenize", "tokenize.context"),
        (put("tokenize.context", True), "tokenize", "tokenize.context"),
        (put("models", ["mobilellm", "mobilellm"]), "release", "models: list each model once"),
        (put("models", []), "release", "models: list at least one model"),
        (put("release.name", "../x"), "release", "release.name"),
        (put("release.version", 1.0), "release", "release.version"),
        (put("release.version", " 1"), "fetch letters", "release.version: begins or ends with a blank"),
        (put("release.title", "one\ntwo"), "fetch letters", "release.title: is more than one line"),
        (put("release.license", "MIT\nOR ISC"), "release", "release.license: 'MIT\\nOR ISC' is not an SPDX expression"),
        (put("descriptions", []), "fetch letters", "descriptions: input should be a valid dictionary"),
        (put("descriptions.letters.titel", "x"), "fetch letters", "descriptions.letters.titel: unknown key"),
        (drop("descriptions.letters.issuer"), "fetch letters", "descriptions.letters.issuer: missing; add it"),
        (drop("descriptions.notes"), "fetch letters", "descriptions.notes: missing; say its title, issuer and"),
        (put("descriptions.nobody", SAID), "fetch letters", "descriptions.nobody: there is no such source; remove it"),
        (put(f"{LETTERS}.title", "x"), "fetch letters", "sources.letters.title: unknown key"),
        (lambda tree: None, "fetch nonsense", "sources.nonsense: not declared; there are letters, notes, tales"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_params_that_are_wrong_are_refused_by_file_and_key(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch, change: Change, of: str, named: str
) -> None:
    tree = params(corpora)
    change(tree)
    (tmp_path / PARAMS).write_bytes(pretty(tree))
    expect_refusal_in_process(
        tmp_path, monkeypatch, of, named if named.startswith("manifests") else f"{PARAMS}: {named}"
    )


def expect_refusal_in_process(folder: Path, monkeypatch: pytest.MonkeyPatch, of: str, named: str) -> None:
    """The entry point of the stages, without the cost of a process; it never gets as far as to do anything."""
    before = files_in(folder)
    monkeypatch.chdir(folder)
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end, exit_codes():
        run_stage(*of.split())
    assert end.value.code == 2
    assert named in err.getvalue()
    assert files_in(folder) == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"models: [a]\nmodels: [b]\n", "params.yaml: not valid YAML"),
        (b"models: &x [a]\nsources: *x\n", "params.yaml: aliases are not supported"),
        (b"dedup: {max_removed_share: .nan}\n", "params.yaml: dedup.max_removed_share"),
        (b"dedup: {max_removed_share: .inf}\n", "params.yaml: dedup.max_removed_share"),
        (b"- a\n- b\n", "params.yaml: expected a mapping"),
        (b"", "params.yaml: expected a mapping"),
        (b"a: [\n", "params.yaml: not valid YAML"),
        (b"a: \xe9\n", "params.yaml: not valid YAML"),
        (b"a: !!python/object/apply:os.system ['touch x']\n", "params.yaml: not valid YAML"),
    ],
)
def test_params_that_are_no_strict_yaml_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, named: str
) -> None:
    (tmp_path / PARAMS).write_bytes(text)
    expect_refusal_in_process(tmp_path, monkeypatch, "fetch letters", named)


@pytest.mark.parametrize(("name", "read_as"), [("2024", "2024"), ("1.5", "1.5"), ("true", "True"), ("~", "None")])
def test_a_source_whose_name_is_no_text_is_refused_with_the_fix(
    tmp_path: Path, corpora: Path, name: str, read_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = pretty(params(corpora)).decode()
    (tmp_path / PARAMS).write_text(text.replace('"letters": {', f"{name}: {{"))
    expect_refusal_in_process(
        tmp_path, monkeypatch, f"fetch {name}", f"the key {read_as} is not text; put it in quotes"
    )


def test_a_folder_without_params_says_so(tmp_path: Path) -> None:
    expect_refusal(stage(tmp_path, "fetch", "letters"), "params.yaml: no such file")
    expect_refusal(
        stage(tmp_path, "fetch"), "stage fetch: runs for each source; usage: ", "pipeline.stages fetch SOURCE"
    )
    expect_refusal(stage(tmp_path, "dedup", "letters"), "stage dedup: runs once; usage: ")
    expect_refusal(
        stage(tmp_path, "fetsh", "letters"), "usage: python -m pipeline.stages NAME [OF]; NAME is one of code, "
    )
    assert list(tmp_path.iterdir()) == []


# Recipes


@pytest.fixture
def project(built_project: Path, tmp_path: Path) -> Path:
    """What was built, without DVC, as files of its own."""
    folder = tmp_path / "project"
    for name in ("data", "manifests", "recipes", "results", "runs", "scores", "trainer/remote"):
        shutil.copytree(built_project / name, folder / name, copy_function=shutil.copyfile)
    for name in (PARAMS, "constraints.txt", "LICENSE", "dvc.lock"):
        shutil.copyfile(built_project / name, folder / name)
    return folder


@pytest.fixture
def trainable(built_project: Path, tmp_path: Path) -> Path:
    """Rows and recipes: what training reads."""
    folder = tmp_path / "project"
    for name in ("data/tokens", "recipes", "manifests"):
        shutil.copytree(built_project / name, folder / name, copy_function=shutil.copyfile)
    for name in ("models", "evaluations"):
        shutil.rmtree(folder / "manifests" / name)
    (folder / PARAMS).write_bytes(pretty(load_yaml(built_project / PARAMS) | {"models": ["mobilellm"]}))
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("model.query_heads", 3), "model.query_heads: 3 does not divide width 64; choose a divisor such as 2"),
        (put("model.kv_heads", 4), "model.kv_heads: 4 does not divide query_heads 2"),
        (put("model.family", "gpt"), "model.family: must be one of llama, llama3, mobilellm"),
        (put("model.context", 64), "data.width: 33 must be model.context + 1 = 65"),
        (put("model.vocabulary", 300), "model.vocabulary: 300 is smaller than the tokenizer's"),
        (put("name", "other"), "name: the file is called mobilellm, the recipe 'other'"),
        (put("data.seed", 5), "data.seed: 5 is not the seed of the published order"),
        (put("data.global_batch", 7), "global_batch 7 is not a multiple of micro_batch 2"),
        (put("data.folder", "../rows"), "data.folder: '../rows' is not a folder inside the project"),
        (put("compiled", True), "numerics: portable is uncompiled float32"),
        (put("checkpoints", "chunks 3"), "'chunks 3' is not a schedule for 8 steps"),
        (put("optimiser", {}), "optimiser: unknown key"),
        (drop("optimizer.beta1"), "optimizer.beta1: missing"),
        (put("schedule.steps", "8"), "schedule.steps"),
        (put("schedule.steps", 8.5), "schedule.steps"),
        (put("schedule.warmup_steps", 8), "warmup_steps 8 must be < steps 8"),
        (put("checkpoints", "sometimes"), "checkpoints: 'sometimes' is not a schedule"),
        (put("numerics", "fast"), "numerics"),
        (put("model", []), "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_that_is_wrong_is_refused_before_training(trainable: Path, change: Change, named: str) -> None:
    tree = recipe("mobilellm")
    change(tree)
    (trainable / "recipes" / "mobilellm.yaml").write_bytes(pretty(tree))
    before = files_in(trainable)
    expect_refusal(stage(trainable, "train", "mobilellm"), "recipes/mobilellm.yaml", named)
    assert files_in(trainable) == before


def test_a_number_is_the_same_however_it_is_spelled(tmp_path: Path) -> None:
    from trainer.recipe import load_recipe

    (tmp_path / "recipes").mkdir()
    text = pretty(recipe("mobilellm") | {"schedule": recipe("mobilellm")["schedule"] | {"peak": 77}}).decode()
    found = set()
    for spelled in ("3e-4", "3e-04", "3.0e-4", "0.0003", "3E-4"):
        (tmp_path / "recipes" / "mobilellm.yaml").write_text(text.replace("77", spelled))
        found.add(load_recipe("mobilellm", tmp_path)[0].schedule.peak)
    assert found == {0.0003}


@pytest.mark.parametrize(
    ("spelled", "named"), [(".nan", "schedule.peak"), (".inf", "schedule.peak"), ("3e999", "peak")]
)
def test_a_rate_that_is_no_number_is_refused(trainable: Path, spelled: str, named: str) -> None:
    text = pretty(recipe("mobilellm") | {"schedule": recipe("mobilellm")["schedule"] | {"peak": 77}}).decode()
    (trainable / "recipes" / "mobilellm.yaml").write_text(text.replace("77", spelled))
    expect_refusal(stage(trainable, "train", "mobilellm"), "recipes/mobilellm.yaml", named)


def test_a_missing_recipe_and_changed_rows_are_refused(trainable: Path) -> None:
    expect_refusal(stage(trainable, "train", "gpt"), "recipes/gpt.yaml: no such file")
    rows = trainable / "data" / "tokens" / "train" / "000000.jsonl.zst"
    shutil.copyfile(trainable / "data" / "tokens" / "validation" / "000000.jsonl.zst", rows)
    expect_refusal(stage(trainable, "train", "mobilellm"), "data/tokens/train/000000.jsonl.zst", codes=(1,))
    assert not (trainable / "runs").exists()


@pytest.mark.parametrize("key", ["data.global_batch", "schedule.steps", "model.context"])
def test_recipes_of_a_suite_that_disagree_are_refused(project: Path, key: str) -> None:
    path = project / "manifests" / "models" / "openelm.json"
    tree = read_json(path)
    put(f"parameters.{key}", 4)(tree)
    write_json(path, tree)
    named = "data" if key.startswith("data") else key
    expect_refusal(stage(project, "release"), f"recipes/openelm.yaml: {named}", "recipes/mobilellm.yaml")
    assert not (project / "release").exists()


def test_recipes_of_a_suite_that_disagree_are_refused_before_training(trainable: Path) -> None:
    tree = load_yaml(trainable / "recipes" / "openelm.yaml")
    tree["schedule"]["steps"] = 9
    params = load_yaml(trainable / PARAMS)
    (trainable / PARAMS).write_bytes(pretty(params | {"models": ["mobilellm", "openelm"]}))
    (trainable / "recipes" / "openelm.yaml").write_bytes(pretty(tree))
    expect_refusal(stage(trainable, "train", "mobilellm"), "recipes/openelm.yaml: schedule.steps: 9 differs")
    assert not (trainable / "runs").exists()


def test_a_checkpoint_that_changed_since_training_is_not_released(project: Path) -> None:
    path = project / "runs" / "openelm" / "step000004-tokens1024" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    expect_refusal(stage(project, "release"), "step000004-tokens1024/model.safetensors", codes=(1,))
    assert not (project / "release").exists()


# Sources and documents


def declare(folder: Path, corpora: Path, source: Path | str, sha256: str) -> None:
    """A project whose source `letters` is the file or address `source`."""
    tree = params(corpora)
    tree["sources"]["letters"] |= {
        "url": source.as_uri() if isinstance(source, Path) else source,
        "sha256": sha256,
        "id_column": "id",
    }
    (folder / PARAMS).write_bytes(pretty(tree))


def test_a_missing_source_file_is_named(tmp_path: Path, corpora: Path) -> None:
    declare(tmp_path, corpora, tmp_path / "nowhere.jsonl", "0" * 64)
    expect_refusal(stage(tmp_path, "fetch", "letters"), "source letters", "nowhere.jsonl: no such file")
    assert not any((tmp_path / "data").rglob("*.jsonl"))
    assert not (tmp_path / "manifests").exists()


def test_other_bytes_than_declared_are_refused_before_a_byte_is_used(tmp_path: Path, corpora: Path) -> None:
    source = tmp_path / "letters.jsonl"
    source.write_bytes(b'{"id": "1", "text": "changed"}\n')
    declare(tmp_path, corpora, source, "0" * 64)
    done = stage(tmp_path, "fetch", "letters")
    expect_refusal(done, "source letters", "expected sha256 " + "0" * 64, sha256_file(source), codes=(1, 2))
    assert files_in(tmp_path) == ["letters.jsonl", PARAMS]


def test_an_address_that_answers_404_is_named(tmp_path: Path, corpora: Path) -> None:
    class Nothing(Handler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            self.answer(404, b"")

    with serve(Nothing) as url:
        declare(tmp_path, corpora, f"{url}/letters.jsonl", "0" * 64)
        done = stage(tmp_path, "fetch", "letters", NO_PROXY="127.0.0.1")
    expect_refusal(done, "source letters", "/letters.jsonl: HTTP 404", "correct the address")
    assert files_in(tmp_path) == [PARAMS]


MEASURED = """
import atexit, pathlib, re, runpy, sys
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print("peak", re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1], file=sys.stderr))
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""


def test_broken_documents_are_counted_and_the_good_ones_stay(tmp_path: Path, corpora: Path) -> None:
    """262 MB in one document, none at all, no UTF-8, a NUL, half a record: among the removed, in little memory."""
    good, better = (json.loads(line)["text"] for line in (corpora / "letters.jsonl").read_text().splitlines()[:2])
    source = tmp_path / "letters.jsonl"
    with source.open("wb") as file:
        file.write(json.dumps({"id": "good", "text": good}).encode() + b"\n")
        file.write(b'{"id": "huge", "text": "' + b"word " * (200 << 18) + b'"}\n')
        file.write(b'{"id": "empty", "text": ""}\n\n')
        file.write(b'{"id": "latin", "text": "caf\xe9"}\n')
        file.write(b'{"id": "nul", "text": "a\\u0000b"}\n')
        file.write(b'{"id": "half", "text": "a\n')
        file.write(b'{"id": "no text"}\n')
        file.write(json.dumps({"id": "last", "text": better}).encode())
    declare(tmp_path, corpora, source, sha256_file(source))
    assert stage(tmp_path, "fetch", "letters").returncode == 0
    measured = run(
        tmp_path, sys.executable, "-c", MEASURED, "pipeline.stages", "extract", "letters", PYTHONPATH=str(ROOT)
    )
    assert (
        int(measured.stderr.split("peak ")[1]) < 400_000
    )  # KiB; the document alone would take 512 MiB to read and decode
    extracted = read_json(tmp_path / "manifests" / "documents" / "letters.json")
    assert extracted["documents"] == 3
    assert extracted["removed"] == {"broken_record": 2, "invalid_utf8": 1, "nul_bytes": 1, "too_large": 1}
    for name in ("evaluation_sets", "evaluation_ngrams"):
        assert stage(tmp_path, name).returncode == 0
    done = stage(tmp_path, "filter", "letters")
    assert done.returncode == 0, done.stderr
    filtered = read_json(tmp_path / "manifests" / "filtered" / "letters.json")
    assert filtered["documents"] == 2
    assert filtered["examples"] == {"empty": ["letters/empty"]}


def test_a_corpus_that_unpacks_without_end_stops_the_build_and_leaves_nothing(tmp_path: Path, corpora: Path) -> None:
    source = tmp_path / "letters.jsonl.zst"
    source.write_bytes(zst_of_zeros(100 << 30))
    declare(tmp_path, corpora, source, sha256_file(source))
    assert stage(tmp_path, "fetch", "letters").returncode == 0
    expect_refusal(stage(tmp_path, "extract", "letters"), "letters.jsonl.zst: unpacks to more bytes than")
    assert list_files(tmp_path / "data" / "documents") == []
    assert not (tmp_path / "manifests" / "documents").exists()


def test_a_duplicated_id_is_refused_and_named(tmp_path: Path, corpora: Path) -> None:
    source = tmp_path / "letters.jsonl"
    source.write_bytes(b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n{"id": "a", "text": "three"}\n')
    declare(tmp_path, corpora, source, sha256_file(source))
    assert stage(tmp_path, "fetch", "letters").returncode == 0
    done = stage(tmp_path, "extract", "letters")
    expect_refusal(done, "data/raw/letters: two documents have the id letters/a", "id_column")
    assert list_files(tmp_path / "data" / "documents") == []
    assert not (tmp_path / "manifests" / "documents").exists()


def test_a_source_without_any_document_does_not_become_a_release(tmp_path: Path, corpora: Path) -> None:
    source = tmp_path / "letters.jsonl"
    source.write_bytes(b"")
    declare(tmp_path, corpora, source, hashlib.sha256(b"").hexdigest())
    assert stage(tmp_path, "fetch", "letters").returncode == 0
    done = stage(tmp_path, "extract", "letters")
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr


# A release made to harm

SMALL = "data/tokens/validation/000000.jsonl.zst"


def one_text_without_end(path: Path) -> None:
    """A table of the right columns in 2 kB whose texts hold 100 GB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    long = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["a" * (1 << 20)]))
    names = ("id", "source", "license", "text_sha256")
    numbers = {name: pa.array([0] * 100_000, pa.int64()) for name in ("first_row", "num_tokens", "bytes")}
    table = pa.table(dict.fromkeys(names, long) | numbers)
    pq.write_table(table, path, compression="zstd", store_schema=False)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


VERIFY, TRACE = "verify", "trace --model mobilellm --step 2"


@pytest.mark.parametrize(
    ("command", "file", "harm"),
    [
        (VERIFY, "data/tokens/train.parquet", one_text_without_end),
        (TRACE, "data/tokens/train.parquet", one_text_without_end),
        (VERIFY, "release.json", sparse),
        (TRACE, "manifests/tokens.json", lambda path: path.write_bytes(b"[" * (1 << 20))),
        (VERIFY, SMALL, lambda path: path.write_bytes(zst_of_zeros(100 << 30))),
    ],
    ids=["verify a table", "trace a table", "verify a root manifest", "trace a manifest", "verify rows"],
)
def test_a_release_made_to_harm_is_told_in_little_memory(
    built_project: Path, tmp_path: Path, command: str, file: str, harm: Callable[[Path], object]
) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    harm(release / file)
    name, *options = command.split()
    arguments = ["pipeline.cli", name, str(release), *options]
    done = run(tmp_path, sys.executable, "-c", MEASURED, *arguments, check=False, PYTHONPATH=str(ROOT))
    expect_refusal(done, codes=(1, 2))
    assert file in done.stdout + done.stderr
    assert int(done.stderr.split("peak ")[1]) < 600_000  # KiB


# A full disk

FULL = """
mount -t tmpfs -o size=96m tmpfs "$1" || exit 77
cp -r "$2"/. "$1" && cd "$1" && rm -rf $3
head -c 1G /dev/zero > filler 2> /dev/null
truncate -s -"$4" filler
outputs=$3
shift 4
"$@"
echo "code $?"
echo "half $(find $outputs -name '*.partial' 2> /dev/null | wc -l)"
rm filler
"$@" 2> /dev/null
echo "again $?"
find $outputs -type f | sort | xargs sha256sum
"""


@pytest.mark.parametrize(
    ("command", "outputs", "spare"),
    [
        ("fetch letters", "data/raw/letters manifests/sources/letters.json", 20_000),
        ("extract letters", "data/documents/letters manifests/documents/letters.json", 0),
        ("dedup", "data/deduplicated manifests/deduplicated.json", 40_000),
        ("tokenize", "data/tokens manifests/tokens.json", 40_000),
        ("train mobilellm", "runs/mobilellm manifests/models/mobilellm.json", 2_000_000),
        pytest.param(*("train mobilellm", "runs/mobilellm manifests/models/mobilellm.json", 0), marks=pytest.mark.long),
        ("release", "release manifests/release.json", 40_000),
    ],
)
def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_room(
    project: Path, built_project: Path, command: str, outputs: str, spare: int
) -> None:
    disk = project.with_name("disk")
    disk.mkdir()
    arguments = [
        str(disk),
        str(project),
        outputs,
        str(spare),
        sys.executable,
        "-B",
        "-m",
        "pipeline.stages",
        *command.split(),
    ]
    done = run(
        disk,
        *["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh", *arguments],
        check=False,
        PYTHONPATH=str(ROOT),
        EVERYSTEP_WORKERS="1",
        EVERYSTEP_PROCESSES="1",
    )
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    code, half, again, *sums = done.stdout.splitlines()
    assert (code, half, again) == ("code 2", "half 0", "again 0"), done.stderr
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    found = {path: digest for digest, path in (line.split("  ") for line in sums)}
    expected = {path: sha256_file(built_project / path) for path in found}
    assert found == expected
    assert len(found) > 1


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77
cd "$1"
shift
exec "$@"
"""


@pytest.mark.parametrize(
    "command",
    [
        "pipeline.stages extract letters",
        "pipeline.stages tokenizer",
        "pipeline.stages release",
        "pipeline.build.release",
    ],
)
def test_a_workspace_that_cannot_be_written_is_one_message(project: Path, command: str) -> None:
    arguments = ["sh", "-c", READ_ONLY, "sh", str(project), sys.executable, "-B", "-m", *command.split()]
    done = run(
        project,
        *["unshare", "--user", "--map-root-user", "--mount", *arguments],
        check=False,
        PYTHONPATH=str(ROOT),
        EVERYSTEP_WORKERS="1",
    )
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"nothing can be mounted read-only here: {done.stderr.strip()}")
    expect_refusal(done, "the file system is read-only; work in a folder that you can write to")
    assert done.stderr.splitlines()[-1].startswith("error: ") and done.stderr.count("error: ") == 1


# Two at once, and kills


def test_two_builds_at_once_end_in_the_same_state(tmp_path: Path, built_project: Path) -> None:
    """The second waits, or is told so; neither spoils what the other wrote."""
    project = tmp_path / "twice"
    shutil.copytree(built_project, project, ignore=shutil.ignore_patterns(".work", "tmp"))
    for folder in ("results", "release", ".dvc/cache/runs"):
        shutil.rmtree(project / folder)
    lock = load_yaml(project / "dvc.lock")
    kept = {name: entry for name, entry in lock["stages"].items() if name.split("@")[0] not in LATE}
    write_json(project / "dvc.lock", lock | {"stages": kept})
    both = [
        subprocess.Popen(
            ["dvc", "repro"],
            cwd=project,
            env=environment(EVERYSTEP_PROCESSES="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert "Traceback" not in err
        assert process.returncode == 0 or "lock" in err or "busy" in err or "under way" in err, err
    repro(project)
    assert built(project) == built(built_project)


def test_training_killed_while_it_writes_a_checkpoint_ends_in_the_same_weights(
    trainable: Path, built_project: Path
) -> None:
    draw = random.Random(11)
    kills = 0
    for _ in range(2):
        kills += killed_in_a_checkpoint(trainable, draw.uniform(0, 0.02))
    done = stage(trainable, "train", "mobilellm")
    assert done.returncode == 0, done.stderr
    assert kills > 0
    reference = built_project / "runs" / "mobilellm"
    assert {path: sha256_file(trainable / "runs" / "mobilellm" / path) for path in list_files(reference)} == {
        path: sha256_file(reference / path) for path in list_files(reference)
    }
    manifest = Path("manifests") / "models" / "mobilellm.json"
    assert (trainable / manifest).read_bytes() == (built_project / manifest).read_bytes()


def checkpoints_in(work: Path) -> set[Path]:
    """Whole ones and begun ones; none of them when one gets its name while they are listed."""
    try:
        return set(work.rglob(".step*")) | set(work.rglob("step*"))
    except FileNotFoundError:
        return set()


def killed_in_a_checkpoint(folder: Path, delay: float) -> bool:
    """Start training, kill it a moment after it began a checkpoint that was not there; whether it still ran."""
    work = folder / ".work"
    before = checkpoints_in(work)
    process = subprocess.Popen(
        [BIN / "python", "-m", "pipeline.stages", "train", "mobilellm"],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), EVERYSTEP_PROCESSES="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not checkpoints_in(work) - before:
        time.sleep(0.0005)
    time.sleep(delay)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


def test_two_trainings_of_one_model_at_once_do_not_mix(trainable: Path, built_project: Path) -> None:
    one = {"PYTHONPATH": str(ROOT), "EVERYSTEP_PROCESSES": "1"}
    command = [str(BIN / "python"), "-m", "pipeline.stages", "train", "mobilellm"]
    both = [
        subprocess.Popen(command, cwd=trainable, env=environment(**one), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 2])
    assert codes == [0, 0] or "another training of this model is under way" in "".join(said)
    last = "runs/mobilellm/step000008-tokens2048/model.safetensors"
    assert sha256_file(trainable / last) == sha256_file(built_project / last)
