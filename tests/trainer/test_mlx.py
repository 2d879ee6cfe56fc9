"""mlx-lm, on Linux, loads what is pulled of every family, and continues as the trainer does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.exports import FAMILIES, build, read_spec, write_pulled
from tests.trainer.greedy import NUM_TOKENS, PROMPT, require_the_same, save_ours

pytestmark = pytest.mark.long
PACKAGES = ["mlx[cpu]==0.32.4", "mlx-lm==0.32.2"]
LOADER = """
import sys, json
import mlx.core as mx
import numpy as np
from mlx_lm import generate, load
from mlx_lm.generate import generate_step

prompt = json.loads(sys.argv[2])
mx.set_default_device(mx.cpu)
for folder in sys.argv[3:]:
    model, tokenizer = load(folder, tokenizer_config={"trust_remote_code": False})  # runs no code, asks nobody
    logits = np.array(model(mx.array([prompt])))[0]
    steps = generate_step(mx.array(prompt), model, max_tokens=int(sys.argv[1]))
    np.savez(f"{folder}.theirs.npz", ids=[*prompt, *(int(token) for token, _ in steps)], logits=logits)
    assert isinstance(generate(model, tokenizer, "the river", max_tokens=3), str)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mlx-lm said with a folder of each family, beside what we say."""
    folder = tmp_path_factory.mktemp("mlx")
    for name in FAMILIES:
        model = build(read_spec(name))
        write_pulled(model, folder / name, tmp_path_factory.mktemp("scratch"))
        save_ours(model, folder / f"{name}.npz")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "--quiet", "install", *PACKAGES], check=True)
    arguments = [str(NUM_TOKENS), json.dumps(PROMPT), *(str(folder / name) for name in FAMILIES)]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-c", LOADER, *arguments], env=alone, check=True)
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_mlx_lm_continues_as_the_trainer_does(said: Path, name: str) -> None:
    """Logits too. It computes GELU approximately, by tanh."""
    require_the_same(said / f"{name}.npz", said / f"{name}.theirs.npz", 5e-3 if name == "pythia" else 2e-5)
