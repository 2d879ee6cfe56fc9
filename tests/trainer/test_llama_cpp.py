"""llama.cpp's own converter reads what is pulled, with the script of docs/use-checkpoints.md."""

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

from tests.project import ROOT
from tests.sessions import blocks
from tests.trainer.exports import build, read_spec, tokenizer_file, write_pulled

pytestmark = pytest.mark.long
SOURCE, SENTENCEPIECE = "llama-cpp-python==0.3.36", "sentencepiece==0.2.3"
"""A sdist that holds llama.cpp, of which nothing is built; and what its converter asks for first."""


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


@pytest.mark.parametrize("name", ["llama", "mobilellm", "mobilellm-ls", "mobillama"])
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
    assert torch.equal(tensors["token_embd.weight"], weights["model.embed_tokens.weight"])
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


def test_a_module_that_llama_cpp_does_not_know_is_refused_by_name(workplace: Path, tmp_path: Path) -> None:
    write_pulled(build(read_spec("openelm")), workplace / "openelm", tmp_path)
    done = convert(workplace, "openelm")
    assert done.returncode == 1 and "EverystepOpenELMForCausalLM is not supported" in done.stderr
