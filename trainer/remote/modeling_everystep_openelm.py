"""OpenELM for transformers 4.48 and newer: Llama's block with widths that differ by layer, and normed queries and keys.

Written by Everystep from the paper (Mehta et al., 2024, section 2.1), with the names of tensors and of keys of
`config.json` that apple/OpenELM has, so that its readers read these weights too. It travels with exported weights.
Beside torch it uses only transformers' base classes and its key/value cache.

Shape suffixes: B rows, T new positions, S positions seen, M model width, V vocabulary, H query heads, K key/value
heads, J all of them with one place for each key and each value, D head width, E half of D.
"""
# mypy: disable-error-code="no-untyped-call"
# (transformers leaves its base classes partly untyped, and declares their class attributes as instance attributes)

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What transformers calls the key/value cache: renamed in 5.24."""


class OpenELMConfig(PretrainedConfig):
    """The lists have one entry a layer. An FFN is as wide as `ffn_width` says."""

    model_type = "openelm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [CACHE]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "model_dim",
        "num_hidden_layers": "num_transformer_layers",
        "max_position_embeddings": "max_context_length",
    }

    def __init__(
        self,
        vocab_size: int = 32000,
        model_dim: int = 1280,
        num_query_heads: list[int] | None = None,
        num_kv_heads: list[int] | None = None,
        head_dim: int = 64,
        ffn_multipliers: list[float] | None = None,
        ffn_dim_divisor: int = 256,
        normalize_qk_projections: bool = True,
        rope_freq_constant: float = 10000.0,
        rms_norm_eps: float = 1e-6,
        max_context_length: int = 2048,
        use_cache: bool = True,
        share_input_output_layers: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.model_dim = model_dim
        self.num_query_heads = num_query_heads or []
        self.num_kv_heads = num_kv_heads or []
        self.num_transformer_layers = len(self.num_query_heads)
        self.head_dim = head_dim
        self.ffn_multipliers = ffn_multipliers or []
        self.ffn_dim_divisor = ffn_dim_divisor
        self.normalize_qk_projections = normalize_qk_projections
        self.rope_freq_constant = rope_freq_constant
        self.rms_norm_eps = rms_norm_eps
        self.max_context_length = max_context_length
        self.use_cache = use_cache
        self.share_input_output_layers = share_input_output_layers
        given = {"num_transformer_layers", "num_hidden_layers", "tie_word_embeddings"}
        kwargs = {key: value for key, value in kwargs.items() if key not in given}
        kwargs["tie_word_embeddings"] = share_input_output_layers
        super().__init__(**kwargs)

    def ffn_width(self, layer: int) -> int:
        """The multiple of the divisor nearest to multiplier * width, and never under nine tenths of it."""
        wanted, divisor = self.ffn_multipliers[layer] * self.model_dim, self.ffn_dim_divisor
        width = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        return width if width >= 0.9 * wanted else width + divisor


class RMSNorm(nn.Module):
    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        x_32 = x.float()
        scale = torch.rsqrt((x_32 * x_32).mean(-1, keepdim=True) + self.epsilon)
        return (x_32 * scale).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.rotary_base, self.head_width = layer, config.rope_freq_constant, config.head_dim
        query_heads, kv_heads = config.num_query_heads[layer], config.num_kv_heads[layer]
        self.heads = (query_heads, kv_heads, kv_heads)
        self.qkv_proj = nn.Linear(config.model_dim, sum(self.heads) * self.head_width, bias=False)
        self.out_proj = nn.Linear(query_heads * self.head_width, config.model_dim, bias=False)
        self.normed = config.normalize_qk_projections
        if self.normed:
            self.q_norm = RMSNorm(self.head_width, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_width, config.rms_norm_eps)

    def forward(
        self, x_BTM: Tensor, position_BT: Tensor, place_T: Tensor, attention_mask: Tensor | None, cache: Any, show: bool
    ) -> tuple[Tensor, Tensor | None]:
        """y_BTM; if asked for, also the weights with which each position saw the others, (B, H, T, S)."""
        qkv_BTJD = self.qkv_proj(x_BTM).view(*x_BTM.shape[:2], -1, self.head_width)
        q_BTHD, k_BTKD, v_BTKD = qkv_BTJD.split(self.heads, dim=2)
        if self.normed:
            q_BTHD, k_BTKD = self.q_norm(q_BTHD), self.k_norm(k_BTKD)
        q_BHTD = rotate(q_BTHD.transpose(1, 2), position_BT, self.rotary_base)
        k_BKSD, v_BKSD = rotate(k_BTKD.transpose(1, 2), position_BT, self.rotary_base), v_BTKD.transpose(1, 2)
        if cache is not None:
            k_BKSD, v_BKSD = cache.update(k_BKSD, v_BKSD, self.layer, {"cache_position": place_T})
        mask_BXTS = visible(place_T, k_BKSD.shape[2], attention_mask)
        y_BHTD = functional.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=mask_BXTS, enable_gqa=True)
        y_BTM: Tensor = self.out_proj(y_BHTD.transpose(1, 2).flatten(2))
        return y_BTM, attention_weights(q_BHTD, k_BKSD, mask_BXTS) if show else None


class GatedFFN(nn.Module):
    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.proj_1 = nn.Linear(width, 2 * ffn_width, bias=False)
        self.proj_2 = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BTM: Tensor) -> Tensor:
        gate, up = self.proj_1(x_BTM).chunk(2, dim=-1)
        y_BTM: Tensor = self.proj_2(functional.silu(gate) * up)
        return y_BTM


class Layer(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.model_dim, config.rms_norm_eps)
        self.attn = Attention(config, layer)
        self.ffn_norm = RMSNorm(config.model_dim, config.rms_norm_eps)
        self.ffn = GatedFFN(config.model_dim, config.ffn_width(layer))

    def forward(self, x_BTM: Tensor, *seen: Any) -> tuple[Tensor, Tensor | None]:
        y_BTM, weights_BHTS = self.attn(self.attn_norm(x_BTM), *seen)
        x_BTM = x_BTM + y_BTM
        return x_BTM + self.ffn(self.ffn_norm(x_BTM)), weights_BHTS


class OpenELMPreTrainedModel(PreTrainedModel):
    config_class = OpenELMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules: list[str] = ["Layer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_cache_class = True  # asked for by 4.48, whose static cache knows only layers of equal width


class OpenELMModel(OpenELMPreTrainedModel):
    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(len(config.num_query_heads)))
        self.norm = RMSNorm(config.model_dim, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.token_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        self.token_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The last hidden state, x_BTM after the final norm; if asked for, what each layer read and where it looked."""
        show_weights = self.config.output_attentions if output_attentions is None else output_attentions
        show_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        x_BTM = self.token_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        recompute = self.gradient_checkpointing and self.training
        cache = past_key_values if cache is None else cache
        if recompute:
            cache = None
        elif cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache()
        place_T = torch.arange(x_BTM.shape[1], device=x_BTM.device) + (0 if cache is None else cache.get_seq_length())
        seen = (place_T[None] if position_ids is None else position_ids, place_T, attention_mask, cache, show_weights)
        states, weights = [], []
        for layer in self.layers:
            states.append(x_BTM)
            x_BTM, weights_BHTS = (
                self._gradient_checkpointing_func(layer.__call__, x_BTM, *seen) if recompute else layer(x_BTM, *seen)
            )
            weights.append(weights_BHTS)
        x_BTM = self.norm(x_BTM)
        output = BaseModelOutputWithPast(
            last_hidden_state=x_BTM,
            hidden_states=(*states, x_BTM) if show_states else None,
            attentions=tuple(weights) if show_weights else None,
            **{CACHE: cache},
        )
        return output if return_dict is not False else output.to_tuple()


class OpenELMForCausalLM(OpenELMPreTrainedModel, GenerationMixin):
    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "transformer.token_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.transformer = OpenELMModel(config)
        self.lm_head = nn.Linear(config.model_dim, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Any = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Logits_BTV; with `labels` also the mean loss of predicting label t + 1 from position t."""
        read = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            cache=cache,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.lm_head(read.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BTV, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BTV,
            hidden_states=read.hidden_states,
            attentions=read.attentions,
            **{CACHE: read.get(CACHE)},
        )
        return output if return_dict is not False else output.to_tuple()


def rotate(x_BHTD: Tensor, position_BT: Tensor, base: float) -> Tensor:
    """Rotary position embedding over halves, with Llama's float32 frequencies (Su et al., 2021)."""
    width = x_BHTD.shape[-1]
    exponent_E = torch.arange(0, width, 2, dtype=torch.float32, device=x_BHTD.device) / width
    angle_B1TE = position_BT[:, None, :, None].float() * (1.0 / base**exponent_E)
    cosine, sine = angle_B1TE.cos().to(x_BHTD.dtype), angle_B1TE.sin().to(x_BHTD.dtype)
    a_BHTE, b_BHTE = x_BHTD.chunk(2, dim=-1)
    return torch.cat((a_BHTE * cosine - b_BHTE * sine, b_BHTE * cosine + a_BHTE * sine), dim=-1)


def visible(place_T: Tensor, length: int, attention_mask: Tensor | None) -> Tensor:
    """Which of S = `length` positions those at `place_T` may see: themselves, and what came before, but no padding.

    (1 or B, 1, T, S). A static cache is longer than what was written to it. transformers may hand in the whole mask
    instead of one bit a position, then also as numbers to add to the scores.
    """
    column_S, place_T1 = torch.arange(length, device=place_T.device), place_T[:, None]
    if attention_mask is None:
        return (column_S <= place_T1)[None, None]
    if attention_mask.dim() == 4:
        return attention_mask if attention_mask.is_floating_point() else attention_mask.bool() | (column_S == place_T1)
    text_BS = functional.pad(attention_mask.bool(), (0, max(0, length - attention_mask.shape[1])))[:, :length]
    return text_BS[:, None, None] & (column_S <= place_T1) | (column_S == place_T1)


def attention_weights(q_BHTD: Tensor, k_BKSD: Tensor, mask_BXTS: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) where the mask lets through, (B, H, T, S): what the fused product keeps to itself."""
    k_BHSD = k_BKSD.repeat_interleave(q_BHTD.shape[1] // k_BKSD.shape[1], dim=1)
    scores_BHTS = (q_BHTD @ k_BHSD.transpose(2, 3)).float() * q_BHTD.shape[-1] ** -0.5
    if mask_BXTS.dtype == torch.bool:
        scores_BHTS = scores_BHTS.masked_fill(~mask_BXTS, float("-inf"))
    else:
        scores_BHTS = scores_BHTS + mask_BXTS
    weights_BHTS: Tensor = scores_BHTS.softmax(-1).to(q_BHTD.dtype)
    return weights_BHTS
