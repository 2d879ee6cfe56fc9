"""The memory that a training takes, computed from recipe and model before anything is allocated. No torch.

It counts what `trainer.model`, `trainer.operators`, `trainer.optimizer` and `trainer.parallel` allocate: on every
device the weights, the vectors in which gradients are summed, its share of the moments, what a micro-batch keeps for
its backward, and the most that comes and goes beside it. Under bfloat16 what matrices read and write takes half; the
residual stream stays in float32. Numbers of a token are counted in floats of 4 bytes.

The tensors that torch allocates are these within 2 %, on a CPU and on a GPU, or up to 5 % fewer (docs/benchmarks.md).
What the heap of a CPU keeps between blocks in use is not counted: `trainer.fits` gives it back where memory is short.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from pipeline.formats.model import LayerSpec, ModelSpec, layer_shapes, num_parameters, tensor_shapes

if TYPE_CHECKING:
    from trainer.recipe import Recipe

FLOAT = 4
LOSS_ROWS = {"cpu": 256, "cuda": 8192}
"""Rows whose logits exist at a time, by device. It decides bits: other blocks give other sums."""
KEPT_SHARES_BLOCK = 32
"""Queries of a block of `trainer.attention`, which keeps the shares of its softmax."""
KEPT_SHARES_LONGEST = 512
"""Positions up to which it does."""
QUERY_BLOCK = 128
"""Queries that meet their keys at a time in the class `portable`. It decides bits, too."""
OWN, OWN_COMPILED = 180_000_000, 330_000_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What decides the memory of a training, besides the model: some of a recipe, and how it is run."""

    micro_batch: int
    leaves: int
    """Leaves of the tree in which gradients are summed."""
    is_portable: bool = False
    is_half: bool = False
    """Whether layers compute in bfloat16."""
    compiled: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    processes: int = 1
    recompute: bool = False
    shards: int = 1
    """Number of processes that each hold a part of every tensor (`fully_shard`): 1 or `processes`."""
    saves: bool = True
    """Whether it writes checkpoints; a replay does not."""

    @classmethod
    def of(cls, recipe: "Recipe", **more: Any) -> "Setting":
        """Take from a recipe what it decides."""
        return cls(
            micro_batch=recipe.data.micro_batch,
            leaves=recipe.data.num_leaves,
            is_portable=recipe.numerics == "portable",
            is_half=recipe.precision == "bfloat16",
            compiled=recipe.compiled,
            **more,
        )

    @property
    def share(self) -> float:
        """Share of a float that a number takes which matrices read or write."""
        return 0.5 if self.is_half else 1.0


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process on its device."""

    own: int = 0
    """The process itself on a CPU: Python, torch and what it has compiled, without the files that processes share."""
    weights: int
    gradients: int = 0
    """Vectors of the tree that sums them."""
    exchange: int = 0
    """What peers send, where they share no memory."""
    moments: int = 0
    activations: int = 0
    """What a micro-batch keeps for its backward."""
    passing: int = 0
    """The most that comes and goes beside it: a block of logits, or the gradients inside a layer."""
    copies: int = 0
    """Weights and moments once more: a state that is digested, or being written."""
    writes_beside: bool = False
    """Whether the copy is there while the next step computes: in a training on a CPU."""
    shared: int = 0
    """What is there once for all processes of a host: on a CPU the weights."""

    @property
    def state(self) -> int:
        """What is there all the time."""
        return self.weights + self.gradients + self.moments

    @property
    def peak(self) -> int:
        """The most that tensors take at a time."""
        computing = max(self.activations + self.passing, self.exchange)
        return self.state + (computing + self.copies if self.writes_beside else max(computing, self.copies))


def training_memory(spec: ModelSpec, setting: Setting) -> Memory:
    """Count one of equal processes."""
    vector = FLOAT * num_parameters(spec)
    tokens = setting.micro_batch * spec.context
    kept = kept_by_layers(spec, setting) + kept_after_layers(spec, setting)
    head = spec.vocabulary * spec.width  # the gradient of the logits' matrix is made on the way forward
    on_cpu = setting.device == "cpu"
    whole = Memory(
        own=(OWN_COMPILED if setting.compiled else OWN) if on_cpu else 0,
        weights=vector,
        gradients=vector * (setting.leaves // setting.processes).bit_length(),
        exchange=0 if setting.processes == 1 or on_cpu else vector,
        moments=2 * vector // setting.processes,
        activations=int(FLOAT * (tokens * kept + head)) + (vector // 2 if setting.is_half else 0),  # casts of weights
        passing=max(
            block_of_logits(spec, setting),
            int(FLOAT * (tokens * widest_layer(spec, setting) + largest_matrix(spec))),
            scores_of_attention(spec, setting),
        ),
        # A GPU's goes to the host vector by vector.
        copies=3 * vector if on_cpu else vector + (vector // setting.processes if setting.processes > 1 else 0),
        writes_beside=on_cpu and setting.saves,
        shared=vector if on_cpu else 0,
    )
    return sharded(whole, spec, setting) if setting.shards > 1 else whole


def sharded(whole: Memory, spec: ModelSpec, setting: Setting) -> Memory:
    """Divide weights, gradients and moments among the shards. Two layers are gathered at a time, the one that computes
    and the next, with the gradient of the first; the embedding and the matrix of the logits are, all along. A state is
    gathered by one process, in the memory of its host."""
    layer = FLOAT * max(sum(map(prod, layer_shapes(spec.width, layer).values())) for layer in spec.layers)
    ends = FLOAT * sum(prod(shape) for name, shape in tensor_shapes(spec).items() if not name.startswith("layers."))
    part = whole.weights // setting.shards
    # A layer is cast when it computes; unless it is recomputed, backward keeps what was cast.
    casts = whole.weights // 2 if setting.is_half and setting.recompute else 0
    return replace(
        whole,
        weights=part,
        gradients=part,
        exchange=0,
        moments=2 * part,
        activations=whole.activations - casts,
        passing=whole.passing + 3 * layer + 2 * ends,
        copies=whole.copies // setting.shards if setting.device == "cpu" else 0,
        shared=0,
    )


def reading_memory(spec: ModelSpec, rows: int, length: int, logit_rows: int, asks: int = 1) -> Memory:
    """Count a process that reads `rows` of `length` tokens with one checkpoint after another, and trains nothing.

    Where a row holds several continuations, `asks`, its length is that of all, and attention needs a mask.
    """
    tokens = rows * length
    inside = max(3 * spec.width + max(4 * layer.ffn_width, 4 * attention_width(layer)) for layer in spec.layers)
    heads = max(layer.query_heads for layer in spec.layers)
    scores = 3 * rows * heads * min(QUERY_BLOCK, length) * length
    mask = 2 * tokens * length if asks > 1 else 0
    vector = FLOAT * num_parameters(spec)
    passing = FLOAT * (max(tokens * inside, scores, 4 * logit_rows * spec.vocabulary) + tokens * spec.width + mask)
    return Memory(own=OWN, weights=vector, passing=passing, copies=vector)


# Floats that a token keeps for the way back


def kept_by_layers(spec: ModelSpec, setting: Setting) -> float:
    layers = [spec.layers[index] for index in spec.applications]
    return sum(spec.width if setting.recompute else kept_by_layer(spec, layer, setting) for layer in layers)


def kept_by_layer(spec: ModelSpec, layer: LayerSpec, setting: Setting) -> float:
    """What the operators of one layer keep for their derivatives, as `trainer.model` computes them."""
    inputs = 1 if layer.residual == "parallel" else 2  # what the two norms read, or the matrices before them
    norms = inputs * spec.width + 2 * kept_by_norm(layer.norm, spec.width, setting)
    heads = layer.query_heads + layer.kv_heads
    attention = setting.share * attention_width(layer)
    if keeps_shares(spec, setting) and layer.qk_norm:  # values are copied
        attention += layer.kv_heads * layer.head_width
    elif keeps_shares(spec, setting) and layer.rotary_share:  # all are copied: what was projected is let go
        attention -= heads * layer.head_width
    attention += layer.query_heads * kept_by_query(spec, setting)
    if layer.qk_norm:
        # Scales; what they norm is kept already, what they give is not needed.
        attention += heads if layer.qk_norm == "head" else 2
    # Gate and up, the gate's activation, their product. A compiler computes the activation again.
    ffn = (4 if layer.activation == "swiglu" else 2) - setting.compiled
    return norms + attention + setting.share * ffn * layer.ffn_width


def keeps_shares(spec: ModelSpec, setting: Setting) -> bool:
    """Whether attention is that of `trainer.attention`."""
    plain = setting.device == "cpu" and not (setting.is_portable or setting.is_half)
    return plain and spec.context <= KEPT_SHARES_LONGEST and spec.context % KEPT_SHARES_BLOCK == 0


def attention_width(layer: LayerSpec) -> int:
    """Numbers of a token: queries, keys and values, the first two rotated or normed, and what attention gives."""
    heads = 2 * layer.query_heads + 2 * layer.kv_heads
    if layer.rotary_share or layer.qk_norm:
        heads += layer.query_heads + layer.kv_heads
    return heads * layer.head_width


def kept_by_query(spec: ModelSpec, setting: Setting) -> float:
    """What attention keeps of each query of a head: the logarithm of its softmax's sum or, in the class `portable` and
    in `trainer.attention`, the weights of the keys that its block of queries meets."""
    if keeps_shares(spec, setting):
        return (spec.context + KEPT_SHARES_BLOCK) / 2
    if not setting.is_portable:
        return 1
    starts = range(0, spec.context, QUERY_BLOCK)
    stops = [min(start + QUERY_BLOCK, spec.context) for start in starts]
    return sum((stop - start) * stop for start, stop in zip(starts, stops, strict=True)) / spec.context


def kept_after_layers(spec: ModelSpec, setting: Setting) -> float:
    """What the last norm reads, and what it gives, in float32: the loss casts it."""
    return spec.width + kept_by_norm(spec.final_norm, spec.width, replace(setting, is_half=False))


def kept_by_norm(kind: str, width: int, setting: Setting) -> float:
    """The product with the weights, which the next matrix reads, and a scale, or mean and scale."""
    return setting.share * width + (1 if kind == "rms" else 2)


# What comes and goes


def widest_layer(spec: ModelSpec, setting: Setting) -> float:
    """Floats of a token: the most inside one layer on the way back; recomputed, with what that layer keeps."""
    inside = max(3 * spec.width + setting.share * 4 * layer.ffn_width for layer in spec.layers)
    if not setting.recompute:
        return inside
    return inside + max(kept_by_layer(spec, layer, setting) for layer in spec.layers)


def block_of_logits(spec: ModelSpec, setting: Setting) -> int:
    """Bytes of a block of logits, its shares, and what is left of the block before. Under bfloat16 logits exist in both
    formats; fused by a compiler, in that one alone."""
    floats = 3.0
    if setting.is_half:
        floats = 1.5 if setting.compiled else 3.5
    rows = min(LOSS_ROWS[setting.device], setting.micro_batch * spec.context)
    return int(FLOAT * floats * rows * spec.vocabulary)


def scores_of_attention(spec: ModelSpec, setting: Setting) -> int:
    """Bytes of a block of scores in the class `portable`: before and after their mask, and the shares."""
    if not setting.is_portable:
        return 0
    heads = max(layer.query_heads for layer in spec.layers)
    return FLOAT * 3 * setting.micro_batch * heads * min(QUERY_BLOCK, spec.context) * spec.context


def largest_matrix(spec: ModelSpec) -> int:
    """Floats. Its gradient exists once before it is added."""
    return max(prod(shape) for layer in spec.layers for shape in layer_shapes(spec.width, layer).values())
