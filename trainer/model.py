"""One decoder, built from its description: embedding, layers of attention and FFN, norm, logits.

Llama's block (pre-norm RMSNorm, rotary positions, grouped queries, SwiGLU, no biases; Touvron et al., 2023, section
2.2) with what the other families add: blocks applied twice (MobileLLM-LS), one FFN for all layers (MobiLlama),
widths that grow with depth and normed queries and keys (OpenELM), LayerNorm, GELU, biases and attention beside the
FFN (Pythia), norms of what attention and FFN give and of all heads as one (OLMo 2), layers that know no positions
(SmolLM3). One device; parallelism is `trainer/parallel.py`; what the layers compute with, `trainer/operators.py`.

Shape suffixes: B rows, T new positions, S positions seen, M model width, V vocabulary, F FFN width, H query heads,
K key/value heads, G query heads per key head (H = K * G), D head width, E half of the dimensions that are rotated,
C columns of any matrix. Matrices are (outputs, inputs).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.base.errors import EverystepError
from pipeline.formats.initial import initial_tensors
from pipeline.formats.model import LayerSpec, ModelSpec
from trainer.attention import attend_in_blocks, suits_blocks
from trainer.exact import rotary_tables
from trainer.matmul import is_portable, linear, matmul
from trainer.memory import QUERY_BLOCK
from trainer.operators import (
    LossBlock,
    compiled_loss_block,
    embed,
    loss_block,
    next_token_loss,
    next_token_losses,
    rms_norm,
)

SHORT_DOCUMENT = 32
"""Mean tokens of a document below which a mask takes less time than one document after another. It decides bits."""

Rotary = tuple[Tensor, Tensor]


class Tree(NamedTuple):
    """What takes the place of a row's plain order, where a row holds several continuations of one context."""

    positions_BT: Tensor  # noqa: N815
    """Position of each token in its own text."""
    seen_BTT: Tensor  # noqa: N815
    """Whether a token sees another one; none sees a later one."""


class Decoder(nn.Module):
    """tokens_BT -> logits_BTV. Its parameters are exactly `tensor_shapes(spec)`; none has values before
    `initialize` or `load_tensors`."""

    def __init__(self, spec: ModelSpec, recompute: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.recompute = recompute
        self.embedding = Matrix(spec.vocabulary, spec.width)
        self.layers = nn.ModuleList(
            Layer(spec.width, layer, spec.norm_epsilon, owns_ffn=spec.ffn_owner[index] == index)
            for index, layer in enumerate(spec.layers)
        )
        self.final_norm = norm(spec.final_norm, spec.width, spec.norm_epsilon)
        self.output = None if spec.tied_embedding else Matrix(spec.vocabulary, spec.width)
        self.loss_block: LossBlock = loss_block
        self.is_compiled = False
        self._rotary: dict[tuple[int, torch.device], Rotary] = {}

    def forward(self, tokens_BT: Tensor, cache: "Cache | None" = None) -> Tensor:
        """Compute logits_BTV of the next token after each of `tokens_BT`, which continue the cache if there is one."""
        return linear(self.hidden(tokens_BT, cache), self.head_VM)

    def loss(self, rows_BT: Tensor, z_loss: float = 0.0, forgotten_BT: Tensor | None = None) -> Tensor:
        """Compute the mean cross entropy in nats of the targets `rows[:, 1:]` given `rows[:, :-1]`; a forgotten target
        counts as one of loss zero."""
        x_BTM = self.hidden(rows_BT[:, :-1])
        forgotten = None if forgotten_BT is None else forgotten_BT[:, 1:].flatten()
        targets_N = rows_BT[:, 1:].flatten()
        return next_token_loss(x_BTM.flatten(0, 1), self.head_VM, targets_N, z_loss, forgotten, self.loss_block)

    def losses(self, rows_BT: Tensor) -> Tensor:
        """Compute the cross entropy in nats of each target, losses_BT; without a derivative."""
        with torch.no_grad():
            x_BTM = self.hidden(rows_BT[:, :-1])
            targets_BT = rows_BT[:, 1:]
            losses_N = next_token_losses(x_BTM.flatten(0, 1), self.head_VM, targets_BT.flatten())
            return losses_N.view(targets_BT.shape)

    def hidden(self, tokens_BT: Tensor, cache: "Cache | None" = None, tree: Tree | None = None) -> Tensor:
        """Compute the last hidden states x_BTM, from which the logits are one product away. A tree has no cache."""
        past = 0 if cache is None else cache.length
        length = past + tokens_BT.shape[1] if tree is None else 1 + int(tree.positions_BT.max())
        if length > self.spec.context:
            raise EverystepError(f"{length} positions do not fit the model's context of {self.spec.context}")
        x_BTM = embed(tokens_BT, self.embedding.weight)
        seen_BTS, lengths = None if tree is None else tree.seen_BTT, None
        if self.spec.attention_within_documents:
            lengths = self._lengths_if_one_by_one(tokens_BT) if cache is None and tree is None else None
            if lengths is None:
                seen_BTS = self._seen_within_documents(tokens_BT, cache, tree)
        mask_BTS = None if seen_BTS is None else x_BTM.new_zeros(seen_BTS.shape).masked_fill(~seen_BTS, -torch.inf)
        for slot, index in enumerate(self.spec.applications):
            layer, owner = self.layers[index], self.layers[self.spec.ffn_owner[index]]
            width = self.spec.layers[index].rotary_width
            rotary = self._rotary_between(past, length, width, x_BTM.device) if width else None
            if tree is not None and rotary is not None:
                rotary = rotary[0][tree.positions_BT], rotary[1][tree.positions_BT]
            arguments = (x_BTM, owner.ffn, rotary, cache, slot, mask_BTS, lengths)
            if self.recompute and torch.is_grad_enabled():
                x_BTM = checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTM = layer(*arguments)
        if cache is not None:
            cache.length = length
        y_BTM: Tensor = self.final_norm(x_BTM)
        return y_BTM

    @property
    def head_VM(self) -> Tensor:  # noqa: N802
        """The matrix of the logits: the embedding where it is tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    def units(self) -> list[nn.Module]:
        """List what a sharded model is gathered by: FFNs that several layers use, then the layers."""
        shared = sorted({owner for index, owner in enumerate(self.spec.ffn_owner) if owner != index})
        return [*(self.layers[owner].ffn for owner in shared), *self.layers]

    def compile_layers(self, whole: bool = True) -> None:
        """Have each layer's operators fused: the `whole` layer, or the parts around what a compiler cannot see.

        Layers of one shape share a compiled form: warm-up is that of one. torch gives up after 8 forms of a function;
        OpenELM has one for each layer. It would also compile test programs to find out whether the processor can do
        what it claims: a fifth of the warm-up. On a GPU it would choose among kernels that sum in different orders by
        which was faster just now, so two runs could differ.
        """
        from torch._dynamo import config as tracing
        from torch._inductor import config

        torch.use_deterministic_algorithms(True)  # tells the compiler too
        config.deterministic = self.embedding.weight.is_cuda
        config.cpp.vec_isa_ok = True
        tracing.recompile_limit = 8 * len(self.layers)
        for layer in self.layers:
            layer.compile(fullgraph=whole, dynamic=False)
        self.loss_block = compiled_loss_block() if self.embedding.weight.is_cuda else loss_block
        self.is_compiled = True

    def _lengths_if_one_by_one(self, tokens_BT: Tensor) -> list[int] | None:
        """Return the lengths of the documents if each is attended to alone, and not all under a mask.

        Compiled, each new length would be another program; on a GPU many small kernels take longer than a large one,
        and on a CPU short documents do, too.
        """
        if self.is_compiled or tokens_BT.is_cuda:
            return None
        lengths = document_lengths(tokens_BT, self.spec.end_token)
        return lengths if tokens_BT.numel() >= SHORT_DOCUMENT * len(lengths) else None

    def _seen_within_documents(self, tokens_BT: Tensor, cache: "Cache | None", tree: Tree | None) -> Tensor:
        """Compute which of S positions each of the last T sees: of those that are no later, its own document's."""
        T, tokens_BS = tokens_BT.shape[1], tokens_BT if cache is None else cache.extend_tokens(tokens_BT)
        S = tokens_BS.shape[1]
        assert self.spec.end_token is not None  # else nothing is cut
        is_end_BS = tokens_BS.eq(self.spec.end_token).long()
        if tree is None:
            seen_BSS = torch.ones(1, S, S, dtype=torch.bool, device=tokens_BS.device).tril()
            ended_BS = is_end_BS.cumsum(1) - is_end_BS
        else:
            seen_BSS = tree.seen_BTT
            ended_BS = (seen_BSS * is_end_BS.unsqueeze(1)).sum(-1) - is_end_BS
        # Of two positions of which one sees the other, as many documents have ended before both: it is the same one.
        return (seen_BSS & (ended_BS.unsqueeze(2) == ended_BS.unsqueeze(1)))[:, S - T :]

    def _rotary_between(self, start: int, stop: int, width: int, device: torch.device) -> Rotary:
        """Return rows `start:stop` of the rotary tables, each (T, E); computed once for each width and device."""
        if (width, device) not in self._rotary:
            tables = rotary_tables(self.spec.rotary_base, width, self.spec.context, self.spec.rotary_scaling)
            self._rotary[width, device] = torch.from_numpy(tables[0]).to(device), torch.from_numpy(tables[1]).to(device)
        cosine_TE, sine_TE = self._rotary[width, device]
        return cosine_TE[start:stop], sine_TE[start:stop]


class Layer(nn.Module):
    """One stored layer: x_BTM -> x_BTM. The FFN is handed in, because MobiLlama's layers all use one owner's."""

    def __init__(self, width: int, spec: LayerSpec, epsilon: float, owns_ffn: bool) -> None:
        super().__init__()
        self.parallel = spec.residual == "parallel"
        self.norms_after = spec.norm_position == "after"
        self.attention_norm = norm(spec.norm, width, epsilon)
        self.attention = Attention(width, spec, epsilon)
        self.ffn_norm = norm(spec.norm, width, epsilon)
        self.ffn = FFN(width, spec) if owns_ffn else None

    def forward(
        self,
        x_BTM: Tensor,
        ffn: nn.Module,
        rotary: Rotary | None,
        cache: "Cache | None",
        slot: int,
        mask_BTS: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> Tensor:
        if self.norms_after:
            y_BTM: Tensor = x_BTM + self.attention_norm(self.attention(x_BTM, rotary, cache, slot, mask_BTS, lengths))
            z_BTM: Tensor = self.ffn_norm(ffn(x_BTM if self.parallel else y_BTM))
            return y_BTM + z_BTM
        y_BTM = x_BTM + self.attention(self.attention_norm(x_BTM), rotary, cache, slot, mask_BTS, lengths)
        z_BTM = ffn(self.ffn_norm(x_BTM if self.parallel else y_BTM))
        return y_BTM + z_BTM


class Attention(nn.Module):
    """Causal attention with grouped queries: x_BTM -> y_BTM (Ainslie et al., 2023)."""

    def __init__(self, width: int, spec: LayerSpec, epsilon: float) -> None:
        super().__init__()
        self.heads = (spec.query_heads, spec.kv_heads, spec.kv_heads)
        self.head_width = spec.head_width
        self.query_key_value = Matrix(sum(self.heads) * spec.head_width, width, spec.bias is not None)
        self.output = Matrix(width, spec.query_heads * spec.head_width, spec.all_biased)
        self.norms_all_heads = spec.qk_norm == "all_heads"
        query_heads, kv_heads = (spec.query_heads, spec.kv_heads) if self.norms_all_heads else (1, 1)
        self.query_norm = norm(spec.norm, query_heads * spec.head_width, epsilon) if spec.qk_norm else None
        self.key_norm = norm(spec.norm, kv_heads * spec.head_width, epsilon) if spec.qk_norm else None

    def forward(
        self,
        x_BTM: Tensor,
        rotary: Rotary | None,
        cache: "Cache | None",
        slot: int,
        mask_BTS: Tensor | None,
        lengths: list[int] | None,
    ) -> Tensor:
        heads_BTCD = self.query_key_value(x_BTM).unflatten(-1, (-1, self.head_width))
        q_BTHD, k_BTKD, v_BTKD = heads_BTCD.split(self.heads, dim=2)
        if self.query_norm is not None and self.key_norm is not None:  # before the rotation: OpenELM, section 2.1
            q_BTHD, k_BTKD = self._normed(q_BTHD, self.query_norm), self._normed(k_BTKD, self.key_norm)
        if rotary is not None:
            q_BTHD, k_BTKD = rotate(q_BTHD, rotary), rotate(k_BTKD, rotary)
        q_BHTD, k_BKSD, v_BKSD = (x_BTCD.transpose(1, 2) for x_BTCD in (q_BTHD, k_BTKD, v_BTKD))
        if cache is not None:
            k_BKSD, v_BKSD = cache.extend(slot, k_BKSD, v_BKSD)
        if lengths is None:
            y_BHTD = attend(q_BHTD, k_BKSD, v_BKSD, mask_BTS)
        else:
            y_BHTD = attend_within(lengths, q_BHTD, k_BKSD, v_BKSD)
        y_BTM: Tensor = self.output(y_BHTD.transpose(1, 2).flatten(2))
        return y_BTM

    def _normed(self, x_BTCD: Tensor, norm: nn.Module) -> Tensor:
        """Norm each head, or all heads of a position as one vector."""
        y_BTCD: Tensor = norm(x_BTCD.flatten(2)).view_as(x_BTCD) if self.norms_all_heads else norm(x_BTCD)
        return y_BTCD


class FFN(nn.Module):
    """x_BTM -> y_BTM: down(silu(gate(x)) * up(x)) (SwiGLU, Shazeer, 2020, equation 6), or down(gelu(up(x)))."""

    def __init__(self, width: int, spec: LayerSpec) -> None:
        super().__init__()
        biased = spec.all_biased
        self.gate_up = Matrix(2 * spec.ffn_width, width, biased) if spec.activation == "swiglu" else None
        self.up = Matrix(spec.ffn_width, width, biased) if spec.activation == "gelu" else None
        self.down = Matrix(width, spec.ffn_width, biased)

    def forward(self, x_BTM: Tensor) -> Tensor:
        if self.gate_up is not None:
            gate_BTF, up_BTF = self.gate_up(x_BTM).chunk(2, dim=-1)
            h_BTF = functional.silu(gate_BTF) * up_BTF
        elif self.up is not None:
            h_BTF = functional.gelu(self.up(x_BTM))
        y_BTM: Tensor = self.down(h_BTF)
        return y_BTM


def norm(kind: str, width: int, epsilon: float) -> "RMSNorm | LayerNorm":
    return RMSNorm(width, epsilon) if kind == "rms" else LayerNorm(width, epsilon)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang and Sennrich, 2019, equation 4)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias (Ba et al., 2016, equation 4)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Matrix(nn.Module):
    """y = x @ W^T + b. Unlike `nn.Linear` it draws nothing from torch's global generator when it is built."""

    def __init__(self, outputs: int, inputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Cache:
    """Keys and values seen so far, one slot for each application.

    A block that is applied twice sees two different histories: with one slot for both, its second run would attend
    to the keys of its first (what MobileLLM's own code does by default; see docs/decisions.md).
    """

    def __init__(self) -> None:
        self.length = 0
        self._tokens_BS: Tensor | None = None
        self._slots: dict[int, tuple[Tensor, Tensor]] = {}

    def extend_tokens(self, tokens_BT: Tensor) -> Tensor:
        """Append T ids; return all. Only a model that cuts attention at ends of documents asks for them."""
        tokens_BS = tokens_BT if self._tokens_BS is None else torch.cat((self._tokens_BS, tokens_BT), dim=1)
        self._tokens_BS = tokens_BS
        return tokens_BS

    def extend(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions to a slot; return all its keys and values, (B, K, S, D) each."""
        if slot in self._slots:
            k_BKSD, v_BKSD = self._slots[slot]
            k_BKTD, v_BKTD = torch.cat((k_BKSD, k_BKTD), dim=2), torch.cat((v_BKSD, v_BKTD), dim=2)
        self._slots[slot] = k_BKTD, v_BKTD
        return k_BKTD, v_BKTD


def rotate(x_BTHD: Tensor, rotary: Rotary) -> Tensor:
    """Turn the pair (x_e, x_{e + E}) at position t by its angle (Su et al., 2021, equation 34; halves as Llama).

    Dimensions from 2 E on pass unturned, as in GPT-NeoX. The tables are (T, E), or (B, T, E) of a tree.
    """
    cosine_T1E, sine_T1E = (table_TE.unsqueeze(-2).to(x_BTHD.dtype) for table_TE in rotary)
    E = cosine_T1E.shape[-1]
    a, b, rest = torch.split(x_BTHD, [E, E, x_BTHD.shape[-1] - 2 * E], dim=-1)
    return torch.cat((a * cosine_T1E - b * sine_T1E, b * cosine_T1E + a * sine_T1E, rest), dim=-1)


def document_lengths(tokens_BT: Tensor, end_token: int | None) -> list[int]:
    """Return the lengths of the pieces of documents, row after row: one ends with an end token, or with its row."""
    ends_BT = tokens_BT.numpy() == end_token
    ends_BT[:, -1] = True
    lengths: list[int] = np.diff(np.flatnonzero(ends_BT), prepend=-1).tolist()
    return lengths


def attend_within(lengths: list[int], q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
    """Compute `attend` for each document alone; `lengths` are those of `document_lengths`.

    Nothing is computed of what no token sees. Rotated positions need not restart: a score depends on their difference.
    """
    B, T = q_BHTD.shape[0], q_BHTD.shape[2]
    rows = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTD, k_BKTD, v_BKTD))
    pieces = zip(*(torch.split(x_NHD, lengths) for x_NHD in rows), strict=True)
    attended = [attend(*(x_LHD.transpose(0, 1).unsqueeze(0) for x_LHD in piece)) for piece in pieces]
    y_NHD = torch.cat([y_1HLD[0].transpose(0, 1) for y_1HLD in attended])
    return torch.unflatten(y_NHD, 0, (B, T)).transpose(1, 2)


def attend(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_BTS: Tensor | None = None) -> Tensor:
    """Compute softmax(q k^T / sqrt(D)) v for the last T of S positions, each seeing itself and what came before, or
    only where a mask adds no minus infinity.

    By torch's fused kernel or our blocks, or in the `portable` class portable products (its small products take MKL's
    slow path).
    """
    (B, H, T, D), (K, S) = q_BHTD.shape, k_BKSD.shape[1:3]
    if not is_portable():
        if mask_BTS is None and suits_blocks(q_BHTD, k_BKSD):
            return attend_in_blocks(q_BHTD, k_BKSD, v_BKSD)
        if H != K and q_BHTD.is_cuda and (q_BHTD.dtype == torch.float32 or mask_BTS is not None):
            # its fused kernel for these knows no groups
            k_BKSD, v_BKSD = (x.unsqueeze(2).expand(B, K, H // K, S, D).flatten(1, 2) for x in (k_BKSD, v_BKSD))
            K = H
        mask = None if T == S else torch.ones(T, S, dtype=torch.bool, device=q_BHTD.device).tril(S - T)
        mask = mask if mask_BTS is None else mask_BTS.unsqueeze(1)
        return functional.scaled_dot_product_attention(
            q_BHTD, k_BKSD, v_BKSD, attn_mask=mask, is_causal=mask is None, enable_gqa=H != K
        )
    q_BKGTD = (q_BHTD * D**-0.5).unflatten(1, (K, H // K))
    blocks = []
    for start in range(0, T, QUERY_BLOCK):  # a block of queries meets only the keys that it may see
        stop = min(start + QUERY_BLOCK, T)
        seen = S - T + stop
        q_BKXD = q_BKGTD[:, :, :, start:stop].reshape(B, K, -1, D)  # X = G * (stop - start)
        scores_BKXS = matmul(q_BKXD, k_BKSD[:, :, :seen].transpose(-1, -2))
        scores_BKGTS = scores_BKXS.view(B, K, H // K, stop - start, seen)
        if mask_BTS is None:
            weights_BKXS = softmax_below(scores_BKGTS, S - T + start)
        else:
            weights_BKXS = (scores_BKGTS + mask_BTS[:, None, None, start:stop, :seen]).softmax(-1)
        y_BKXD = matmul(weights_BKXS.view(B, K, -1, seen), v_BKSD[:, :, :seen])
        blocks.append(y_BKXD.view(B, H, stop - start, D))
    return torch.cat(blocks, dim=2)


def softmax_below(scores_TS: Tensor, first: int) -> Tensor:
    """Compute the softmax over the last dimension; row t, at position `first + t`, sees columns 0 .. `first + t`."""
    future_TS = scores_TS.new_full(scores_TS.shape[-2:], float("-inf")).triu(first + 1)
    return (scores_TS + future_TS).softmax(-1)


def initialize(model: Decoder, seed: int) -> None:
    """Set step 0; no generator of torch is touched."""
    parameters = dict(model.named_parameters())
    for name, tensor in initial_tensors(model.spec, seed):  # one at a time: all of them are as large as the model
        _load_tensor(parameters[name], name, tensor)


def load_tensors(model: Decoder, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Copy a checkpoint's tensors into the model: exactly its names and shapes, or an error."""
    parameters = dict(model.named_parameters())
    if parameters.keys() != tensors.keys():
        difference = sorted(parameters.keys() ^ tensors.keys())
        raise EverystepError(f"tensors do not fit the model; missing or unknown: {', '.join(difference)}")
    for name, parameter in parameters.items():
        _load_tensor(parameter, name, tensors[name])


@torch.no_grad()
def _load_tensor(parameter: Tensor, name: str, tensor: npt.NDArray[np.float32]) -> None:
    if tensor.shape != tuple(parameter.shape):
        raise EverystepError(f"{name}: shape {tensor.shape}, the model has {tuple(parameter.shape)}")
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(tensor)))


def dump_tensors(model: Decoder) -> dict[str, npt.NDArray[np.float32]]:
    """Copy every unique tensor by name, in float32 on the CPU. `load_tensors(m, dump_tensors(m))` changes nothing."""
    return {name: p.detach().to("cpu", torch.float32).numpy().copy() for name, p in model.named_parameters()}
