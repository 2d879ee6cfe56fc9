"""llama.cpp itself: it continues texts as the trainer does with the files of `everystep export gguf`, and its converter
reads what is pulled, with the script of docs/use-checkpoints.md."""

import json
import os
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from safetensors.torch import load_file

from pipeline.audit.export_gguf import write_gguf
from tests.project import ROOT
from tests.sessions import blocks
from tests.trainer.exports import FAMILIES, build, read_spec, tokenizer_file, write_pulled
from tests.trainer.greedy import PROMPT, require_the_same, save_ours
from trainer.model import dump_tensors

pytestmark = pytest.mark.long
SOURCE, SENTENCEPIECE = "llama-cpp-python==0.3.36", "sentencepiece==0.2.3"
"""A sdist that holds llama.cpp, of which the tests of the converter build nothing; and what it asks for first."""
BUILD = "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DGGML_OPENMP=OFF"


LOADER = """
import sys, json, pathlib
import numpy as np
from llama_cpp import Llama

folder, prompt = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
options = {"n_ctx": 256, "logits_all": True, "verbose": False, "type_k": 0, "type_v": 0, "flash_attn": False}
for path in sorted(folder.glob("*.gguf")):
    model = Llama(str(path), **options)  # 0: a cache in float32
    ids = list(prompt)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)])
    while len(ids) < len(prompt) + 40:
        ids.append(int(np.argmax(model.scores[len(ids) - 1])))
        model.eval(ids[-1:])
    texts = json.loads((folder / "texts.json").read_text())
    split = [model.tokenize(text.encode(), add_bos=True, special=True) for text in texts]
    np.savez(path.with_suffix(".theirs.npz"), ids=ids, logits=logits)
    path.with_suffix(".json").write_text(json.dumps(split))
"""
TEXTS = [
    "the river and  the mountain\n\nquiet",
    "Straße 😶\u200d🌫️ 3333",
    "I'll  go\t'RE it's\n",
    "one<|endoftext|>two",
    "",
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of each family, and what llama.cpp said with it."""
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    tokenizer = tokenizer_file(folder)
    for name in FAMILIES:
        model = build(read_spec(name))
        write_gguf(folder / f"{name}.gguf", model.spec, dump_tensors(model), tokenizer, {"general.name": name})
        save_ours(model, folder / f"{name}.npz")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python, environment = str(folder / "venv" / "bin" / "python"), os.environ | {"CMAKE_ARGS": BUILD}
    install = [python, "-m", "pip", "--quiet", "install", SOURCE]
    subprocess.run(install, env=environment, check=True)
    subprocess.run([python, "-c", LOADER, folder, json.dumps(PROMPT)], env=isolated(), check=True)
    return folder


def isolated() -> dict[str, str]:
    """The environment without the libraries of this process."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.timeout(3600)  # there is no wheel of llama-cpp-python on PyPI; pip builds it once and keeps it
@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_continues_as_the_trainer_does(loaded: Path, name: str) -> None:
    """Logits too. It computes GELU approximately, by tanh and a table in float16; all else it computes as we do."""
    require_the_same(loaded / f"{name}.npz", loaded / f"{name}.theirs.npz", 5e-3 if name == "pythia" else 2e-5)


def test_llama_cpp_gives_texts_the_ids_of_our_tokenizer(loaded: Path) -> None:
    from tokenizers import Tokenizer

    ours = Tokenizer.from_file(str(loaded / "released.json"))
    for name in FAMILIES:
        assert json.loads((loaded / f"{name}.json").read_bytes()) == [ours.encode(text).ids for text in TEXTS]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script as `convert.py`, `llama.cpp`, and sentencepiece in `libraries`."""
    folder = tmp_path_factory.mktemp("workplace")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    download = ["download", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(folder), SOURCE]
    subprocess.run([*pip, *download], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "libraries", SENTENCEPIECE], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        wanted = [member for member in packed if "/vendor/llama.cpp/" in member.name and member.isfile()]
        packed.extractall(folder, [m for m in wanted if m.name.endswith((".py", "llama-vocab.cpp"))], filter="data")
    (folder / "llama.cpp").symlink_to(folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp")
    (script,) = blocks((ROOT / "docs" / "use-checkpoints.md").read_text("utf-8"), "python gguf")
    (folder / "convert.py").write_text(script.text)
    return folder


def convert(workplace: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "convert.py", name, "--outfile", f"{name}.gguf", "--outtype", "f32"]
    environment = os.environ | {"PYTHONPATH": str(workplace / "libraries")}
    return subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["llama", "mobilellm", "mobilellm-ls", "mobillama", "openelm"])
def test_the_converter_keeps_vocabulary_and_tensors(
    workplace: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pulled(build(read_spec(name)), workplace / name, tmp_path)
    done = convert(workplace, name)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.syspath_prepend(workplace / "llama.cpp" / "gguf-py")
    from gguf import GGUFReader

    read: Any = GGUFReader(workplace / f"{name}.gguf")
    said = {key.removeprefix("tokenizer.ggml."): field.contents() for key, field in read.fields.items()}
    tree = json.loads((workplace / name / "tokenizer.json").read_bytes())
    assert (said["model"], said["pre"], said["eos_token_id"]) == ("gpt2", "gpt-2", 0)
    assert said["tokens"][: len(tree["model"]["vocab"])] == list(tree["model"]["vocab"])
    assert said["merges"] == tree["model"]["merges"]
    weights = load_file(workplace / name / "model.safetensors")
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in read.tensors}
    embedding = "transformer.token_embeddings.weight" if name == "openelm" else "model.embed_tokens.weight"
    assert torch.equal(tensors["token_embd.weight"], weights[embedding])
    assert sum(tensor.numel() for tensor in tensors.values()) == sum(tensor.numel() for tensor in weights.values())


def test_llama_cpp_splits_text_as_our_tokenizers_do(workplace: Path, tmp_path: Path) -> None:
    """The pattern that its code has for `gpt-2`, on texts where such rules differ."""
    from tokenizers import Tokenizer

    code = (workplace / "llama.cpp" / "src" / "llama-vocab.cpp").read_text("utf-8")
    case = code[code.index("case LLAMA_VOCAB_PRE_TYPE_GPT2:") :]
    pattern = json.loads(regex.search(r'"(?:[^"\\]|\\.)*"', case)[0])
    ours = Tokenizer.from_file(str(tokenizer_file(tmp_path))).pre_tokenizer
    for text in ("I'll  go\n\n\tnow, it's 3333.50!?", "Straße  😶\u200d🌫️ 東京 1st", " a\u00a0b  ", "'RE 'd don't"):
        spans = [span for _, span in ours.pre_tokenize_str(text)]
        # What no alternative matches, the last blanks of a run or of a text, llama.cpp keeps as a piece of its own.
        ends = [0, *sorted({place for match in regex.finditer(pattern, text) for place in match.span()}), len(text)]
        theirs = [(a, b) for a, b in pairwise(ends) if a < b]
        assert spans == theirs, text
