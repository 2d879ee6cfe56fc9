"""The decoder: its tensors, gradients, cache and first weights, and the laws between a model and its unrolled twin."""

import json
import tracemalloc
from dataclasses import asdict, replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base.errors import EverystepError
from pipeline.formats.checkpoints import read_tensors, write_tensors
from pipeline.formats.initial import normal
from pipeline.formats.model import (
    Initialization,
    LayerSpec,
    ModelSpec,
    RotaryScaling,
    initial_value,
    num_parameters,
    tensor_shapes,
    unrolled,
)
from trainer.exact import cosine_and_sine, logarithm, rotary_tables
from trainer.memory import LOSS_ROWS
from trainer.model import Cache, Decoder, Layer, attend, dump_tensors, initialize, load_tensors
from trainer.operators import LossBlock, embed, fusible_loss_block, loss_block, next_token_loss

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
    LayerSpec(query_heads=heads, kv_heads=heads // 2, head_width=8, ffn_width=32 * heads, qk_norm="head")
    for heads in (2, 4, 6)
)
NEOX = LayerSpec(
    query_heads=4,
    kv_heads=4,
    head_width=8,
    ffn_width=128,
    norm="layer",
    activation="gelu",
    bias="all",
    residual="parallel",
    rotary_share=0.25,
)
AFTER = replace(LAYER, norm_position="after", qk_norm="all_heads", bias="query_key_value")
SCALING = RotaryScaling(factor=4.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=40)
SPECS = {
    "plain": PLAIN,
    "layers applied twice": replace(PLAIN, applications=(0, 0, 1, 1, 2, 2)),
    "one FFN for all": replace(PLAIN, ffn_owner=(1, 1, 1), tied_embedding=False),
    "growing layers": replace(PLAIN, layers=GROWING, initialization=Initialization(rule="openelm")),
    "attention beside the FFN": replace(PLAIN, layers=(NEOX,) * 3, tied_embedding=False),
    "norms after, some without positions": replace(
        PLAIN,
        layers=(AFTER, replace(AFTER, rotary_share=0.0), replace(AFTER, norm="layer", residual="parallel")),
        rotary_scaling=SCALING,
    ),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def build(spec: ModelSpec, seed: int = 0) -> Decoder:
    """A model with random norms and biases, too, so that nothing is one or zero by chance."""
    model = Decoder(spec)
    initialize(model, seed)
    tensors = dump_tensors(model)
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensor += normal(seed, name, tensor.shape, 0.2)
    load_tensors(model, tensors)
    return model


def tokens(rows: int = 2, length: int = 150) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).integers(0, PLAIN.vocabulary, (rows, length)))


ROWS = tokens(rows=4, length=151)


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


def test_a_description_of_the_form_before_is_read() -> None:
    """There biases and normed queries and keys were flags, and what is new today was not said."""
    for spec in (PLAIN, SPECS["growing layers"], SPECS["attention beside the FFN"]):
        tree = json.loads(json.dumps(spec.to_json())) | {"format": "everystep-model-2"}
        for key in ("rotary_scaling", "attention_within_documents", "end_token"):
            del tree[key]
        for layer in tree["layers"]:
            del layer["norm_position"]
            layer["bias"], layer["qk_norm"] = layer["bias"] is not None, layer["qk_norm"] is not None
        assert ModelSpec.from_json(tree) == spec
        tree["layers"][0]["bias"] = "all"
        with pytest.raises(EverystepError, match=r"config\.json: does not match its format: KeyError\('all'\)"):
            ModelSpec.from_json(tree)
        tree["layers"][0]["bias"], tree["end_token"] = False, None
        with pytest.raises(EverystepError, match=r"config\.json: end_token: keys of 'everystep-model-3', but format"):
            ModelSpec.from_json(tree)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "everystep-model-1"}, "config.json: format must be 'everystep-model-3'"),
        ({"biases": True}, "config.json: biases"),
        ({"width": "32"}, "config.json: width"),
        ({"width": True}, "config.json: width"),
        ({"width": 0}, "config.json: width must be > 0, got 0"),
        ({"applications": [0, 1, 3]}, "config.json: applications must use every stored layer 0..2"),
        ({"initialization": {"rule": "openelm", "std": 0.1}}, "remove std"),
        ({"rotary_scaling": {**asdict(SCALING), "factor": 0.5}}, "config.json: factor must be >= 1, got 0.5"),
        (
            {"rotary_scaling": {**asdict(SCALING), "low_frequency_factor": 4}},
            "must be > low_frequency_factor 4.0, got 4.0",
        ),
        ({"rotary_scaling": {**asdict(SCALING), "original_context": 0}}, "original_context must be > 0, got 0"),
        ({"rotary_scaling": {"factor": 8.0}}, "config.json: rotary_scaling.low_frequency_factor: Field required"),
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
        ({"head_width": 7}, "even number of a head's dimensions; head_width 7 times rotary_share 1.0 is 7"),
        ({"rotary_share": 0.25, "head_width": 12}, "head_width 12 times rotary_share 0.25 is 3"),
        ({"rotary_share": 1.5}, "rotary_share 1.5 is 12"),
        ({"rotary_share": -0.5}, "rotary_share -0.5 is -4"),
        ({"ffn_width": -64}, "ffn_width must be > 0, got -64"),
    ],
)
def test_a_wrong_layer_says_the_fix(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EverystepError, match=message):
        replace(LAYER, **change)


def test_scaling_a_rotation_that_no_layer_has_is_refused() -> None:
    unrotated = replace(LAYER, rotary_share=0.0)
    with pytest.raises(EverystepError, match="rotary_scaling: no layer rotates anything; make it null"):
        replace(PLAIN, layers=(unrotated,) * 3, rotary_scaling=SCALING)


def test_a_shared_ffn_has_one_width_and_one_owner() -> None:
    with pytest.raises(EverystepError, match="layer 1 names 2, which owns no FFN"):
        replace(PLAIN, ffn_owner=(0, 2, 0))
    with pytest.raises(EverystepError, match=r"layer 2 says \(128, .*but uses the FFN of layer 0, which is \(64, "):
        replace(PLAIN, layers=(LAYER, LAYER, replace(LAYER, ffn_width=128)), ffn_owner=(0, 0, 0))
    with pytest.raises(EverystepError, match=r"layer 1 says \(64, 'gelu', False\), but uses the FFN of layer 0"):
        replace(PLAIN, layers=(LAYER, replace(LAYER, activation="gelu"), LAYER), ffn_owner=(0, 0, 0))


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


@each_spec
def test_gradients_reach_every_tensor_and_are_the_same_twice(spec: ModelSpec) -> None:
    one, two = (gradients_of(build(spec)) for _ in range(2))
    assert one.keys() == tensor_shapes(spec).keys()
    assert all(torch.equal(gradient, two[name]) for name, gradient in one.items())
    assert all(gradient.abs().max() > 0 for gradient in one.values())


def gradients_of(model: Decoder, z_loss: float = 0.0, scale: float = 1.0) -> dict[str, torch.Tensor]:
    (scale * model.loss(ROWS, z_loss)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradients_of_autograd(model: Decoder, z_loss: float) -> dict[str, torch.Tensor]:
    """Those of the same loss with no derivative written by hand: logits of all rows at once, and torch's operators."""
    model.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.model.embed", torch.nn.functional.embedding)
        logits_NV = model(ROWS[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits_NV, ROWS[:, 1:].flatten())
    loss = loss + z_loss * logits_NV.logsumexp(-1).square().mean()
    torch.testing.assert_close(model.loss(ROWS, z_loss), loss, rtol=1e-6, atol=1e-6)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@each_spec
def test_gradients_of_the_loss_are_those_of_autograd(spec: ModelSpec, z_loss: float) -> None:
    assert ROWS[:, 1:].numel() > 2 * LOSS_ROWS["cpu"] and ROWS[:, 1:].numel() % LOSS_ROWS["cpu"]
    expected = gradients_of_autograd(build(spec), z_loss)
    assert_equal_to_rounding(gradients_of(build(spec), z_loss), expected)
    halved = gradients_of(build(spec), z_loss, scale=0.5)
    assert_equal_to_rounding(halved, {name: gradient / 2 for name, gradient in expected.items()})


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@each_spec
def test_gradients_are_added_to_those_that_are_there(spec: ModelSpec, z_loss: float) -> None:
    model, once = build(spec), gradients_of(build(spec), z_loss)
    places = {}
    for name, parameter in model.named_parameters():
        parameter.grad = places[name] = once[name].clone()
    assert_equal_to_rounding(gradients_of(model, z_loss), {name: 2 * gradient for name, gradient in once.items()})
    assert all(parameter.grad is places[name] for name, parameter in model.named_parameters())  # in place


def assert_equal_to_rounding(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Each tensor to a millionth of its largest entry."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=5e-6 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("block", [loss_block, fusible_loss_block])  # the second is compiled on GPUs
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_the_losss_own_derivatives_are_autograds_in_double_precision(z_loss: float, block: LossBlock) -> None:
    """Without a model around it, against float64: rows of several blocks, a target that occurs often."""
    generator = torch.Generator().manual_seed(2)
    x_NM = torch.randn(2 * LOSS_ROWS["cpu"] + 17, 32, generator=generator, requires_grad=True)
    weight_VM = torch.randn(96, 32, generator=generator, requires_grad=True)
    targets_N = torch.randint(0, 96, (len(x_NM),), generator=generator)
    targets_N[::3] = 5
    x_64, weight_64 = (t.detach().double().requires_grad_() for t in (x_NM, weight_VM))
    logits_NV = x_64 @ weight_64.t()
    expected = (
        torch.nn.functional.cross_entropy(logits_NV, targets_N) + z_loss * logits_NV.logsumexp(-1).square().mean()
    )
    expected.backward()
    found = next_token_loss(x_NM, weight_VM, targets_N, z_loss, block=block)
    found.backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    for ours, theirs in ((x_NM.grad, x_64.grad), (weight_VM.grad, weight_64.grad)):
        assert ours is not None and theirs is not None
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))


def test_an_embeddings_derivative_adds_up_what_a_token_met() -> None:
    weight_VM = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    embed(torch.tensor([[1, 1, 6]]), weight_VM).sum().backward()
    assert weight_VM.grad is not None
    assert weight_VM.grad[:, 0].tolist() == [0, 2, 0, 0, 0, 0, 1]


@each_spec
def test_computing_layers_again_in_backward_changes_no_bit(spec: ModelSpec) -> None:
    kept, again = build(spec), Decoder(spec, recompute=True)
    load_tensors(again, dump_tensors(kept))
    for _ in range(2):  # the second time onto gradients that are there
        one, two = gradients_of(kept, 0.01), gradients_of(again, 0.01)
        assert all(torch.equal(gradient, two[name]) for name, gradient in one.items())


@each_spec
def test_a_shared_tensor_is_stored_once_and_comes_back_shared(spec: ModelSpec, tmp_path: Path) -> None:
    model = build(spec)
    write_tensors(tmp_path / "model.safetensors", dump_tensors(model))
    stored: Any = read_tensors(tmp_path / "model.safetensors")
    assert sum(tensor.size for tensor in stored.values()) == num_parameters(spec)
    back = Decoder(spec)
    load_tensors(back, stored)
    assert (back.head_VM is back.embedding.weight) == spec.tied_embedding
    assert [layer.ffn is not None for layer in back.layers] == [o == i for i, o in enumerate(spec.ffn_owner)]
    assert len({parameter.data_ptr() for parameter in back.parameters()}) == len(stored)
    with torch.no_grad():
        assert torch.equal(back(tokens()), model(tokens()))


def test_layers_applied_twice_are_deeper_than_layers_applied_once() -> None:
    """The law of the twin would hold for a model that forgot to repeat itself; this one would not."""
    twice, once = build(SPECS["layers applied twice"]), Decoder(PLAIN)
    load_tensors(once, dump_tensors(twice))
    with torch.no_grad():
        assert (twice(tokens()) - once(tokens())).abs().max() > 0.1


def test_a_model_whose_layers_all_differ_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up after 8 forms of one function. Its compiler's back end is left out: it needs one for C++."""
    monkeypatch.setattr(Layer, "compile", partialmethod(Layer.compile, backend="eager"))
    layers = tuple(replace(LAYER, ffn_width=16 * (index + 1)) for index in range(9))
    model = build(replace(PLAIN, layers=layers, applications=(*range(9),), ffn_owner=(*range(9),)))
    with torch.no_grad():
        expected_BTV = model(tokens(rows=1, length=8))
        model.compile_layers()
        assert torch.equal(model(tokens(rows=1, length=8)), expected_BTV)


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


def test_first_weights_are_drawn_one_tensor_at_a_time() -> None:
    model = Decoder(replace(PLAIN, vocabulary=40_000, tied_embedding=False))
    largest = 4 * model.embedding.weight.numel()  # the head is as large
    tracemalloc.start()
    initialize(model, 1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < most < 1.6 * largest, "more than one tensor, and the numbers that some of its values are made of"


def test_openelm_spreads_follow_the_width_and_the_depth() -> None:
    spec = SPECS["growing layers"]
    assert initial_value(spec, "embedding.weight") == pytest.approx((0, 32**-0.5))
    assert initial_value(spec, "layers.2.ffn.gate_up.weight") == pytest.approx((0, 32**-0.5))
    assert initial_value(spec, "layers.2.ffn.down.weight") == pytest.approx((0, 32**-0.5 * 6**-0.5))
    assert initial_value(spec, "layers.1.attention.output.weight") == pytest.approx((0, 32**-0.5 * 6**-0.5))
    assert initial_value(spec, "layers.1.attention.query_norm.weight") == (1, 0)


def test_neox_writes_to_the_residual_stream_with_a_spread_of_its_own() -> None:
    drawn = Initialization(rule="normal", std=0.3, output_std=0.01)
    spec = replace(SPECS["attention beside the FFN"], initialization=drawn)
    written = {name for name in tensor_shapes(spec) if initial_value(spec, name) == (0, 0.01)}
    assert written == {f"layers.{i}.{part}.weight" for i in range(3) for part in ("attention.output", "ffn.down")}
    assert initial_value(spec, "output.weight") == initial_value(spec, "layers.0.ffn.up.weight") == (0, 0.3)
    assert initial_value(spec, "layers.0.ffn.up.bias") == initial_value(spec, "final_norm.bias") == (0, 0)
    assert initial_value(spec, "final_norm.weight") == (1, 0)


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


def test_exact_logarithm_holds_from_the_smallest_to_the_largest_number() -> None:
    x = np.exp(np.random.default_rng(0).uniform(-87, 88, 10_000)).astype(np.float32)
    x[:5] = 1, 0.5, 2, np.nextafter(np.float32(1), np.float32(0)), np.finfo(np.float32).tiny
    np.testing.assert_allclose(logarithm(x), np.log(x.astype(np.float64)), rtol=6e-8, atol=1e-15)


def test_tensors_of_another_model_are_refused_by_name() -> None:
    model = Decoder(PLAIN)
    tensors = dump_tensors(build(PLAIN))
    with pytest.raises(EverystepError, match=r"embedding\.weight: shape \(5, 32\)"):
        load_tensors(model, {**tensors, "embedding.weight": np.zeros((5, 32), np.float32)})
    with pytest.raises(EverystepError, match=r"missing or unknown: output\.weight"):
        load_tensors(model, {**tensors, "output.weight": tensors["embedding.weight"]})
