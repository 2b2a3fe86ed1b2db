"""BitNet b1.58: Llama with norms before the output of attention and before the last matrix of the feed-forward network.

In checkpoints of its first code (1bitLLM's, ``BitnetForCausalLM``) each matrix is rounded to −1, 0 and 1 times the mean
of its magnitudes whenever it is used (https://arxiv.org/abs/2402.17764, section 2); a file has what it is rounded to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import Each, OperationFor, always
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed
from hubquant.convert.tables import Row, linear, norm

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RoundToTernary(Each):
    """x [rows, columns] as the multiples −1, 0 and 1 of the mean of its magnitudes; what they were rounded from is not
    known again."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        scale = 1 / x.float().abs().mean().clamp(min=1e-5)
        return ((x.float() * scale).round().clamp(-1, 1) / scale).to(x.dtype)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _block(*operations: OperationFor) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        linear("self_attn.q_proj", "n_embd_q", "n_embd", operations=operations),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd", operations=operations),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd", operations=operations),
        norm("self_attn.attn_sub_norm", stem="attn_sub_norm"),
        linear("self_attn.o_proj", "n_embd", "n_embd_q", operations=operations),
        norm("post_attention_layernorm"),
        linear("mlp.gate_proj", "n_ff", "n_embd", operations=operations),
        linear("mlp.up_proj", "n_ff", "n_embd", operations=operations),
        norm("mlp.ffn_sub_norm", "n_ff", stem="ffn_sub_norm"),
        linear("mlp.down_proj", "n_embd", "n_ff", operations=operations),
    )


BITNET = Architecture(
    name="bitnet",
    classes={"BitNetForCausalLM": "bitnet"},
    restored_as="bitnet",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        Rope(("default",)),
        Fixed("attention_bias", False),
        Fixed("tie_word_embeddings", True),
    ),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*_block()),
)
BITNET_OWN = replace(
    BITNET,
    classes={"BitnetForCausalLM": "bitnet"},
    rules=(*BITNET.rules, Fixed("weight_bits", 1), Fixed("input_bits", 8)),
    block=every_layer(*_block(always(RoundToTernary()))),
    renames=(
        (r"\.self_attn\.inner_attn_ln\.", ".self_attn.attn_sub_norm."),
        (r"\.mlp\.ffn_layernorm\.", ".mlp.ffn_sub_norm."),
    ),
    own_code=True,
)
