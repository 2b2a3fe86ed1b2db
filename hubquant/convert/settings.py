"""Every setting of a config.json is answered for: a rule or a row reads it, or it changes nothing that is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.headers import listed
from hubquant.checkpoint.modules import MODULE_SETTINGS, SCORE
from hubquant.convert.rules.rule import Fixed, Settings, plain_setting, without_option
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hubquant.convert.architecture import Architecture

TRAINING = frozenset(
    {
        # dropouts
        *("attention_dropout", "hidden_dropout", "residual_dropout", "embedding_dropout", "classifier_dropout"),
        *("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_probs_dropout_prob", "hidden_dropout_prob"),
        # weights before the first step
        *("initializer_range", "rescale_prenorm_residual", "time_step_min", "time_step_max", "time_step_floor"),
        *("time_step_init_scheme", "time_step_scale"),
        # losses, noise and limits that only training knows
        *("router_aux_loss_coef", "output_router_logits", "router_jitter_noise", "altup_coef_clip"),
    }
)
RUNNING = frozenset(
    {
        # how transformers computes, not what
        *("use_cache", "pretraining_tp", "chunk_size", "mamba_chunk_size", "num_logits_to_keep"),
        *("use_mambapy", "use_mamba_kernels", "use_associative_scan", "residual_in_fp32", "reorder_and_upcast_attn"),
    }
)
VOCABULARY = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"})
OTHER_TASKS = frozenset(
    {
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"),
        *("summary_use_proj", "num_mtp_layers"),
    }
)
DERIVED = frozenset({"no_rope_layer_interval", "sliding_window_pattern", "full_attn_idxs"})
"""What the config class makes other settings of, which rules read."""
WITHOUT_EFFECT = TRAINING | RUNNING | VOCABULARY | OTHER_TASKS | DERIVED

EVERYWHERE = (Fixed("is_causal", True),)
"""Settings of no config class that transformers' masks read in every decoder."""

# What tools and older versions leave behind, in files that bring code of their own too.
_LEFTOVER = re.compile(
    r"_|architectures$|auto_map$|model_type$|torch_dtype$|dtype$|transformers|tokenizer|unsloth|quantization|use_flash"
    r"|flash_attn|attn_impl|attention_impl|fused|use_fused|use_x|ep_size$|tp_size$|aux_loss|seq_aux$|seq_length$"
    r"|id2label$|label2id$|num_labels$|problem_type$|name_or_path$|output_(attentions|hidden|scores|past|router)|return_dict|task|pruned_heads|is_encoder"
    r"|chunk_size_feed|pad_vocab_size|max_length$|min_length$|do_sample$|temperature$|top_[kp]$|num_beams|early_stop"
    r"|repetition|length_penalty|no_repeat|bad_words|.*token_id$|rope_scaling$|rope_theta$|partial_rotary_factor$"
    r"|gradient_checkpoint|low_cpu_mem|save_|use_cache|onnx|torchscript|tf_legacy|use_bfloat16|ssm_cfg$|framework"
)


def check_answered(architecture: Architecture, config: PreTrainedConfig) -> None:
    """Raises ``NotSupportedYet`` for a setting that nobody reads and that is not the config class's default.

    The config is one that the rules have accepted.
    """
    with without_option():
        for rule in EVERYWHERE if architecture.generates else ():
            rule.check({name: plain_setting(config, name) for name in rule.reads})
    for name in unanswered(architecture, config):
        value = plain_setting(config, name)
        if value != plain_setting(type(config)(), name):
            raise _unread(name, value)


def unanswered(architecture: Architecture, config: PreTrainedConfig) -> tuple[str, ...]:
    """The fields of the config class that are in no table here and that no rule or row reads."""
    known = {*architecture.reads(config), *architecture.without_effect, *WITHOUT_EFFECT}
    answered = {canonical(config, name) for name in known} | _of_every_class()
    return tuple(sorted({canonical(config, each.name) for each in fields(config)} - answered))


def canonical(config: PreTrainedConfig, name: str) -> str:
    """The name under which the config has a setting, which older and newer names share."""
    return str(config.attribute_map.get(name, name))


def setting_notes(architecture: Architecture, config: PreTrainedConfig, given: Settings) -> Iterator[str]:
    """Where the file computes otherwise than the checkpoint, or may: ``given`` is its config.json."""
    yield from architecture.notes(config)
    if SCORE in given and SCORE not in architecture.reads(config):
        yield "sentence-transformers makes a score of two of its logits: the file is a language model, and no reranker"
    if "auto_map" not in given:
        return
    names = (*architecture.reads(config), *MODULE_SETTINGS, *WITHOUT_EFFECT, *(each.name for each in fields(config)))
    known = {canonical(config, name) for name in names}
    unknown = [
        name
        for name, value in given.items()
        if value and not (canonical(config, name) in known or name in architecture.translated or _LEFTOVER.match(name))
    ]
    if unknown:
        yield (
            "config.json names code of its own (auto_map), which never runs here: if that computes with "
            f"{listed(unknown)}, the file does not"
        )


def _of_every_class() -> set[str]:
    from transformers import PreTrainedConfig

    return {each.name for each in fields(PreTrainedConfig)}


def _unread(name: str, value: Any) -> NotSupportedYet:
    return NotSupportedYet(
        f"{name} {str(value)[:40]!r} in config.json",
        why="transformers may compute with it, and llama.cpp's file has no place for it",
        hint="report it with the model's name; this model cannot be converted until it is known what it does",
    )
