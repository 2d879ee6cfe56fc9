"""Every size that MobileLLM, MobiLlama, OpenELM, Amber and Pythia published is a recipe with the published numbers."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import pretty
from pipeline.formats.families import build_spec
from pipeline.formats.model import ModelSpec, num_parameters, num_parameters_if_repeated, tensor_shapes
from tests.project import recipe as tiny_recipe
from trainer.catalog import describe, list_recipes
from trainer.model import Decoder
from trainer.optimizer import learning_rate
from trainer.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]

# Unique parameters, as published or counted from the published files.
PUBLISHED = {
    "mobilellm-125m": 124_635_456,
    "mobilellm-350m": 345_355_200,
    "mobilellm-600m": 603_188_352,
    "mobilellm-1b": 1_005_461_760,
    "mobilellm-1.5b": 1_511_188_800,
    "mobilellm-ls-125m": 124_635_456,
    "mobilellm-ls-350m": 345_355_200,
    "mobillama-05b": 534_865_920,
    "mobillama-08b": 819_315_200,
    "mobillama-large-base": 1_261_529_088,
    "openelm-270m": 271_691_008,
    "openelm-270m-hub": 271_527_168,
    "openelm-450m": 457_375_744,
    "openelm-450m-hub": 457_179_136,
    "openelm-1.1b": 1_080_153_600,
    "openelm-1.1b-hub": 1_079_891_456,
    "openelm-3b": 3_037_040_640,
    "openelm-3b-hub": 3_036_647_424,
    "amber-7b": 6_738_415_616,
    "pythia-14m": 14_067_712,
    "pythia-31m": 30_494_720,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
}
# What the configs of other published models say, and the parameters of their files.
LLAMAS_KIN: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3.2-1B": (
        {
            **{"family": "llama3", "vocabulary": 128256, "context": 131072, "width": 2048, "layers": 16},
            **{"query_heads": 32, "kv_heads": 8, "ffn_width": 8192, "tied_embedding": True},
            **{"rotary_base": 500000.0, "norm_epsilon": 1e-5, "initial_std": 0.02},
            "rotary_scaling": {
                **{"factor": 32.0, "original_context": 8192},
                **{"low_frequency_factor": 1.0, "high_frequency_factor": 4.0},
            },
        },
        1_235_814_400,
    ),
    "OLMo-2-0425-1B": (
        {
            **{"family": "olmo2", "vocabulary": 100352, "context": 4096, "width": 2048, "layers": 16},
            **{"query_heads": 16, "kv_heads": 16, "ffn_width": 8192, "tied_embedding": False},
            **{"rotary_base": 500000.0, "norm_epsilon": 1e-6, "initial_std": 0.02},
        },
        1_484_916_736,
    ),
    "Qwen2.5-0.5B": (
        {
            **{"family": "qwen2", "vocabulary": 151936, "context": 32768, "width": 896, "layers": 24},
            **{"query_heads": 14, "kv_heads": 2, "ffn_width": 4864, "tied_embedding": True},
            **{"rotary_base": 1000000.0, "norm_epsilon": 1e-6, "initial_std": 0.02},
        },
        494_032_768,
    ),
    "Qwen3-0.6B": (
        {
            **{"family": "qwen3", "vocabulary": 151936, "context": 32768, "width": 1024, "layers": 28},
            **{"query_heads": 16, "kv_heads": 8, "head_width": 128, "ffn_width": 3072, "tied_embedding": True},
            **{"rotary_base": 1000000.0, "norm_epsilon": 1e-6, "initial_std": 0.02},
        },
        596_049_920,
    ),
    "SmolLM3-3B": (
        {
            **{"family": "smollm3", "vocabulary": 128256, "context": 65536, "width": 2048, "layers": 36},
            **{"query_heads": 16, "kv_heads": 4, "ffn_width": 11008, "tied_embedding": True},
            **{"rotary_base": 5000000.0, "norm_epsilon": 1e-6, "initial_std": 0.02, "unrotated_every": 4},
        },
        3_075_098_624,
    ),
}
DEMO = ("mobilellm", "mobilellm-ls", "mobillama", "openelm", "mobilellm-init2", "mobilellm-order2")

# If the shared FFN is written once a layer, as in the published files.
REPEATED = {"mobillama-05b": 1_261_529_088, "mobillama-08b": 2_470_822_400}

# (query heads, layers) in order, and FFN widths
OPENELM = {
    "openelm-270m": (
        [(12, 5), (16, 7), (20, 4)],
        "768 1024 1280 1536 1792 2048 2560 2816 3072 3328 3584 3840 4352 4608 4864 5120",
    ),
    "openelm-450m": (
        [(12, 3), (16, 7), (20, 6), (24, 4)],
        "768 1024 1280 1536 1792 2304 2560 2816 3072 3328 3584 3840 4096 4352 4608 5120 5376 5632 5888 6144",
    ),
    "openelm-1.1b": (
        [(16, 3), (20, 7), (24, 8), (28, 6), (32, 4)],
        "1024 1280 1536 1792 2048 2304 2560 2816 3072 3328 3584 3840 4096 4608 4608 5120 5376 5632 5888 6144 6400 6656 "
        "6912 7168 7424 7680 7936 8192",
    ),
    "openelm-3b": (
        [(12, 4), (16, 14), (20, 12), (24, 6)],
        "1536 1792 2048 2560 2816 3072 3328 3584 4096 4352 4608 4864 5120 5632 5888 6144 6400 6656 7168 7424 7680 7936 "
        "8192 8704 8960 9216 9472 9728 10240 10496 10752 11008 11264 11776 12032 12288",
    ),
}


def recipe_of(name: str) -> Recipe:
    return load_recipe(name, ROOT)[0]


def rates(name: str, *steps: int, **changes: Any) -> list[float]:
    recipe = recipe_of(name)
    batch = changes.get("global_batch", recipe.data.global_batch)
    return [learning_rate(recipe.schedule, step, batch) for step in steps]


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a decay longer than the training": (
        {"schedule": {"warmup_steps": 1000, "decay_steps": 479_000, "steps": 1128}},
        "schedule: warmup_steps 1000 + decay_steps 479000 = 480000, more than steps 1128: the rate would "
        "never reach its floor; decay_steps can be at most 128",
    ),
    "a decay one step too long": ({"schedule": {"decay_steps": 7}}, "2 + decay_steps 7 = 9, more than steps 8"),
    "a line one step too long": (
        {"schedule": {"shape": "wsd", "decay_steps": 7}},
        "2 + decay_steps 7 = 9, more than steps 8",
    ),
    "a clipped cosine longer than the training": (
        {"schedule": {"shape": "cosine-clipped", "decay_steps": 9}},
        "schedule: decay_steps 9 is more than steps 8",
    ),
    "a warm-up as long as the training": ({"schedule": {"warmup_steps": 8}}, "warmup_steps 8 must be < steps 8"),
    "a warm-up downwards": ({"schedule": {"start": 0.5}}, "schedule: start 0.5 is above peak 0.008"),
    "checkpoints after the end": ({"checkpoints": "every 9"}, "checkpoints: 'every 9' is more than schedule.steps 8"),
    "digests after the end": ({"digest_every": 9}, "digest_every: 9 is more than schedule.steps 8"),
    "a micro-batch larger than the batch": (
        {"data": {"micro_batch": 16}},
        "data: global_batch 8 is not a multiple of micro_batch 16",
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_numbers_that_contradict_each_other_are_refused_when_the_recipe_is_read(tmp_path: Path, what: str) -> None:
    changes, named = CONTRADICTIONS[what]
    tree = tiny_recipe("mobilellm")
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mobilellm.yaml").write_bytes(pretty(tree))
    with pytest.raises(EverystepError, match=rf"recipes/mobilellm\.yaml: .*{re.escape(named)}"):
        load_recipe("mobilellm", tmp_path)


REQUIRED = {name: field for name, field in Recipe.model_fields.items() if field.is_required()}
KEYS = [
    *REQUIRED,
    *(f"{name}.{key}" for name, field in REQUIRED.items() for key in getattr(field.annotation, "model_fields", ())),
]


@pytest.mark.parametrize("key", KEYS)
def test_no_key_of_a_recipe_may_be_left_out(tmp_path: Path, key: str) -> None:
    """Those of `model`: test_families.py."""
    tree = tiny_recipe("mobilellm")
    section, _, last = key.rpartition(".")
    del (tree[section] if section else tree)[last]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mobilellm.yaml").write_bytes(pretty(tree))
    with pytest.raises(EverystepError, match=rf"recipes/mobilellm\.yaml: {key}: missing; add it"):
        load_recipe("mobilellm", tmp_path)


@pytest.mark.parametrize(("shape", "decay"), [("cosine", 6), ("cosine", 1), ("wsd", 6), ("cosine-clipped", 8)])
def test_a_schedule_may_fill_the_training_or_end_before_it(tmp_path: Path, shape: str, decay: int) -> None:
    """Two steps of warm-up and eight in all. The published Pythia counts its decay over all steps."""
    tree = tiny_recipe("mobilellm")
    tree["schedule"] |= {"shape": shape, "decay_steps": decay}
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mobilellm.yaml").write_bytes(pretty(tree))
    assert load_recipe("mobilellm", tmp_path)[0].schedule.decay_steps == decay


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/recipes/*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_examples_can_be_read(path: Path) -> None:
    assert load_recipe(path.stem, path.parents[1])[0].name == path.stem


def count_parameters(spec: ModelSpec) -> int:
    """Of the model itself, built where tensors have shapes and no bytes; they must be those of its description."""
    with torch.device("meta"):
        model = Decoder(spec)
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == tensor_shapes(spec)
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_recipe_is_a_published_size_or_the_demos() -> None:
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} == {*PUBLISHED, *DEMO}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_number_of_parameters(name: str) -> None:
    _, spec = load_recipe(name, ROOT)
    assert num_parameters(spec) == count_parameters(spec) == PUBLISHED[name]
    assert num_parameters_if_repeated(spec) == REPEATED.get(name, PUBLISHED[name])


@pytest.mark.parametrize("name", LLAMAS_KIN)
def test_models_without_a_recipe_have_the_published_number_of_parameters(name: str) -> None:
    section, published = LLAMAS_KIN[name]
    spec = build_spec(section, name)
    assert num_parameters(spec) == count_parameters(spec) == published


@pytest.mark.parametrize("name", [*PUBLISHED, *DEMO])
def test_a_recipe_begins_by_saying_its_number_of_parameters(name: str) -> None:
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    assert f"{num_parameters(load_recipe(name, ROOT)[1]):,} parameters" in text.partition("\nname:")[0]


@pytest.mark.parametrize("name", OPENELM)
def test_openelm_grows_with_depth_as_published(name: str) -> None:
    heads, ffn_widths = OPENELM[name]
    for spec in (load_recipe(name, ROOT)[1], load_recipe(f"{name}-hub", ROOT)[1]):
        assert [layer.query_heads for layer in spec.layers] == [count for count, layers in heads for _ in range(layers)]
        assert all(layer.kv_heads == layer.query_heads // 4 and layer.qk_norm for layer in spec.layers)
        assert [layer.ffn_width for layer in spec.layers] == [int(width) for width in ffn_widths.split()]


@pytest.mark.parametrize("name", PUBLISHED)
def test_batches_and_tokens_are_the_published_ones(name: str) -> None:
    batch, steps = {
        "mobilellm": (1024, 480_000),
        "mobillama": (1280, 479_880),
        "openelm": (2048, 350_000),
        "amber": (2240, 274_320),
        "pythia": (1024, 143_000),
    }[name.partition("-")[0]]
    recipe, spec = load_recipe(name, ROOT)
    assert (recipe.data.global_batch, recipe.schedule.steps, spec.context) == (batch, steps, 2048)
    assert recipe.data.num_leaves >= 32


def test_weight_decay_takes_norms_where_the_source_gave_every_parameter_to_it() -> None:
    assert {name.partition("-")[0] for name in PUBLISHED if recipe_of(name).optimizer.decay == "all"} == {
        "mobillama",
        "amber",
    }


def test_only_openelm_pulls_the_normalizer_towards_one() -> None:
    assert {name.partition("-")[0] for name in PUBLISHED if recipe_of(name).loss.z_loss} == {"openelm"}
    assert recipe_of("openelm-3b").loss.z_loss == 1e-4


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("mobilellm")])
def test_mobilellms_rate_is_proportional_to_the_batch(name: str) -> None:
    middle = 1000 + 479_000 // 2
    expected = pytest.approx([0, 2e-6, 2e-3, 1.1e-3, 2e-4, 2e-4], rel=1e-6)
    assert rates(name, 0, 1, 1000, middle, 480_000, 480_001) == expected
    assert rates(name, 1000, 480_000, global_batch=256) == pytest.approx([5e-4, 5e-5], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "peak", "steps"),
    [
        ("mobillama-05b", 3e-5, 479_880),
        ("mobillama-08b", 3e-5, 479_880),
        ("mobillama-large-base", 3e-4, 479_880),
        ("amber-7b", 3e-4, 274_320),
    ],
)
def test_rates_of_amber_and_mobillama_fall_to_a_tenth(name: str, peak: float, steps: int) -> None:
    middle = 2000 + (steps - 2000) // 2
    expected = [0, peak / 2000, peak, 0.55 * peak, 0.1 * peak]
    assert rates(name, 0, 1, 2000, middle, steps) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("size", "peak"), [("270m", 5.3e-3), ("450m", 3.9e-3), ("1.1b", 2.4e-3), ("3b", 1.2e-3)])
def test_openelm_warms_up_from_a_millionth(size: str, peak: float) -> None:
    middle = 5000 + 345_000 // 2
    expected = pytest.approx([1e-6, 1e-6 + (peak - 1e-6) / 5000, peak, 0.55 * peak, 0.1 * peak], rel=1e-6)
    for name in (f"openelm-{size}", f"openelm-{size}-hub"):
        assert rates(name, 0, 1, 5000, middle, 350_000) == expected


PYTHIA = {
    **{"14m": 1e-3, "31m": 1e-3, "70m": 1e-3, "160m": 6e-4, "410m": 3e-4, "1b": 2.5e-4, "1.4b": 2e-4},
    **{"2.8b": 1.6e-4, "6.9b": 1.2e-4, "12b": 1.2e-4},
}


@pytest.mark.parametrize("size", PYTHIA)
def test_pythias_cosine_falls_towards_zero_and_is_cut_off_at_a_tenth(size: str) -> None:
    def published(step: int) -> float:
        return max(0.1, 0.5 * (1 + math.cos(math.pi * (step - 1430) / 143_000))) * PYTHIA[size]

    steps = (1430, 71_500, 100_000, 115_000, 116_000, 143_000)
    found = rates(f"pythia-{size}", 0, 1, *steps)
    assert found == pytest.approx([0, PYTHIA[size] / 1430, *map(published, steps)], rel=1e-6)
    assert found[-3] > found[-2] == found[-1] == pytest.approx(PYTHIA[size] / 10)
    assert found[3] / PYTHIA[size] == pytest.approx(0.5157, rel=1e-4)  # a cosine that ends at a tenth: 0.557


def test_pythia_publishes_154_states() -> None:
    early = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    for size in PYTHIA:
        steps = recipe_of(f"pythia-{size}").checkpoint_steps
        assert steps == early + list(range(1000, 143_001, 1000))
        assert len(steps) == 154


@pytest.mark.parametrize(("name", "steps_a_chunk"), [("amber-7b", 762), ("mobillama-05b", 1333)])
def test_llm360_publishes_a_state_after_each_of_360_chunks(name: str, steps_a_chunk: int) -> None:
    assert recipe_of(name).checkpoint_steps == [chunk * steps_a_chunk for chunk in range(361)]


def test_openelm_and_mobilellm_publish_at_equal_distances() -> None:
    assert recipe_of("openelm-270m").checkpoint_steps == list(range(0, 350_001, 5000))
    assert recipe_of("mobilellm-125m").checkpoint_steps == list(range(0, 480_001, 1000))


def test_the_list_holds_every_recipe_once_and_says_what_is_shared() -> None:
    entries = {entry.name: entry for entry in list_recipes(ROOT)}
    assert entries.keys() == {*PUBLISHED, *DEMO}
    ls, shared = entries["mobilellm-ls-125m"], entries["mobillama-05b"]
    assert (ls.layers_stored, ls.layers_applied, ls.parameters) == (30, 60, 124_635_456)
    assert (shared.parameters, shared.parameters_if_repeated) == (534_865_920, 1_261_529_088)
    assert entries["pythia-160m"].tokens == 299_892_736_000
    assert entries["pythia-160m"] == describe(ROOT, "pythia-160m")


def everystep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from pipeline.cli.program import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_command_lists_the_recipes_of_a_folder_and_of_the_one_it_runs_in(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for name in ("mobillama-05b", "amber-7b"):
        shutil.copy(ROOT / "recipes" / f"{name}.yaml", tmp_path / "recipes")
    here, named = everystep(tmp_path, "recipes"), everystep(ROOT, "recipes", str(tmp_path))
    assert here.stdout == named.stdout
    words = [line.split() for line in here.stdout.splitlines()]
    assert [line[:1] for line in words[2:4]] == [["amber-7b"], ["mobillama-05b"]]
    assert words[3][4:6] == ["534,865,920", "1,261,529,088"]
    found = json.loads(everystep(tmp_path, "recipes", "--json").stdout)["recipes"]
    assert [(entry["name"], entry["parameters"]) for entry in found] == [
        ("amber-7b", 6_738_415_616),
        ("mobillama-05b", 534_865_920),
    ]


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match="no recipes; name the folder of a project or of a release"):
        list_recipes(tmp_path)
