"""The decoder: its tensors, its cache, its first weights, and the laws between a model and its unrolled twin."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.formats.errors import EverystepError
from trainer.description import (
    Initialization,
    LayerSpec,
    ModelSpec,
    initial_std,
    num_parameters,
    tensor_shapes,
    unrolled,
)
from trainer.exact import cosine_and_sine, normal, rotary_tables
from trainer.model import Cache, Decoder, attend, dump_tensors, initialize, load_tensors

torch.set_num_threads(1)

LAYER = LayerSpec(query_heads=4, kv_heads=2, head_width=8, ffn_width=64)
PLAIN = ModelSpec(
    vocabulary=96,
    context=160,
    width=32,
    layers=(LAYER,) * 3,
    applications=(0, 1, 2),
    ffn_owner=(0, 1, 2),
    tied_embedding=True,
    rotary_base=10000.0,
    norm_epsilon=1e-5,
    initialization=Initialization(rule="normal", std=0.2),
)
GROWING = tuple(
    LayerSpec(query_heads=heads, kv_heads=heads // 2, head_width=8, ffn_width=32 * heads, qk_norm=True)
    for heads in (2, 4, 6)
)
SPECS = {
    "plain": PLAIN,
    "layers applied twice": replace(PLAIN, applications=(0, 0, 1, 1, 2, 2)),
    "one FFN for all": replace(PLAIN, ffn_owner=(1, 1, 1), tied_embedding=False),
    "growing layers": replace(PLAIN, layers=GROWING, initialization=Initialization(rule="openelm")),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def build(spec: ModelSpec, seed: int = 0) -> Decoder:
    """A model with random weights in its norms, too."""
    model = Decoder(spec)
    initialize(model, seed)
    norms = {
        name: 1 + normal(seed, name, t.shape, 0.2) if "norm" in name else t for name, t in dump_tensors(model).items()
    }
    load_tensors(model, norms)
    return model


def tokens(rows: int = 2, length: int = 150) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).integers(0, PLAIN.vocabulary, (rows, length)))


@each_spec
def test_described_shapes_are_the_models_own(spec: ModelSpec) -> None:
    with torch.device("meta"):
        model = Decoder(spec)
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert found == tensor_shapes(spec)
    assert list(found) == list(tensor_shapes(spec))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(spec)
    assert list(model.state_dict()) == list(found)


@each_spec
def test_description_survives_json(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "everystep-model-0"}, "config.json: format must be 'everystep-model-1'"),
        ({"biases": True}, "config.json: biases"),
        ({"width": "32"}, "config.json: width"),
        ({"width": True}, "config.json: width"),
        ({"width": 0}, "config.json: width must be > 0, got 0"),
        ({"applications": [0, 1, 3]}, "config.json: applications must use every stored layer 0..2"),
        ({"initialization": {"rule": "openelm", "std": 0.1}}, "remove std"),
    ],
)
def test_a_wrong_description_names_file_and_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EverystepError, match=message.replace("(", r"\(")):
        ModelSpec.from_json({**PLAIN.to_json(), **change})


def test_a_missing_key_is_refused() -> None:
    tree = PLAIN.to_json()
    del tree["tied_embedding"]
    with pytest.raises(EverystepError, match=r"config\.json: tied_embedding: Field required"):
        ModelSpec.from_json(tree)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "kv_heads: 3 does not divide query_heads 4; choose a divisor such as 2"),
        ({"head_width": 7}, "head_width must be even for rotary positions, got 7"),
        ({"ffn_width": -64}, "ffn_width must be > 0, got -64"),
    ],
)
def test_a_wrong_layer_says_the_fix(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EverystepError, match=message):
        replace(LAYER, **change)


def test_a_shared_ffn_has_one_width_and_one_owner() -> None:
    with pytest.raises(EverystepError, match="layer 1 names 2, which owns no FFN"):
        replace(PLAIN, ffn_owner=(0, 2, 0))
    with pytest.raises(EverystepError, match="layer 2 says 128, but uses the FFN of layer 0, which is 64 wide"):
        replace(PLAIN, layers=(LAYER, LAYER, replace(LAYER, ffn_width=128)), ffn_owner=(0, 0, 0))


@each_spec
def test_cached_decoding_gives_the_logits_of_the_full_forward(spec: ModelSpec) -> None:
    model, tokens_BT = build(spec), tokens()
    with torch.no_grad():
        full_BTV = model(tokens_BT)
        cache, parts = Cache(), []
        for start, stop in [(0, 5), (5, 6), (6, 140), *((t, t + 1) for t in range(140, 150))]:
            parts.append(model(tokens_BT[:, start:stop], cache))
    assert cache.length == 150
    torch.testing.assert_close(torch.cat(parts, dim=1), full_BTV, rtol=1e-5, atol=1e-5)


@each_spec
def test_a_model_equals_its_unrolled_twin_bit_for_bit(spec: ModelSpec) -> None:
    model = build(spec)
    twin_spec, origin = unrolled(spec)
    twin, stored = Decoder(twin_spec), dump_tensors(model)
    load_tensors(twin, {name: stored[origin[name]] for name in tensor_shapes(twin_spec)})
    with torch.no_grad():
        assert torch.equal(model(tokens()), twin(tokens()))


def test_later_tokens_change_no_earlier_logits() -> None:
    model, tokens_BT = build(PLAIN), tokens()
    changed_BT = tokens_BT.clone()
    changed_BT[:, 100:] = 0
    with torch.no_grad():
        assert torch.equal(model(tokens_BT)[:, :100], model(changed_BT)[:, :100])


def test_attention_in_blocks_equals_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    q_BHTD = torch.randn(2, 6, 300, 16, generator=generator)
    k_BKSD, v_BKSD = torch.randn(2, 2, 2, 300, 16, generator=generator)
    expected = torch.nn.functional.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attend(q_BHTD, k_BKSD, v_BKSD), expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_tensor_and_are_the_same_twice() -> None:
    model = build(SPECS["one FFN for all"])
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(tokens()).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(tensor_shapes(model.spec))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_more_positions_than_the_context_are_refused() -> None:
    with pytest.raises(EverystepError, match="161 positions do not fit the model's context of 160"):
        build(PLAIN)(tokens(length=161))


def test_first_weights_are_a_function_of_seed_and_name_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    one, deeper = build_plain(0), build_plain(0, layers=5)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(np.array_equal(tensor, deeper[name]) for name, tensor in one.items())
    other = build_plain(1)
    assert not any(np.array_equal(tensor, other[name]) for name, tensor in one.items() if "norm" not in name)
    drawn = [tensor.tobytes() for name, tensor in one.items() if "norm" not in name]
    assert len(set(drawn)) == len(drawn)


def build_plain(seed: int, layers: int = 3) -> dict[str, Any]:
    model = Decoder(
        replace(PLAIN, layers=(LAYER,) * layers, applications=(*range(layers),), ffn_owner=(*range(layers),))
    )
    initialize(model, seed)
    return dump_tensors(model)


def test_first_weights_have_known_values() -> None:
    """A test vector: these bits are part of the contract, on every machine."""
    drawn = normal(0, "embedding.weight", (2, 2), 0.02)
    assert drawn.tobytes().hex() == "b2a673bbccdbe03bcb35093b2be7b3bc"


def test_draws_do_not_depend_on_the_block_they_fall_in() -> None:
    whole = normal(3, "x", (500, 700), 1.0)
    assert np.array_equal(whole[:100], normal(3, "x", (100, 700), 1.0))
    assert abs(whole.mean()) < 0.01
    assert abs(whole.std() - 1) < 0.01


def test_openelm_spreads_follow_the_width_and_the_depth() -> None:
    spec = SPECS["growing layers"]
    assert initial_std(spec, "embedding.weight") == pytest.approx(32**-0.5)
    assert initial_std(spec, "layers.2.ffn.up.weight") == pytest.approx(32**-0.5)
    assert initial_std(spec, "layers.2.ffn.down.weight") == pytest.approx(32**-0.5 * 6**-0.5)
    assert initial_std(spec, "layers.1.attention.output.weight") == pytest.approx(32**-0.5 * 6**-0.5)
    assert initial_std(spec, "layers.1.attention.query_norm.weight") is None


def test_rotary_tables_are_correctly_rounded_cosines_and_sines_of_llamas_angles() -> None:
    cosine, sine = rotary_tables(10000.0, 32, 2048)
    frequency = 1.0 / (10000.0 ** (torch.arange(0, 32, 2, dtype=torch.float32) / 32))
    angle = torch.outer(torch.arange(2048, dtype=torch.float32), frequency).double()
    assert np.array_equal(cosine, angle.cos().float().numpy())
    assert np.array_equal(sine, angle.sin().float().numpy())


def test_exact_cosine_and_sine_hold_to_large_angles() -> None:
    angle = np.random.default_rng(0).uniform(0, 2**20, 10_000).astype(np.float32)
    cosine, sine = cosine_and_sine(angle)
    np.testing.assert_allclose(cosine, np.cos(angle.astype(np.float64)), rtol=0, atol=6e-8)
    np.testing.assert_allclose(sine, np.sin(angle.astype(np.float64)), rtol=0, atol=6e-8)


def test_tensors_of_another_model_are_refused_by_name() -> None:
    model = Decoder(PLAIN)
    tensors = dump_tensors(build(PLAIN))
    with pytest.raises(EverystepError, match=r"embedding\.weight: shape \(5, 32\)"):
        load_tensors(model, {**tensors, "embedding.weight": np.zeros((5, 32), np.float32)})
    with pytest.raises(EverystepError, match=r"missing or unknown: output\.weight"):
        load_tensors(model, {**tensors, "output.weight": tensors["embedding.weight"]})
