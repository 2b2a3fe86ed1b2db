"""What flows into the value matrices of multi-head latent attention.

llama.cpp applies attention to the latents and multiplies each head's result by its value matrix (attn_v_b);
transformers expands the latents to values first. So attention is asked here for both at once: the values get the
latents as further columns, whose weighted means are what the value matrices of llama.cpp are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hubquant.models.taps.observer import Watcher
from hubquant.models.taps.tap import AsSeen, Detach, find

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION = "hubquant_latent"
_STATE = "_hubquant_latents"


@dataclass(frozen=True)
class LatentMeans(AsSeen):
    """The attention-weighted latents of each head, side by side: [tokens, heads * rank].

    ``module`` is the attention, ``expansion`` the linear module in it that makes keys and values of latents.
    """

    module: str
    expansion: str

    def attach(self, model: PreTrainedModel, key: str, observer: Watcher) -> Detach:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        attention: Any = find(model, self.module)
        latents: list[torch.Tensor] = []
        hook = find(model, f"{self.module}.{self.expansion}").register_forward_pre_hook(
            lambda _module, args: latents.append(args[0])
        )
        setattr(attention, _STATE, (latents, lambda means: observer.see(key, means)))
        before = attention.config._attn_implementation
        if before != IMPLEMENTATION:
            ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attend)
            ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, sdpa_mask)
            attention.config._attn_implementation = IMPLEMENTATION

        def detach() -> None:
            hook.remove()
            delattr(attention, _STATE)
            attention.config._attn_implementation = before

        return detach


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """``query`` and ``key`` [batch, heads, tokens, size], ``value`` [batch, heads, tokens, n_value]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    state = getattr(module, _STATE, None)
    if state is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    latents, show = state
    latent = latents.pop().reshape(len(value), 1, -1, module.kv_lora_rank)
    both = torch.cat([value, latent.expand(-1, value.shape[1], -1, -1)], dim=-1)
    result, _ = sdpa_attention_forward(module, query, key, both, attention_mask, **settings)
    show(result[..., value.shape[-1] :].flatten(2))
    return result[..., : value.shape[-1]], None
