"""OpenELM for transformers 5: Llama's block with widths that differ by layer and normed queries and keys.

Written by Everystep from the paper (Mehta et al., 2024, section 2.1); it travels with exported weights. Beside torch
it uses only transformers' base classes and its key/value cache.

Shape suffixes: B rows, T new positions, S positions seen, M model width, V vocabulary, H query heads, K key/value
heads, D head width, E half of D.
"""
# mypy: disable-error-code="no-untyped-call"
# (transformers leaves its base classes partly untyped, and declares their class attributes as instance attributes)

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class EverystepOpenELMConfig(PreTrainedConfig):
    """The lists have one entry a layer."""

    model_type = "everystep_openelm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 1280,
        num_query_heads: list[int] | None = None,
        num_kv_heads: list[int] | None = None,
        head_widths: list[int] | None = None,
        intermediate_sizes: list[int] | None = None,
        normed_queries_and_keys: list[bool] | None = None,
        rotary_base: float = 10000.0,
        rms_norm_eps: float = 1e-6,
        max_position_embeddings: int = 2048,
        use_cache: bool = True,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_query_heads = num_query_heads or []
        self.num_kv_heads = num_kv_heads or []
        self.head_widths = head_widths or []
        self.intermediate_sizes = intermediate_sizes or []
        self.normed_queries_and_keys = normed_queries_and_keys or []
        self.rotary_base = rotary_base
        self.rms_norm_eps = rms_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = use_cache
        kwargs |= {"num_hidden_layers": len(self.num_query_heads), "tie_word_embeddings": tie_word_embeddings}
        super().__init__(**kwargs)


class EverystepRMSNorm(nn.Module):
    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        x_32 = x.float()
        scale = torch.rsqrt((x_32 * x_32).mean(-1, keepdim=True) + self.epsilon)
        return (x_32 * scale).to(x.dtype) * self.weight


class EverystepAttention(nn.Module):
    def __init__(self, config: EverystepOpenELMConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.rotary_base, self.head_width = layer, config.rotary_base, config.head_widths[layer]
        query_width = config.num_query_heads[layer] * self.head_width
        kv_width = config.num_kv_heads[layer] * self.head_width
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)
        self.normed = config.normed_queries_and_keys[layer]
        if self.normed:
            self.q_norm = EverystepRMSNorm(self.head_width, config.rms_norm_eps)
            self.k_norm = EverystepRMSNorm(self.head_width, config.rms_norm_eps)

    def forward(self, x_BTM: Tensor, position_BT: Tensor, visible_B1TS: Tensor, cache: Any) -> Tensor:
        split = (*x_BTM.shape[:2], -1, self.head_width)
        q_BTHD, k_BTKD, v_BTKD = (m(x_BTM).view(split) for m in (self.q_proj, self.k_proj, self.v_proj))
        if self.normed:
            q_BTHD, k_BTKD = self.q_norm(q_BTHD), self.k_norm(k_BTKD)
        q_BHTD = rotate(q_BTHD.transpose(1, 2), position_BT, self.rotary_base)
        k_BKSD, v_BKSD = rotate(k_BTKD.transpose(1, 2), position_BT, self.rotary_base), v_BTKD.transpose(1, 2)
        if cache is not None:
            k_BKSD, v_BKSD = cache.update(k_BKSD, v_BKSD, self.layer)
        y_BHTD = functional.scaled_dot_product_attention(
            q_BHTD, k_BKSD, v_BKSD, attn_mask=visible_B1TS, enable_gqa=True
        )
        y_BTM: Tensor = self.o_proj(y_BHTD.transpose(1, 2).flatten(2))
        return y_BTM


class EverystepGatedFFN(nn.Module):
    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, ffn_width, bias=False)
        self.up_proj = nn.Linear(width, ffn_width, bias=False)
        self.down_proj = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BTM: Tensor) -> Tensor:
        y_BTM: Tensor = self.down_proj(functional.silu(self.gate_proj(x_BTM)) * self.up_proj(x_BTM))
        return y_BTM


class EverystepLayer(nn.Module):
    def __init__(self, config: EverystepOpenELMConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = EverystepRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = EverystepAttention(config, layer)
        self.post_attention_layernorm = EverystepRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = EverystepGatedFFN(config.hidden_size, config.intermediate_sizes[layer])

    def forward(self, x_BTM: Tensor, position_BT: Tensor, visible_B1TS: Tensor, cache: Any) -> Tensor:
        x_BTM = x_BTM + self.self_attn(self.input_layernorm(x_BTM), position_BT, visible_B1TS, cache)
        y_BTM: Tensor = x_BTM + self.mlp(self.post_attention_layernorm(x_BTM))
        return y_BTM


class EverystepOpenELMPreTrainedModel(PreTrainedModel):
    config_class = EverystepOpenELMConfig
    base_model_prefix = "model"
    _no_split_modules: list[str] = ["EverystepLayer"]  # noqa: RUF012
    _supports_sdpa = True


class EverystepOpenELMModel(EverystepOpenELMPreTrainedModel):
    def __init__(self, config: EverystepOpenELMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(EverystepLayer(config, layer) for layer in range(len(config.num_query_heads)))
        self.norm = EverystepRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, x_BTM: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Any) -> Tensor:
        past = 0 if cache is None else int(cache.get_seq_length())
        visible_B1TS = visible(x_BTM, past, attention_mask)
        if position_ids is None:
            position_ids = torch.arange(past, past + x_BTM.shape[1], device=x_BTM.device)[None]
        for layer in self.layers:
            x_BTM = layer(x_BTM, position_ids, visible_B1TS, cache)
        y_BTM: Tensor = self.norm(x_BTM)
        return y_BTM


class EverystepOpenELMForCausalLM(EverystepOpenELMPreTrainedModel, GenerationMixin):
    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: EverystepOpenELMConfig) -> None:
        super().__init__(config)
        self.model = EverystepOpenELMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits_BTV; with `labels` also the mean loss of predicting label t + 1 from position t."""
        if inputs_embeds is None:
            inputs_embeds = self.model.embed_tokens(input_ids)
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache()
        x_BTM = self.model(inputs_embeds, attention_mask, position_ids, past_key_values)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.lm_head(x_BTM[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BTV, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(loss=loss, logits=logits_BTV, past_key_values=past_key_values)
        return output if return_dict is not False else output.to_tuple()


def rotate(x_BHTD: Tensor, position_BT: Tensor, base: float) -> Tensor:
    """Rotary position embedding over halves, with Llama's float32 frequencies (Su et al., 2021)."""
    width = x_BHTD.shape[-1]
    exponent_E = torch.arange(0, width, 2, dtype=torch.float32, device=x_BHTD.device) / width
    angle_B1TE = position_BT[:, None, :, None].float() * (1.0 / base**exponent_E)
    cosine, sine = angle_B1TE.cos().to(x_BHTD.dtype), angle_B1TE.sin().to(x_BHTD.dtype)
    a_BHTE, b_BHTE = x_BHTD.chunk(2, dim=-1)
    return torch.cat((a_BHTE * cosine - b_BHTE * sine, b_BHTE * cosine + a_BHTE * sine), dim=-1)


def visible(x_BTM: Tensor, past: int, attention_mask: Tensor | None) -> Tensor:
    """Which of S positions each of the last T may see, (B or 1, 1, T, S): itself, and what came before, no padding."""
    length = past + x_BTM.shape[1]
    column_S = torch.arange(length, device=x_BTM.device)
    row_T1 = column_S[past:, None]
    visible_B1TS = (column_S <= row_T1)[None, None]
    if attention_mask is not None:
        visible_B1TS = visible_B1TS & attention_mask[:, None, None, :length].bool() | (column_S == row_T1)
    return visible_B1TS
