"""One decoder, built from its description: embedding, layers of attention and gated FFN, norm, logits.

Llama's block (pre-norm RMSNorm, rotary positions, grouped queries, SwiGLU, no biases; Touvron et al., 2023, section
2.2) with what the small models add: blocks applied twice (MobileLLM-LS), one FFN for all layers (MobiLlama), and
widths that grow with depth with normed queries and keys (OpenELM). One device; parallelism is `trainer/parallel.py`.

Shape suffixes: B rows, T new positions, S positions seen, M model width, V vocabulary, F FFN width, H query heads,
K key/value heads, G query heads per key head (H = K * G), D head width, E half of D. Matrices are (outputs, inputs).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.formats.errors import EverystepError
from trainer.description import LayerSpec, ModelSpec, initial_std, tensor_shapes
from trainer.exact import normal, rotary_tables
from trainer.product import matmul

QUERY_BLOCK = 128

Rotary = tuple[Tensor, Tensor]


class Decoder(nn.Module):
    """tokens_BT -> logits_BTV. Its parameters are exactly `tensor_shapes(spec)`; none has values before
    `initialize` or `load_tensors`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = Matrix(spec.vocabulary, spec.width)
        self.layers = nn.ModuleList(
            Layer(spec.width, layer, spec.norm_epsilon, owns_ffn=spec.ffn_owner[index] == index)
            for index, layer in enumerate(spec.layers)
        )
        self.final_norm = RMSNorm(spec.width, spec.norm_epsilon)
        self.output = None if spec.tied_embedding else Matrix(spec.vocabulary, spec.width)
        self._rotary: dict[tuple[int, torch.device], Rotary] = {}

    def forward(self, tokens_BT: Tensor, cache: "Cache | None" = None) -> Tensor:
        """Logits_BTV of the next token after each of `tokens_BT`; with a cache these go on where it ends."""
        past = 0 if cache is None else cache.length
        length = past + tokens_BT.shape[1]
        if length > self.spec.context:
            raise EverystepError(f"{length} positions do not fit the model's context of {self.spec.context}")
        x_BTM = functional.embedding(tokens_BT, self.embedding.weight)
        for slot, index in enumerate(self.spec.applications):
            layer, owner = self.layers[index], self.layers[self.spec.ffn_owner[index]]
            rotary = self._rotary_between(past, length, self.spec.layers[index].head_width, x_BTM.device)
            x_BTM = layer(x_BTM, owner.ffn, rotary, cache, slot)
        if cache is not None:
            cache.length = length
        output = self.embedding if self.output is None else self.output
        logits_BTV: Tensor = output(self.final_norm(x_BTM))
        return logits_BTV

    def _rotary_between(self, start: int, stop: int, head_width: int, device: torch.device) -> Rotary:
        """Rows `start:stop` of the rotary tables, each (T, E); computed once for each head width and device."""
        if (head_width, device) not in self._rotary:
            tables = rotary_tables(self.spec.rotary_base, head_width, self.spec.context)
            self._rotary[head_width, device] = (
                torch.from_numpy(tables[0]).to(device),
                torch.from_numpy(tables[1]).to(device),
            )
        cosine_TE, sine_TE = self._rotary[head_width, device]
        return cosine_TE[start:stop], sine_TE[start:stop]


class Layer(nn.Module):
    """One stored layer: x_BTM -> x_BTM. The FFN is handed in, because MobiLlama's layers all use one owner's."""

    def __init__(self, width: int, spec: LayerSpec, epsilon: float, owns_ffn: bool) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, epsilon)
        self.attention = Attention(width, spec, epsilon)
        self.ffn_norm = RMSNorm(width, epsilon)
        self.ffn = GatedFFN(width, spec.ffn_width) if owns_ffn else None

    def forward(self, x_BTM: Tensor, ffn: nn.Module, rotary: Rotary, cache: "Cache | None", slot: int) -> Tensor:
        x_BTM = x_BTM + self.attention(self.attention_norm(x_BTM), rotary, cache, slot)
        y_BTM: Tensor = x_BTM + ffn(self.ffn_norm(x_BTM))
        return y_BTM


class Attention(nn.Module):
    """Causal attention with grouped queries: x_BTM -> y_BTM (Ainslie et al., 2023)."""

    def __init__(self, width: int, spec: LayerSpec, epsilon: float) -> None:
        super().__init__()
        self.head_width = spec.head_width
        self.query = Matrix(spec.query_heads * spec.head_width, width)
        self.key = Matrix(spec.kv_heads * spec.head_width, width)
        self.value = Matrix(spec.kv_heads * spec.head_width, width)
        self.output = Matrix(width, spec.query_heads * spec.head_width)
        self.query_norm = RMSNorm(spec.head_width, epsilon) if spec.qk_norm else None
        self.key_norm = RMSNorm(spec.head_width, epsilon) if spec.qk_norm else None

    def forward(self, x_BTM: Tensor, rotary: Rotary, cache: "Cache | None", slot: int) -> Tensor:
        split = (*x_BTM.shape[:2], -1, self.head_width)
        q_BTHD, k_BTKD, v_BTKD = (m(x_BTM).view(split) for m in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:  # before the rotation: OpenELM, section 2.1
            q_BTHD, k_BTKD = self.query_norm(q_BTHD), self.key_norm(k_BTKD)
        q_BHTD, k_BKSD, v_BKSD = q_BTHD.transpose(1, 2), k_BTKD.transpose(1, 2), v_BTKD.transpose(1, 2)
        q_BHTD, k_BKSD = rotate(q_BHTD, rotary), rotate(k_BKSD, rotary)
        if cache is not None:
            k_BKSD, v_BKSD = cache.extend(slot, k_BKSD, v_BKSD)
        y_BTM: Tensor = self.output(attend(q_BHTD, k_BKSD, v_BKSD).transpose(1, 2).flatten(2))
        return y_BTM


class GatedFFN(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), x_BTM -> y_BTM (Shazeer, 2020, equation 6)."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate = Matrix(ffn_width, width)
        self.up = Matrix(ffn_width, width)
        self.down = Matrix(width, ffn_width)

    def forward(self, x_BTM: Tensor) -> Tensor:
        h_BTF = functional.silu(self.gate(x_BTM)) * self.up(x_BTM)
        y_BTM: Tensor = self.down(h_BTF)
        return y_BTM


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension, in fp32 (Zhang and Sennrich, 2019, equation 4).

    Written out: `F.rms_norm` takes 0.81 ms forward and backward on 512 x 128, this 0.64 (portable: 0.63, 0.65).
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        x_32 = x.float()
        scale = torch.rsqrt((x_32 * x_32).mean(-1, keepdim=True) + self.epsilon)
        return (x_32 * scale).to(x.dtype) * self.weight


class Matrix(nn.Module):
    """y = x @ W^T. Unlike `nn.Linear` it draws nothing from torch's global generator when it is built."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return matmul(x.flatten(0, -2), self.weight.t()).view(*x.shape[:-1], -1)


class Cache:
    """Keys and values seen so far, one slot for each application.

    A block that is applied twice sees two different histories: with one slot for both, its second run would attend
    to the keys of its first (what MobileLLM's own code does by default; see docs/decisions.md).
    """

    def __init__(self) -> None:
        self.length = 0
        self._slots: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions to a slot; returns all its keys and values, (B, K, S, D) each."""
        if slot in self._slots:
            k_BKSD, v_BKSD = self._slots[slot]
            k_BKTD, v_BKTD = torch.cat((k_BKSD, k_BKTD), dim=2), torch.cat((v_BKSD, v_BKTD), dim=2)
        self._slots[slot] = k_BKTD, v_BKTD
        return k_BKTD, v_BKTD


def rotate(x_BHTD: Tensor, rotary: Rotary) -> Tensor:
    """Turn the pair (x_e, x_{e + D/2}) at position t by its angle (Su et al., 2021, equation 34; halves as Llama)."""
    cosine_TE, sine_TE = rotary
    a_BHTE, b_BHTE = x_BHTD.chunk(2, dim=-1)
    return torch.cat((a_BHTE * cosine_TE - b_BHTE * sine_TE, b_BHTE * cosine_TE + a_BHTE * sine_TE), dim=-1)


def attend(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for the last T of S positions, each seeing itself and what came before it.

    Blocks of queries meet only the keys they may see. Plain products and not `scaled_dot_product_attention`: at
    B 2, T 256, H 4, K 2, D 32 forward and backward take 12.9 ms against 29.7 in the portable numerics class (MKL in
    compatible mode runs the fused kernel's small products badly), 4.7 against 3.8 natively; both are deterministic.
    """
    (B, H, T, D), (K, S) = q_BHTD.shape, k_BKSD.shape[1:3]
    q_BKGTD = (q_BHTD * D**-0.5).view(B, K, H // K, T, D)
    blocks = []
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        seen = S - T + stop
        q_BKXD = q_BKGTD[:, :, :, start:stop].reshape(B, K, -1, D)  # X = G * (stop - start)
        scores_BKXS = matmul(q_BKXD, k_BKSD[:, :, :seen].transpose(-1, -2))
        weights_BKXS = softmax_below(scores_BKXS.view(B, K, H // K, stop - start, seen), S - T + start)
        y_BKXD = matmul(weights_BKXS.view(B, K, -1, seen), v_BKSD[:, :, :seen])
        blocks.append(y_BKXD.view(B, H, stop - start, D))
    return torch.cat(blocks, dim=2)


def softmax_below(scores_TS: Tensor, first: int) -> Tensor:
    """Softmax over the last dimension where row t, at position `first + t`, sees columns 0 .. `first + t`."""
    future_TS = scores_TS.new_full(scores_TS.shape[-2:], float("-inf")).triu(first + 1)
    return (scores_TS + future_TS).softmax(-1)


def initialize(model: Decoder, seed: int) -> None:
    """Set step 0. Each tensor is a function of (seed, its name) and its description; no generator is touched."""
    tensors = {}
    for name, shape in tensor_shapes(model.spec).items():
        std = initial_std(model.spec, name)
        tensors[name] = np.ones(shape, np.float32) if std is None else normal(seed, name, shape, std)
    load_tensors(model, tensors)


def load_tensors(model: Decoder, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Copy a checkpoint's tensors into the model: exactly its names and shapes, or an error."""
    parameters = dict(model.named_parameters())
    if parameters.keys() != tensors.keys():
        difference = sorted(parameters.keys() ^ tensors.keys())
        raise EverystepError(f"tensors do not fit the model; missing or unknown: {', '.join(difference)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tensors[name].shape != tuple(parameter.shape):
                raise EverystepError(f"{name}: shape {tensors[name].shape}, the model has {tuple(parameter.shape)}")
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(tensors[name])))


def dump_tensors(model: Decoder) -> dict[str, npt.NDArray[np.float32]]:
    """A copy of every unique tensor by name, float32 on the CPU. `load_tensors(m, dump_tensors(m))` changes nothing."""
    return {name: p.detach().to("cpu", torch.float32).numpy().copy() for name, p in model.named_parameters()}
