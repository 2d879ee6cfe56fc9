"""Models of every family with weights under which every part matters, and a small tokenizer, for what exports them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audit.pull import write_folder
from pipeline.base.paths import TOKENIZER
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.formats.families import build_spec
from pipeline.formats.initial import normal
from pipeline.formats.model import ModelSpec, tensor_shapes
from pipeline.formats.vocabulary import END_OF_TEXT
from pipeline.release.code import INSTALLED, REMOTE
from pipeline.release.release import Release
from tests.project import ROOT, WORDS
from tests.releases import unsealed
from tests.trainer.tiny import LLAMA, PYTHIA, SCALING
from trainer.model import Decoder, dump_tensors, load_tensors

SUITES = ["llama", "mobilellm", "mobilellm-ls", "mobillama", "openelm", "pythia"]
"""Families whose published sizes are recipes."""
KIN = ["llama3", "olmo2", "qwen2", "qwen3", "smollm3"]
"""What else is said of Llama's block."""
FAMILIES = SUITES + KIN
SIZE = {"vocabulary": 2048, "context": 256, "width": 128, "layers": 3}
GROUPED: dict[str, Any] = LLAMA | {"query_heads": 4, "kv_heads": 2, "ffn_width": 192, "tied_embedding": True}
SMALL: dict[str, dict[str, Any]] = {
    "llama": GROUPED | {"tied_embedding": False, "norm_epsilon": 1e-6},
    "llama3": GROUPED | {"rotary_scaling": SCALING | {"original_context": 32}},
    "olmo2": GROUPED | {"tied_embedding": False},
    "pythia": PYTHIA | {"heads": 4},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_width": 64},
    "smollm3": GROUPED | {"unrotated_every": 4, "layers": 4},
}


def read_spec(name: str) -> ModelSpec:
    """The demo's model of a family with fewer layers, or a small one."""
    if name in SMALL:
        return build_spec({"family": name} | SIZE | SMALL[name], name)
    return build_spec(load_yaml(ROOT / "recipes" / f"{name}.yaml")["model"] | {"layers": 3}, name)


def random_tensors(spec: ModelSpec) -> dict[str, Any]:
    """Weights under which every part moves the logits and no rounding error grows: norms near one, gain of one."""
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        std = 0.3 if len(shape) == 1 else shape[1] ** -0.5
        tensors[name] = normal(5, name, shape, std) + np.float32(name.endswith("norm.weight"))
    return tensors


def build(spec: ModelSpec) -> Decoder:
    model = Decoder(spec)
    load_tensors(model, random_tensors(spec))
    return model


def write_pulled(model: Decoder, folder: Path, scratch: Path) -> None:
    """`folder` as `everystep pull` writes it; `scratch` is an empty folder."""
    about: dict[str, Any] = {
        "model": folder.name,
        "release": "test",
        "release_version": "1",
        "revision": "step000001-tokens1",
    }
    about |= {"step": 1, "tokens": 1, "weights_digest": "w", "state_digest": "s"}
    write_folder(made_release(scratch), folder, model.spec, dump_tensors(model), about)


def made_release(scratch: Path) -> Release:
    """As much of a release as `pull` reads besides weights, with a tokenizer of this moment."""
    release = scratch / "release"
    (release / TOKENIZER.parent).mkdir(parents=True)
    shutil.copy(tokenizer_file(scratch), release / TOKENIZER)
    (release / "NOTICE").touch()
    shutil.copy(ROOT / "LICENSE", release / "LICENSE")
    shutil.copytree(INSTALLED / REMOTE, release / REMOTE, ignore=shutil.ignore_patterns("__*"))
    words = load_yaml(ROOT / "params.yaml")["release"]
    (release / "params.yaml").write_bytes(pretty({"descriptions": {}, "release": words}))
    return unsealed(release)


def tokenizer_file(folder: Path) -> Path:
    """A byte-level BPE as the tokenizer stage trains it, with what the installed library writes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator([" ".join(WORDS)], trainer)
    path = folder / "released.json"
    path.write_text(trained.to_str(pretty=True), "utf-8")
    return path
