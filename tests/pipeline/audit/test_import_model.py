"""The way back from the hub form of a model to the digest of record, for every family; a false copy is found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.export_model import export
from pipeline.audit.import_model import restore
from pipeline.base.errors import Differs
from pipeline.formats.digests import tensors_digest
from pipeline.formats.model import Initialization, LayerSpec, ModelSpec, tensor_shapes
from tests.releases import everystep
from tests.trainer.exports import FAMILIES, build, random_tensors, read_spec, write_pulled


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Any small model that has a hub form, with blocks applied again and FFNs shared."""
    form = draw(st.sampled_from(["llama", "openelm", "gpt_neox"]))
    depth, head_width = draw(st.integers(1, 3)), draw(st.sampled_from([2, 4]))

    def layer() -> LayerSpec:
        kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        return LayerSpec(
            query_heads=kv_heads * (1 if form == "gpt_neox" else group),
            kv_heads=kv_heads,
            head_width=head_width,
            ffn_width=draw(st.integers(1, 9)),
            qk_norm="head" if form == "openelm" else None,
            norm="layer" if form == "gpt_neox" else "rms",
            activation="gelu" if form == "gpt_neox" else "swiglu",
            bias="all" if form == "gpt_neox" else None,
        )

    layers = [layer() for _ in range(depth)] if form == "openelm" else [layer()] * depth
    width = layers[0].query_heads * head_width
    shared = len({one.ffn_width for one in layers}) == 1 and draw(st.booleans())
    times = draw(st.integers(1, 2))
    return ModelSpec(
        vocabulary=5,
        context=8,
        width=width,
        layers=tuple(layers),
        applications=tuple(index for index in range(depth) for _ in range(times)),
        ffn_owner=(0,) * depth if shared else tuple(range(depth)),
        tied_embedding=form != "gpt_neox" and draw(st.booleans()),
        rotary_base=10000.0,
        norm_epsilon=1e-6,
        initialization=Initialization(rule="openelm"),
    )


@given(specs())
def test_what_is_exported_comes_back_byte_for_byte(spec: ModelSpec) -> None:
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape, np.float32) for name, shape in tensor_shapes(spec).items()}
    back = restore(spec, export(spec, tensors, eos_token_id=0).tensors)
    assert list(back) == list(tensors)
    assert tensors_digest(back) == tensors_digest(tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_byte_for_byte(family: str) -> None:
    spec = read_spec(family)
    tensors = random_tensors(spec)
    assert tensors_digest(restore(spec, export(spec, tensors, eos_token_id=0).tensors)) == tensors_digest(tensors)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mobilellm-ls", "model.layers.1.self_attn.k_proj.weight"),
        ("mobilellm-ls", "model.layers.4.input_layernorm.weight"),
        ("mobillama", "model.layers.2.mlp.up_proj.weight"),
    ],
)
def test_copies_of_one_tensor_that_differ_are_found(family: str, name: str) -> None:
    spec = read_spec(family)
    tensors = dict(export(spec, random_tensors(spec), eos_token_id=0).tensors)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[-1] = np.nextafter(tensors[name].flat[-1], 9)
    with pytest.raises(Differs, match=r"is a copy of layers.*they are not equal"):
        restore(spec, tensors)


def test_a_tied_head_may_be_written_but_not_differ() -> None:
    spec = read_spec("openelm")
    tensors = dict(export(spec, random_tensors(spec), eos_token_id=0).tensors)
    head = tensors["transformer.token_embeddings.weight"].copy()
    assert tensors_digest(restore(spec, tensors | {"lm_head.weight": head})) == tensors_digest(random_tensors(spec))
    head[0, 0] += 1
    with pytest.raises(Differs, match="tied"):
        restore(spec, tensors | {"lm_head.weight": head})


def test_tensors_that_are_missing_unknown_or_of_another_shape_are_named() -> None:
    spec = read_spec("mobilellm")
    tensors = dict(export(spec, random_tensors(spec), eos_token_id=0).tensors)
    norm = "model.layers.0.input_layernorm.weight"
    with pytest.raises(Differs, match=f"missing or unknown: {norm}"):
        restore(spec, {name: tensor for name, tensor in tensors.items() if name != norm})
    with pytest.raises(Differs, match="missing or unknown: adapter"):
        restore(spec, tensors | {"adapter": tensors[norm]})
    with pytest.raises(Differs, match=f"another shape .*: {norm}"):
        restore(spec, tensors | {norm: tensors[norm][:-1]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pulled = tmp_path / "mobilellm-ls"
    write_pulled(build(read_spec("mobilellm-ls")), pulled, tmp_path)
    expected = tensors_digest(random_tensors(read_spec("mobilellm-ls")))
    rewrite(pulled / "everystep.json", weights_digest=expected)
    return pulled


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_command_finds_the_digest_of_record_in_a_pulled_folder(folder: Path) -> None:
    done = everystep("digest", folder)
    digest = tensors_digest(random_tensors(read_spec("mobilellm-ls")))
    same = f"same: the weights in {folder} are those of mobilellm-ls step000001-tokens1\n"
    assert (done.code, done.out) == (0, f"{same}{digest}\n")
    assert json.loads(everystep("digest", folder, "--json").out)["weights_digest"] == digest


def test_a_copy_of_links_as_in_the_hubs_cache_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    for path in folder.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert everystep("digest", tmp_path / "snapshot").code == 0


def test_one_flipped_bit_is_another_digest(folder: Path) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    done = everystep("digest", folder)
    assert done.code == 1 and done.out.startswith("differs: ") and "everystep.json says tensors-v1:" in done.out


@pytest.mark.parametrize(("key", "value"), [("rope_theta", 5e5), ("auto_map", {"AutoConfig": "mine.Config"})])
def test_a_config_that_makes_another_model_of_the_weights_is_refused(folder: Path, key: str, value: Any) -> None:
    rewrite(folder / "config.json", **{key: value})
    done = everystep("digest", folder)
    assert done.code == 1 and f"config.json: not what the description in everystep.json gives: {key}" in done.err


@pytest.mark.parametrize("name", ["modeling_everystep_openelm.py", "pytorch_model.bin"])
def test_code_that_is_not_ours_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("print('mine')")
    done = everystep("digest", folder)
    assert done.code == 1 and f"{name}: " in done.err and "do not run it" in done.err


def test_a_folder_without_a_description_is_misuse(folder: Path, tmp_path: Path) -> None:
    about = json.loads((folder / "everystep.json").read_text())
    del about["description"]
    (folder / "everystep.json").write_text(json.dumps(about))
    done = everystep("digest", folder)
    assert done.code == 2 and "has no description" in done.err
    done = everystep("digest", tmp_path / "nothing")
    assert done.code == 2 and "everystep.json" in done.err
