"""Llamas of random bf16 weights, as the benchmarks of speed and memory measure on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaConfig


def llama_config(
    hidden: int, n_layer: int, n_vocab: int | None = None, context: int = 512, group: int = 4
) -> LlamaConfig:
    """Heads of 64, ``group`` of which share keys and values; feed-forward layers of three times the hidden size.

    ``n_vocab``: None for the words that the tokenizer has.
    """
    from transformers import LlamaConfig

    from hubquant.models.tiny import llama3_tokenizer

    tokenizer = llama3_tokenizer()
    return LlamaConfig(
        vocab_size=n_vocab or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=n_layer,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64 // group,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def make_llama(folder: Path, config: LlamaConfig, spread: float | None = None) -> int:
    """Save a model and its tokenizer, in shards of 200 MB; returns its number of weights.

    ``spread``: standard deviation of its logits.
    """
    import torch
    from transformers import LlamaForCausalLM

    from hubquant.models.tiny import llama3_tokenizer

    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    if spread is not None:
        with torch.no_grad():  # the last norm leaves a root mean square of one
            model.lm_head.weight *= spread / (config.hidden_size**0.5 * model.lm_head.weight.std())
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="200MB")
    llama3_tokenizer().save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
