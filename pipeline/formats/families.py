"""Model families: each is a function from a section of a recipe to a `ModelSpec`, by its published rules.

`build_spec` reads the `model:` section of a recipe. Every size that MobileLLM, MobiLlama, OpenELM, Amber and Pythia
published is a file under `recipes/`, and its parameter count is the published one (tests/trainer/test_recipes.py).
"""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from pydantic import Field, PositiveFloat, ValidationInfo, field_validator

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import Section, check
from pipeline.formats.bounds import MAX_CONTEXT, MAX_FFN_WIDTH, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH
from pipeline.formats.model import Initialization, LayerSpec, ModelSpec, RotaryScaling, nearest_divisor

Vocabulary = Annotated[int, Field(gt=0, le=MAX_VOCABULARY)]
Context = Annotated[int, Field(gt=0, le=MAX_CONTEXT)]
Layers = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
"""Size of anything inside a layer: dimensions, heads, divisors."""
FfnWidth = Annotated[int, Field(gt=0, le=MAX_FFN_WIDTH)]
Multiplier = Annotated[float, Field(gt=0, le=64)]
Ends = Annotated[list[Multiplier], Field(min_length=2, max_length=2)]
"""Multipliers of the first and of the last layer. A list, because YAML has no tuples and validation is strict."""


class DecoderSection(Section):
    """Keys that all families share: whether attention is cut at borders of documents, and the id that ends each."""

    attention_within_documents: bool = False
    end_token: Annotated[int, Field(ge=0, lt=MAX_VOCABULARY)] | None = None


class EqualLayersSection(DecoderSection):
    """Keys that the families with equal layers share."""

    vocabulary: Vocabulary
    context: Context
    width: Width
    layers: Layers
    query_heads: Width
    ffn_width: FfnWidth
    rotary_base: PositiveFloat
    norm_epsilon: PositiveFloat
    initial_std: PositiveFloat


class LlamaSection(EqualLayersSection):
    """Keys of those whose heads divide the width into equal parts."""

    @field_validator("query_heads")
    @classmethod
    def _heads_divide_width(cls, query_heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", query_heads)
        if width % query_heads:
            choice = nearest_divisor(width, query_heads)
            raise ValueError(f"{query_heads} does not divide width {width}; choose a divisor such as {choice}")
        if width // query_heads % 2:
            raise ValueError(
                f"{query_heads} heads of a width of {width} are {width // query_heads} wide; rotary needs even widths"
            )
        return query_heads


class GroupedSection(LlamaSection):
    """`family: llama`, `mobilellm`, `mobilellm-ls`, `qwen2` and `olmo2`; two more add a key."""

    family: Literal["llama", "llama3", "mobilellm", "mobilellm-ls", "olmo2", "qwen2", "smollm3"]
    kv_heads: Width
    tied_embedding: bool

    @field_validator("kv_heads")
    @classmethod
    def _kv_heads_divide_query_heads(cls, kv_heads: int, info: ValidationInfo) -> int:
        query_heads = info.data.get("query_heads", kv_heads)
        if query_heads % kv_heads:
            choice = nearest_divisor(query_heads, kv_heads)
            raise ValueError(f"{kv_heads} does not divide query_heads {query_heads}; choose a divisor such as {choice}")
        return kv_heads


class RotaryScalingSection(Section):
    """`rotary_scaling`; its relations are checked by `RotaryScaling`."""

    factor: PositiveFloat
    low_frequency_factor: PositiveFloat
    high_frequency_factor: PositiveFloat
    original_context: Context


class Llama3Section(GroupedSection):
    """`family: llama3`."""

    rotary_scaling: RotaryScalingSection


class SmolLM3Section(GroupedSection):
    """`family: smollm3`."""

    unrotated_every: Layers


class Qwen3Section(EqualLayersSection):
    """`family: qwen3`, whose heads are as wide as they please."""

    family: Literal["qwen3"]
    kv_heads: Width
    head_width: Width
    tied_embedding: bool


class MobiLlamaSection(LlamaSection):
    """`family: mobillama`."""

    family: Literal["mobillama"]
    tied_embedding: bool
    shared_ffn: bool


class PythiaSection(DecoderSection):
    """`family: pythia`. A null `initial_std` is (2 / (5 width))^1/2, a null `initial_output_std`
    2 / (layers width^1/2), as in GPT-NeoX."""

    family: Literal["pythia"]
    vocabulary: Vocabulary
    context: Context
    width: Width
    layers: Layers
    heads: Width
    initial_std: PositiveFloat | None
    initial_output_std: PositiveFloat | None
    rotary_base: PositiveFloat
    norm_epsilon: PositiveFloat

    @field_validator("heads")
    @classmethod
    def _heads_divide_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", heads)
        if width % heads or width // heads % 8:
            raise ValueError(
                f"{heads} heads of a width of {width}: each must be a multiple of 8 wide, since a quarter is rotated"
            )
        return heads


class OpenELMSection(DecoderSection):
    """`family: openelm`."""

    family: Literal["openelm"]
    vocabulary: Vocabulary
    context: Context
    width: Width
    layers: Layers
    head_width: Width
    query_heads_per_kv_head: Width
    ffn_divisor: Width
    attention_multipliers: Ends
    ffn_multipliers: Ends
    tied_embedding: bool
    rotary_base: PositiveFloat
    norm_epsilon: PositiveFloat

    @field_validator("head_width")
    @classmethod
    def _head_width_is_even(cls, head_width: int) -> int:
        if head_width % 2:
            raise ValueError(f"must be even for rotary positions, got {head_width}")
        return head_width


FamilySection = TypeVar("FamilySection", bound=DecoderSection)


class _Recipe(Section, Generic[FamilySection]):
    """A wrapper, so that an error says `model.query_heads`."""

    model: FamilySection


def build_spec(section: dict[str, Any], where: str) -> ModelSpec:
    """Build the model of the `model:` section of the recipe `where`; an error names file, key and fix."""
    family = section.get("family")
    if family not in FAMILIES:
        raise EverystepError(f"{where}: model.family: must be one of {', '.join(FAMILIES)}, got {family!r}")
    model, write = FAMILIES[family]
    checked: DecoderSection = check(_Recipe[model], {"model": section}, where).model  # type: ignore[valid-type]
    try:
        return replace(
            write(checked),
            attention_within_documents=checked.attention_within_documents,
            end_token=checked.end_token,
        )
    except EverystepError as error:
        raise EverystepError(f"{where}: model: {error}") from error


def llama(section: GroupedSection) -> ModelSpec:
    """Llama's block (Touvron et al., 2023, section 2.2), as Amber has it (Liu et al., 2023, LLM360, section 4.1)."""
    return _equal_layers(section, section.kv_heads)


def llama3(section: Llama3Section) -> ModelSpec:
    """Llama with the slow pairs of a head slowed down for longer contexts (Dubey et al., 2024, section 3.4.2)."""
    scaling = RotaryScaling(**section.rotary_scaling.model_dump())
    return replace(_equal_layers(section, section.kv_heads), rotary_scaling=scaling)


def smollm3(section: SmolLM3Section) -> ModelSpec:
    """Llama of which every `unrotated_every`-th layer knows no positions (Yang et al., 2025, Rope to Nope, section 3).

    As the config of SmolLM3-3B has it: `no_rope_layer_interval` is 4, and the layers 3, 7, ... are not rotated.
    """
    spec = _equal_layers(section, section.kv_heads)
    unrotated = replace(spec.layers[0], rotary_share=0.0)
    every = section.unrotated_every
    layers = [unrotated if depth % every == every - 1 else layer for depth, layer in enumerate(spec.layers)]
    return replace(spec, layers=tuple(layers))


def qwen2(section: GroupedSection) -> ModelSpec:
    """Llama with biases on queries, keys and values (Yang et al., 2024, Qwen2, section 2.2)."""
    return _equal_layers(section, section.kv_heads, bias="query_key_value")


def qwen3(section: Qwen3Section) -> ModelSpec:
    """Llama with each head's queries and keys normed, and a width of heads of its own (Yang et al., 2025, Qwen3,
    section 2)."""
    return _equal_layers(section, section.kv_heads, qk_norm="head", head_width=section.head_width)


def olmo2(section: GroupedSection) -> ModelSpec:
    """Llama whose norms act on what attention and FFN give, with queries and keys normed over all heads (OLMo et al.,
    2024, 2 OLMo 2 Furious, section 2.2)."""
    return _equal_layers(section, section.kv_heads, qk_norm="all_heads", norm_position="after")


def mobilellm(section: GroupedSection) -> ModelSpec:
    """Deep and thin, grouped queries, tied embedding (Liu et al., 2024, MobileLLM, section 2.2).

    The published config files say `tie_word_embeddings: false`; the models are trained tied, by a flag.
    """
    return _equal_layers(section, section.kv_heads)


def mobilellm_ls(section: GroupedSection) -> ModelSpec:
    """MobileLLM whose every stored block runs twice in a row: 0, 0, 1, 1, ... (section 2.3, immediate repetition)."""
    spec = _equal_layers(section, section.kv_heads)
    return replace(spec, applications=tuple(depth // 2 for depth in range(2 * section.layers)))


def mobillama(section: MobiLlamaSection) -> ModelSpec:
    """One FFN for all layers, full multi-head attention, untied output (Thawakar et al., 2024, MobiLlama, section 3).

    The published config files say 4 key/value heads; the code ignores it and uses as many as query heads.
    """
    spec = _equal_layers(section, section.query_heads)
    return replace(spec, ffn_owner=(0,) * section.layers) if section.shared_ffn else spec


def pythia(section: PythiaSection) -> ModelSpec:
    """GPT-NeoX's block: attention beside the FFN, LayerNorm, biases, GELU, a quarter of each head rotated.

    Biderman et al., 2023, Pythia, section 2.2; the residual as GPT-J, the deviations of GPT-NeoX (Black et al., 2022).
    """
    width, layers = section.width, section.layers
    layer = LayerSpec(
        query_heads=section.heads,
        kv_heads=section.heads,
        head_width=width // section.heads,
        ffn_width=4 * width,
        norm="layer",
        activation="gelu",
        bias="all",
        residual="parallel",
        rotary_share=0.25,
    )
    initialization = Initialization(
        rule="normal",
        std=section.initial_std or sqrt(2 / (5 * width)),
        output_std=section.initial_output_std or 2 / (layers * sqrt(width)),
    )
    return _plain(section, [layer] * layers, initialization, tied_embedding=False)


def openelm(section: OpenELMSection) -> ModelSpec:
    """Layer-wise scaling: heads and FFN widths grow with depth (Mehta et al., 2024, OpenELM, section 2.1).

    With a multiplier m, linear in depth and rounded to two digits: query width = divisible(width * m, head width *
    group), FFN width = divisible(width * m, divisor). Queries and keys are normed before the rotation.
    """
    group, width = section.query_heads_per_kv_head, section.width
    attention = _multipliers(section.attention_multipliers, section.layers)
    ffn = _multipliers(section.ffn_multipliers, section.layers)
    layers = []
    for attention_m, ffn_m in zip(attention, ffn, strict=True):
        query_heads = make_divisible(width * attention_m, section.head_width * group) // section.head_width
        layer = LayerSpec(
            query_heads=query_heads,
            kv_heads=query_heads // group,
            head_width=section.head_width,
            ffn_width=make_divisible(width * ffn_m, section.ffn_divisor),
            qk_norm="head",
        )
        layers.append(layer)
    return _plain(section, layers, Initialization(rule="openelm"), section.tied_embedding)


def make_divisible(value: float, divisor: int) -> int:
    """Round `value` to a multiple of `divisor`: at least one divisor, and at least nine tenths of `value`."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def _multipliers(ends: list[float], layers: int) -> list[float]:
    return [round(float(m), 2) for m in np.linspace(ends[0], ends[1], layers)]


def _equal_layers(section: GroupedSection | MobiLlamaSection | Qwen3Section, kv_heads: int, **more: Any) -> ModelSpec:
    """Describe a model of Llama's layers, but for what `more` says of them."""
    sizes = {"query_heads": section.query_heads, "kv_heads": kv_heads, "ffn_width": section.ffn_width}
    layer = LayerSpec(**{"head_width": section.width // section.query_heads} | sizes | more)
    initialization = Initialization(rule="normal", std=section.initial_std)
    return _plain(section, [layer] * section.layers, initialization, section.tied_embedding)


def _plain(
    section: GroupedSection | MobiLlamaSection | OpenELMSection | PythiaSection | Qwen3Section,
    layers: list[LayerSpec],
    initialization: Initialization,
    tied_embedding: bool,
) -> ModelSpec:
    """Describe a model that applies each layer once, in order, each with an FFN of its own."""
    depths = tuple(range(len(layers)))
    return ModelSpec(
        vocabulary=section.vocabulary,
        context=section.context,
        width=section.width,
        layers=tuple(layers),
        applications=depths,
        ffn_owner=depths,
        tied_embedding=tied_embedding,
        rotary_base=section.rotary_base,
        norm_epsilon=section.norm_epsilon,
        initialization=initialization,
    )


FAMILIES: dict[str, tuple[type[DecoderSection], Callable[[Any], ModelSpec]]] = {
    "llama": (GroupedSection, llama),
    "llama3": (Llama3Section, llama3),
    "mobilellm": (GroupedSection, mobilellm),
    "mobilellm-ls": (GroupedSection, mobilellm_ls),
    "mobillama": (MobiLlamaSection, mobillama),
    "olmo2": (GroupedSection, olmo2),
    "openelm": (OpenELMSection, openelm),
    "pythia": (PythiaSection, pythia),
    "qwen2": (GroupedSection, qwen2),
    "qwen3": (Qwen3Section, qwen3),
    "smollm3": (SmolLM3Section, smollm3),
}
