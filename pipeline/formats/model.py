"""The description of a decoder: its shapes, and which stored tensor acts at which depth.

A model is a list of *stored* layers and a list of *applications*: the stored layer that acts at each depth.
MobileLLM-LS applies every stored layer twice in a row; MobiLlama's layers share the feed-forward network (FFN)
of one owner; OpenELM's layers differ in width; Pythia's run attention and FFN side by side; OLMo 2's norm what
attention and FFN give, not what they read. A tensor that acts twice is stored, counted and trained once.

This needs no torch: export, cards and audits read descriptions without it. `trainer/model.py` builds the model.
"""

from dataclasses import asdict, dataclass, replace
from math import prod, sqrt
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.base.errors import EverystepError, well_shaped
from pipeline.formats.bounds import MAX_CONTEXT, MAX_FFN_WIDTH, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH
from pipeline.formats.canonical import canonical

FORMAT = "everystep-model-3"
FORMAT_OF_FLAGS = "everystep-model-2"
"""The form before: `bias` and `qk_norm` were true or false, and nothing else was known of today's keys."""
NOT_IN_FORMAT_OF_FLAGS = {"norm_position", "rotary_scaling", "attention_within_documents", "end_token"}
"""Keys that the form before did not have."""
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True)
class Initialization:
    """Standard deviation of each matrix before training; norms start at one, biases at zero.

    `normal`: one `std` for every matrix, or `output_std` for the two that write to the residual stream (the output of
    attention and the down projection of the FFN). `openelm`: inputs^-1/2 for a matrix, width^-1/2 for the embedding,
    and width^-1/2 * (2 * applications)^-1/2 for the two that write to the residual stream; no `std`.
    """

    rule: Literal["normal", "openelm"]
    std: float | None = None
    output_std: float | None = None
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.rule == "normal":
            _require(self.std is not None and self.std > 0, f"std must be > 0 under the rule 'normal', got {self.std}")
            _require(self.output_std is None or self.output_std > 0, f"output_std must be > 0, got {self.output_std}")
        else:
            _require(self.std is None, f"std follows from the rule 'openelm'; remove std: {self.std}")
            _require(self.output_std is None, f"the rule 'openelm' gives it; remove output_std: {self.output_std}")


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """Slower rotation of the slow pairs of dimensions, for contexts past `original_context` (Llama 3.1).

    A pair turns n = `original_context` * frequency / 2 pi times in the original context. From `high_frequency_factor`
    turns on it keeps its frequency f, up to `low_frequency_factor` it gets f / `factor`, and between the two
    (1 - s) * f / `factor` + s * f with s = (n - low) / (high - low).
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        low, high = self.low_frequency_factor, self.high_frequency_factor
        _require_positive(self, "low_frequency_factor", "original_context")
        _require_at_most(self, original_context=MAX_CONTEXT)
        _require(self.factor >= 1, f"factor must be >= 1, got {self.factor}")
        _require(high > low, f"high_frequency_factor must be > low_frequency_factor {low}, got {high}")


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One stored layer: attention and an FFN, each with a norm, added to the residual stream.

    `norm_position`: a norm acts on what attention or the FFN reads (`before`) or on what it gives (`after`).
    `residual`: `sequential`, the FFN reads the sum of input and attention; `parallel`, both read the layer's input.
    `activation`: `swiglu` has gate, up and down; `gelu` only up and down.
    `bias`: which matrices have one: those of queries, keys and values, or all.
    `qk_norm`: queries and keys are normed before they are rotated, each head by itself or all heads as one vector.
    `rotary_share` of each head is rotated; of 0, the layer knows no positions.
    """

    query_heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    norm: Literal["rms", "layer"] = "rms"
    norm_position: Literal["before", "after"] = "before"
    activation: Literal["swiglu", "gelu"] = "swiglu"
    bias: Literal["query_key_value", "all"] | None = None
    qk_norm: Literal["head", "all_heads"] | None = None
    residual: Literal["sequential", "parallel"] = "sequential"
    rotary_share: float = 1.0
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        _require_positive(self, "query_heads", "kv_heads", "head_width", "ffn_width")
        _require_at_most(self, query_heads=MAX_WIDTH, head_width=MAX_WIDTH, ffn_width=MAX_FFN_WIDTH)
        _require(
            self.query_heads % self.kv_heads == 0,
            f"kv_heads: {self.kv_heads} does not divide query_heads {self.query_heads}; "
            f"choose a divisor such as {nearest_divisor(self.query_heads, self.kv_heads)}",
        )
        rotated = self.head_width * self.rotary_share
        _require(
            0 <= self.rotary_share <= 1 and rotated == int(rotated) and int(rotated) % 2 == 0,
            f"rotary positions need an even number of a head's dimensions; head_width {self.head_width} times "
            f"rotary_share {self.rotary_share} is {rotated:g}",
        )

    @property
    def rotary_width(self) -> int:
        """Number of dimensions of a head that are rotated, from the first on."""
        return int(self.head_width * self.rotary_share)

    @property
    def all_biased(self) -> bool:
        """Whether not only the matrix of queries, keys and values has a bias."""
        return self.bias == "all"

    @property
    def ffn_shape(self) -> tuple[int, str, bool]:
        """Facts on which layers that share an FFN must agree."""
        return self.ffn_width, self.activation, self.all_biased


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that fixes the function a model computes, apart from the values of its tensors."""

    vocabulary: int
    context: int
    width: int
    layers: tuple[LayerSpec, ...]
    applications: tuple[int, ...]
    """The stored layer at each depth: (0, 1, 2) for a plain model, (0, 0, 1, 1) for MobileLLM-LS."""
    ffn_owner: tuple[int, ...]
    """For each stored layer, the stored layer whose FFN tensors it uses: (0, 1, 2), or (0, 0, 0) for MobiLlama."""
    tied_embedding: bool
    rotary_base: float
    rotary_scaling: RotaryScaling | None = None
    norm_epsilon: float
    initialization: Initialization
    attention_within_documents: bool = False
    """Whether a token of a row sees only earlier tokens of its own document. A document ends with `end_token`."""
    end_token: int | None = None
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        _require_positive(self, "vocabulary", "context", "width", "rotary_base", "norm_epsilon")
        _require_at_most(self, vocabulary=MAX_VOCABULARY, context=MAX_CONTEXT, width=MAX_WIDTH)
        for name, depth in (("layers", len(self.layers)), ("applications", len(self.applications))):
            _require(depth <= MAX_LAYERS, f"{name}: {depth}, but at most {MAX_LAYERS} are allowed")
        stored = range(len(self.layers))
        _require(len(stored) > 0, "layers must hold at least one layer")
        _require(
            self.rotary_scaling is None or any(layer.rotary_share for layer in self.layers),
            "rotary_scaling: no layer rotates anything; make it null",
        )
        _require(
            set(self.applications) == set(stored),
            f"applications must use every stored layer 0..{len(stored) - 1} and no other, got {self.applications}",
        )
        _require(
            len(self.ffn_owner) == len(stored) and set(self.ffn_owner) <= set(stored),
            f"ffn_owner must name a stored layer 0..{len(stored) - 1} for each layer, got {self.ffn_owner}",
        )
        for layer, owner in enumerate(self.ffn_owner):
            _require(self.ffn_owner[owner] == owner, f"ffn_owner: layer {layer} names {owner}, which owns no FFN")
            _require(
                self.layers[layer].ffn_shape == self.layers[owner].ffn_shape,
                f"ffn_width: layer {layer} says {self.layers[layer].ffn_shape}, but uses the FFN of layer {owner}, "
                f"which is {self.layers[owner].ffn_shape} (width, activation, bias)",
            )

        if self.attention_within_documents:
            _require(
                self.end_token is not None and 0 <= self.end_token < self.vocabulary,
                f"end_token must be the id that ends each document, 0..{self.vocabulary - 1}, since "
                f"attention_within_documents is true, got {self.end_token}",
            )
        else:
            _require(
                self.end_token is None,
                f"end_token is read only where attention_within_documents is true; remove end_token: {self.end_token}",
            )

    @property
    def final_norm(self) -> str:
        """The norm before the logits is of the last layer's kind."""
        return self.layers[self.applications[-1]].norm

    def to_json(self) -> dict[str, Any]:
        """Return the model part of a checkpoint's config. Law: `ModelSpec.from_json(spec.to_json()) == spec`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, tree: Any, where: str = "config.json") -> "ModelSpec":
        """Read strictly: another format, an unknown key, a missing key or a wrong type names `where` and the key."""
        version = tree.get("format") if isinstance(tree, dict) else None
        _require(version in (FORMAT, FORMAT_OF_FLAGS), f"{where}: format must be {FORMAT!r}, got {version!r}")
        body = {key: value for key, value in tree.items() if key != "format"}
        if version == FORMAT_OF_FLAGS:
            with well_shaped(where):
                newer = {key for keys in (body, *body["layers"]) for key in keys} & NOT_IN_FORMAT_OF_FLAGS
                body["layers"] = [_without_flags(layer) for layer in body["layers"]]
            _require(not newer, f"{where}: {', '.join(sorted(newer))}: keys of {FORMAT!r}, but format is {version!r}")
        try:
            return _MODEL_SPEC.validate_json(canonical(body))
        except ValidationError as error:
            lines = [f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
            raise EverystepError("\n".join(lines)) from error
        except EverystepError as error:
            raise EverystepError(f"{where}: {error}") from error


def _without_flags(layer: dict[str, Any]) -> dict[str, Any]:
    """Translate a layer of the form before."""
    words: dict[str, dict[bool, str | None]] = {
        "bias": {False: None, True: "all"},
        "qk_norm": {False: None, True: "head"},
    }
    return layer | {key: word[layer[key]] for key, word in words.items()}


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every unique tensor, in the order of `Decoder.named_parameters()`.

    A matrix is (outputs, inputs), as torch keeps it: y = x @ W^T.
    """
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (spec.vocabulary, spec.width)}
    for index, layer in enumerate(spec.layers):
        owned = layer_shapes(spec.width, layer, owns_ffn=spec.ffn_owner[index] == index)
        shapes |= {f"layers.{index}.{name}": shape for name, shape in owned.items()}
    shapes |= _norm_shapes("final_norm", spec.width, spec.final_norm)
    if not spec.tied_embedding:
        shapes["output.weight"] = (spec.vocabulary, spec.width)
    return shapes


def layer_shapes(width: int, layer: LayerSpec, owns_ffn: bool = True) -> dict[str, tuple[int, ...]]:
    """Return name and shape of the tensors of one stored layer.

    The rows of `attention.query_key_value` are the query heads, the key heads, the value heads; those of
    `ffn.gate_up` the gate, then the up projection. One product is faster than two or three.
    """
    query_width, kv_width = layer.query_heads * layer.head_width, layer.kv_heads * layer.head_width
    shapes = _norm_shapes("attention_norm", width, layer.norm)
    shapes |= _matrix_shapes("attention.query_key_value", query_width + 2 * kv_width, width, layer.bias is not None)
    shapes |= _matrix_shapes("attention.output", width, query_width, layer.all_biased)
    if layer.qk_norm:
        normed = (layer.head_width,) * 2 if layer.qk_norm == "head" else (query_width, kv_width)
        shapes |= _norm_shapes("attention.query_norm", normed[0], layer.norm)
        shapes |= _norm_shapes("attention.key_norm", normed[1], layer.norm)
    shapes |= _norm_shapes("ffn_norm", width, layer.norm)
    if owns_ffn:
        if layer.activation == "swiglu":
            shapes |= _matrix_shapes("ffn.gate_up", 2 * layer.ffn_width, width, layer.all_biased)
        else:
            shapes |= _matrix_shapes("ffn.up", layer.ffn_width, width, layer.all_biased)
        shapes |= _matrix_shapes("ffn.down", width, layer.ffn_width, layer.all_biased)
    return shapes


def _norm_shapes(name: str, width: int, norm: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (width,)}
    return shapes if norm == "rms" else shapes | {f"{name}.bias": (width,)}


def _matrix_shapes(name: str, outputs: int, inputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return shapes | {f"{name}.bias": (outputs,)} if bias else shapes


def num_parameters(spec: ModelSpec) -> int:
    """Count unique trainable parameters: what a checkpoint stores."""
    return sum(prod(shape) for shape in tensor_shapes(spec).values())


def num_parameters_if_repeated(spec: ModelSpec) -> int:
    """Count parameters as if every layer had its own FFN: what MobiLlama's published files store (22 copies)."""
    return num_parameters(replace(spec, ffn_owner=tuple(range(len(spec.layers)))))


def initial_value(spec: ModelSpec, name: str) -> tuple[float, float]:
    """Return (mean, standard deviation) of the tensor `name` at step 0: norms are one, biases zero, matrices drawn."""
    if name.endswith(".bias"):
        return 0.0, 0.0
    if name.endswith("norm.weight"):
        return 1.0, 0.0
    writes_residual = name.endswith(("attention.output.weight", "ffn.down.weight"))
    rule = spec.initialization
    if rule.rule == "normal" and rule.std is not None:
        return 0.0, rule.output_std if writes_residual and rule.output_std is not None else rule.std
    if name == "embedding.weight":
        return 0.0, 1 / sqrt(spec.width)
    if writes_residual:
        return 0.0, 1 / sqrt(spec.width) / sqrt(2 * len(spec.applications))
    return 0.0, 1 / sqrt(tensor_shapes(spec)[name][1])


def unrolled(spec: ModelSpec) -> tuple[ModelSpec, dict[str, str]]:
    """Return the plain twin, which stores one layer a depth, and the stored tensor of each of its tensors.

    Law: with tensors copied along the second result, the twin's logits equal the model's bit for bit.
    """
    depths = range(len(spec.applications))
    twin = replace(
        spec,
        layers=tuple(spec.layers[index] for index in spec.applications),
        applications=tuple(depths),
        ffn_owner=tuple(depths),
    )
    origin = {}
    for name in tensor_shapes(twin):
        origin[name] = name
        if name.startswith("layers."):
            _, depth, rest = name.split(".", 2)
            stored = spec.applications[int(depth)]
            origin[name] = f"layers.{spec.ffn_owner[stored] if rest.startswith('ffn.') else stored}.{rest}"
    return twin, origin


def nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of `number` closest to `wanted`, the smaller of two."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - wanted), d))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise EverystepError(message)


def _require_positive(spec: LayerSpec | ModelSpec | RotaryScaling, *names: str) -> None:
    for name in names:
        _require(getattr(spec, name) > 0, f"{name} must be > 0, got {getattr(spec, name)}")


def _require_at_most(spec: LayerSpec | ModelSpec | RotaryScaling, **bounds: int) -> None:
    for name, most in bounds.items():
        _require(getattr(spec, name) <= most, f"{name} must be <= {most}, got {getattr(spec, name)}")


_MODEL_SPEC = TypeAdapter(ModelSpec)
