"""One decoder, described by data: which shapes it has, and which stored tensor acts at which depth.

A model is a list of *stored* layers and a list of *applications*: the stored layer that acts at each depth.
MobileLLM-LS applies every stored layer twice in a row; MobiLlama's layers share the feed-forward network (FFN)
of one owner; OpenELM's layers differ in width. A tensor that acts twice is stored, counted and trained once.

No torch here: export, cards and audits read descriptions without it. `trainer/model.py` builds the model.
"""

from dataclasses import asdict, dataclass, replace
from math import prod, sqrt
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.formats.canonical import canonical
from pipeline.formats.errors import EverystepError

FORMAT = "everystep-model-1"
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True)
class Initialization:
    """The standard deviation of each matrix before training; norms start at one.

    `normal`: one `std` for every matrix. `openelm`: inputs^-1/2 for a matrix, width^-1/2 for the embedding, and
    width^-1/2 * (2 * applications)^-1/2 for the two matrices that write to the residual stream; no `std`.
    """

    rule: Literal["normal", "openelm"]
    std: float | None = None
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.rule == "normal":
            _require(self.std is not None and self.std > 0, f"std must be > 0 under the rule 'normal', got {self.std}")
        else:
            _require(self.std is None, f"std follows from the rule 'openelm'; remove std: {self.std}")


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One stored layer: attention, then a gated FFN, each behind a norm and added to the residual stream."""

    query_heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    qk_norm: bool = False
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        _require_positive(self, "query_heads", "kv_heads", "head_width", "ffn_width")
        _require(
            self.query_heads % self.kv_heads == 0,
            f"kv_heads: {self.kv_heads} does not divide query_heads {self.query_heads}; "
            f"choose a divisor such as {nearest_divisor(self.query_heads, self.kv_heads)}",
        )
        _require(self.head_width % 2 == 0, f"head_width must be even for rotary positions, got {self.head_width}")


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
    norm_epsilon: float
    initialization: Initialization
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        _require_positive(self, "vocabulary", "context", "width", "rotary_base", "norm_epsilon")
        stored = range(len(self.layers))
        _require(len(stored) > 0, "layers must hold at least one layer")
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
                self.layers[layer].ffn_width == self.layers[owner].ffn_width,
                f"ffn_width: layer {layer} says {self.layers[layer].ffn_width}, but uses the FFN of layer {owner}, "
                f"which is {self.layers[owner].ffn_width} wide",
            )

    def to_json(self) -> dict[str, Any]:
        """The model part of a checkpoint's config. Law: `ModelSpec.from_json(spec.to_json()) == spec`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, tree: Any, where: str = "config.json") -> "ModelSpec":
        """Read strictly: another format, an unknown key, a missing key or a wrong type names `where` and the key."""
        version = tree.get("format") if isinstance(tree, dict) else None
        _require(version == FORMAT, f"{where}: format must be {FORMAT!r}, got {version!r}")
        body = {key: value for key, value in tree.items() if key != "format"}
        try:
            return _MODEL_SPEC.validate_json(canonical(body))
        except ValidationError as error:
            lines = [f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
            raise EverystepError("\n".join(lines)) from error
        except EverystepError as error:
            raise EverystepError(f"{where}: {error}") from error


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every unique tensor, in the order of `Decoder.named_parameters()`.

    A matrix is (outputs, inputs), as torch keeps it: y = x @ W^T.
    """
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (spec.vocabulary, spec.width)}
    for index, layer in enumerate(spec.layers):
        owned = layer_shapes(spec.width, layer, owns_ffn=spec.ffn_owner[index] == index)
        shapes |= {f"layers.{index}.{name}": shape for name, shape in owned.items()}
    shapes["final_norm.weight"] = (spec.width,)
    if not spec.tied_embedding:
        shapes["output.weight"] = (spec.vocabulary, spec.width)
    return shapes


def layer_shapes(width: int, layer: LayerSpec, owns_ffn: bool = True) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors of one stored layer."""
    query_width, kv_width = layer.query_heads * layer.head_width, layer.kv_heads * layer.head_width
    shapes: dict[str, tuple[int, ...]] = {
        "attention_norm.weight": (width,),
        "attention.query.weight": (query_width, width),
        "attention.key.weight": (kv_width, width),
        "attention.value.weight": (kv_width, width),
        "attention.output.weight": (width, query_width),
    }
    if layer.qk_norm:
        shapes["attention.query_norm.weight"] = (layer.head_width,)
        shapes["attention.key_norm.weight"] = (layer.head_width,)
    shapes["ffn_norm.weight"] = (width,)
    if owns_ffn:
        shapes["ffn.gate.weight"] = (layer.ffn_width, width)
        shapes["ffn.up.weight"] = (layer.ffn_width, width)
        shapes["ffn.down.weight"] = (width, layer.ffn_width)
    return shapes


def num_parameters(spec: ModelSpec) -> int:
    """Unique trainable parameters: what a checkpoint stores."""
    return sum(prod(shape) for shape in tensor_shapes(spec).values())


def num_parameters_if_repeated(spec: ModelSpec) -> int:
    """Parameters if every layer had an FFN of its own: what MobiLlama's published files store (22 copies)."""
    return num_parameters(replace(spec, ffn_owner=tuple(range(len(spec.layers)))))


def initial_std(spec: ModelSpec, name: str) -> float | None:
    """Standard deviation of the tensor `name` at step 0; None for a norm, which starts at one."""
    if name.endswith("norm.weight"):
        return None
    if spec.initialization.rule == "normal":
        return spec.initialization.std
    if name == "embedding.weight":
        return 1 / sqrt(spec.width)
    if name.endswith(("attention.output.weight", "ffn.down.weight")):
        return 1 / sqrt(spec.width) / sqrt(2 * len(spec.applications))
    return 1 / sqrt(tensor_shapes(spec)[name][1])


def unrolled(spec: ModelSpec) -> tuple[ModelSpec, dict[str, str]]:
    """The plain twin that stores one layer a depth, and the stored tensor behind each of its tensors.

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
    """The divisor of `number` closest to `wanted`, the smaller of two."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - wanted), d))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise EverystepError(message)


def _require_positive(spec: LayerSpec | ModelSpec, *names: str) -> None:
    for name in names:
        _require(getattr(spec, name) > 0, f"{name} must be > 0, got {getattr(spec, name)}")


_MODEL_SPEC = TypeAdapter(ModelSpec)
