"""A small project: this checkout's code, three tiny sources on disk, two tiny models. Built for real by DVC."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.base.files import sha256_file
from pipeline.base.yaml import load_yaml
from pipeline.build.init import copy_code, own_stages
from pipeline.build.release import mend
from pipeline.formats.canonical import pretty
from pipeline.formats.lines import encode_line

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SOURCES = ("letters", "notes", "tales")
EVALUATION_SET = "quiz.jsonl"
MODELS = ("mobilellm", "openelm")
WORDS = """
    the of and to that have with be river mountain letter winter garden captain window morning silver question
    carry follow listen remember gather wander build measure promise answer quiet narrow golden heavy ancient
""".split()  # noqa: SIM905


def make_project(folder: Path, corpora: Path) -> Path:
    """A new project in `folder` that reads the files in `corpora`."""
    copy_code(ROOT, folder)
    (folder / "params.yaml").write_bytes(pretty(params(corpora)))
    (folder / "dvc.yaml").write_text(own_stages(ROOT, folder, MODELS))
    (folder / "recipes").mkdir()
    for name in MODELS:
        (folder / "recipes" / f"{name}.yaml").write_bytes(pretty(recipe(name)))
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    commit(folder, "a small project")
    return folder


def make_corpora(folder: Path) -> Path:
    """Three corpora of plain words, with exact and near duplicates within and across them, and a quiz about one."""
    folder.mkdir(parents=True)
    draw = random.Random(7)
    texts = {name: [_text(draw) for _ in range(120)] for name in SOURCES}
    texts["notes"][3] = texts["letters"][5]
    texts["tales"][4] = texts["letters"][5].upper()
    texts["tales"][9] = texts["tales"][8].replace("river", "mountain", 1)
    texts["notes"][7] = "too short"
    for name in SOURCES:
        _write_lines(folder / f"{name}.jsonl", [{"id": f"{i:03d}", "text": text} for i, text in enumerate(texts[name])])
    question = " ".join(texts["letters"][11].split()[20:40])
    _write_lines(folder / EVALUATION_SET, [{"id": "q1", "question": question}, {"id": "q2", "question": "Too short?"}])
    return folder


def params(corpora: Path) -> dict[str, Any]:
    """A complete `params.yaml` as a tree; tests change a key and write it again."""
    tree = load_yaml(ROOT / "params.yaml")
    sources = {
        name: {
            "kind": "url",
            "url": (corpora / f"{name}.jsonl").as_uri(),
            "sha256": sha256_file(corpora / f"{name}.jsonl"),
            "reader": "jsonl",
            "id_column": "id",
            "license": "CC0-1.0",
            "languages": ["en"],
            "priority": priority,
        }
        for priority, name in enumerate(SOURCES)
    }
    sources["tales"]["cap_bytes"] = 60000
    return tree | {
        "models": list(MODELS),
        "sources": sources,
        "descriptions": {name: description(name) for name in SOURCES},
        "evaluation_sets": {
            "artefact": {
                "kind": "url",
                "url": (corpora / EVALUATION_SET).as_uri(),
                "sha256": sha256_file(corpora / EVALUATION_SET),
            },
            "words": 13,
            "sets": {"quiz": {"members": "*.jsonl", "texts": ["question"], "id": "id"}},
        },
        "filter": tree["filter"] | {"language": {"min_probability": 0.0}, "licenses": ["CC0-1.0"]},
        "dedup": tree["dedup"] | {"validation_share": 0.1, "bytes_per_shard": 20000},
        "tokenizer": {"vocabulary": 320, "sample_bytes": 50000},
        "tokenize": tree["tokenize"] | {"context": 32},
        "evaluate": {
            "rows": 12,
            "train_rows": 2,
            "micro_batch": 4,
            "prompts": ["", "the old"],
            "sample_tokens": 8,
        },
        "tasks": {
            "stock": {"items": 10, "names": []},
            "pairs": {"items": 20, "characters": 16, "words": 5, "sources": {"permuted_words": ["letters", "tales"]}},
            "counting": {"order": 3, "rows": 200},
        },
        "score": {"checkpoints": ["first", 3, "last"]},
    }


def description(name: str) -> dict[str, str]:
    """What is said of a source."""
    return {"title": f"The {name}", "issuer": "nobody", "evidence": "made by a test"}


def recipe(name: str) -> dict[str, Any]:
    """A complete recipe as a tree: the demo's, made tiny."""
    tree = load_yaml(ROOT / "recipes" / f"{name}.yaml")
    small = {"vocabulary": 320, "context": 32, "width": 64, "layers": 2}
    heads = {"query_heads": 2, "kv_heads": 1, "ffn_width": 64} if name == "mobilellm" else {"ffn_divisor": 32}
    return tree | {
        "data": tree["data"] | {"width": 33, "global_batch": 8, "micro_batch": 2},
        "model": tree["model"] | small | heads,
        "schedule": tree["schedule"] | {"steps": 8, "warmup_steps": 2, "decay_steps": 6},
        "checkpoints": "pythia 4",
    }


def environment(**more: str) -> dict[str, str]:
    """The environment of a command, with this interpreter's programs first."""
    identity = {
        f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | identity | more


def run(folder: Path, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a project; a failure shows what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} -> {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
    return done


def repro(folder: Path, *more: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "dvc", "repro", *more, check=check, **env)


def killed_repro(folder: Path, seconds: float, **env: str) -> bool:
    """Start `dvc repro` and kill it with all its children after some time; whether it was still running."""
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=environment(**env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        mend(folder)
        return True


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--message", message)


def built(folder: Path) -> dict[str, Any]:
    """What two builds must agree on: the parsed lock and the bytes of every manifest."""
    manifests = sorted((folder / "manifests").rglob("*.json"))
    lock = load_yaml(folder / "dvc.lock")
    return {"lock": lock["stages"]} | {path.relative_to(folder).as_posix(): path.read_bytes() for path in manifests}


def _write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_bytes(b"".join(encode_line(row) for row in rows))


def _text(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(60, 160))) + "."
