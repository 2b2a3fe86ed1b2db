"""Models as Mistral publishes them: params.json, consolidated.safetensors and tekken.json, made of those that
transformers saved."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hubquant.models.tiny import CORPUS

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
N_SPECIALS, N_TOKENS = 24, 384
_NAMES = (
    (r"^(model\.)?(language_model\.)?(model\.)?embed_tokens\.", "tok_embeddings."),
    (r"^(language_model\.)?lm_head\.", "output."),
    (r"^(model\.)?(language_model\.)?(model\.)?norm\.", "norm."),
    (r"^(model\.)?(language_model\.)?(model\.)?layers\.", "layers."),
    (r"^(model\.)?vision_tower\.", "vision_encoder."),
    (r"^(model\.)?multi_modal_projector\.linear_1\.", "vision_language_adapter.w_in."),
    (r"^(model\.)?multi_modal_projector\.linear_2\.", "vision_language_adapter.w_out."),
    (r"^(model\.)?multi_modal_projector\.norm\.", "pre_mm_projector_norm."),
    (r"^(model\.)?multi_modal_projector\.patch_merger\.", "patch_merger."),
)
_INSIDE = (
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn", "attention"),
    (r"([qkvo])_proj", r"w\1"),
    ("mlp|block_sparse_moe", "feed_forward"),
    ("gate_proj", "w1"),
    ("down_proj", "w2"),
    ("up_proj", "w3"),
)


def tekken(path: Path, *, specials: bool = True) -> Path:
    """Of a tiny tokenizer."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), plain])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=N_TOKENS - N_SPECIALS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte = {text: value for value, text in bytes_to_unicode().items()}
    made = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[256:]
    tokens = [*(bytes([value]) for value in range(256)), *(bytes(byte[c] for c in text) for text, _ in made)]
    content: dict[str, Any] = {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(tokens) + 7,
            "default_vocab_size": N_TOKENS,
            "default_num_special_tokens": N_SPECIALS,
            "version": "v7" if specials else "v3",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate([*tokens, *(bytes([65 + n]) * 30 for n in range(7))])
        ],
    }
    if specials:
        content["special_tokens"] = [
            {"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(SPECIALS)
        ]
    path.write_text(json.dumps(content))
    return path


def transformers_tokenizer(path: Path) -> Any:
    """Of tekken.json at ``path``, by transformers' converter, with the beginning that published ones put before."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.mistral.tokenizer import MistralConverter

    made = MistralConverter(str(path)).converted()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    fast: Any = PreTrainedTokenizerFast
    named = {f"{role}_token": text for role, text in zip(("unk", "bos", "eos"), SPECIALS, strict=False)}
    return fast(tokenizer_object=made, pad_token="<pad>", **named)


def as_published(folder: Path, target: Path, params: dict[str, Any]) -> Path:
    """The model in ``folder`` in Mistral's own format; ``params`` are settings beside the sizes."""
    config = json.loads((folder / "config.json").read_text())
    text, seeing = config.get("text_config", config), config.get("vision_config", {})
    heads = {"q": text["num_attention_heads"], "k": text["num_key_value_heads"]}
    sizes = {
        "dim": text["hidden_size"],
        "n_layers": text["num_hidden_layers"],
        "head_dim": text.get("head_dim"),
        "hidden_dim": text["intermediate_size"],
        "n_heads": heads["q"],
        "n_kv_heads": heads["k"],
        "norm_eps": text["rms_norm_eps"],
        "vocab_size": text["vocab_size"],
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "tied_embeddings": config["tie_word_embeddings"],
    }
    target.mkdir(parents=True)
    (target / "params.json").write_text(json.dumps(sizes | params))
    weights = {}
    for name, x in load_file(folder / "model.safetensors").items():
        turned = re.search(r"\.([qk])_proj\.weight$", name)
        if turned:
            count = seeing["num_attention_heads"] if "vision_tower" in name else heads[turned[1]]
            x = x.reshape(count, 2, -1, x.shape[-1]).transpose(1, 2).reshape(x.shape).contiguous()
        weights |= _experts(name, x) or {_renamed(name): x}
    save(weights, target / "consolidated.safetensors")
    if (folder / "tekken.json").is_file():
        (target / "tekken.json").write_bytes((folder / "tekken.json").read_bytes())
    return target


def save(weights: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: x.contiguous() for name, x in weights.items()}, path)


def _renamed(name: str) -> str:
    for pattern, text in _NAMES:
        name = re.sub(pattern, text, name)
    for pattern, text in _INSIDE:
        name = re.sub(rf"(?<=\.)({pattern})(?=\.)", text if "\\" not in text else text.replace(r"\1", r"\2"), name)
    return name


def _experts(name: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a stack, which transformers may save."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(gate_up_proj|down_proj)", name)
    if match is None:
        return {}
    parts = {"w1": x.chunk(2, 1)[0], "w3": x.chunk(2, 1)[1]} if match[2] == "gate_up_proj" else {"w2": x}
    stem = f"layers.{match[1]}.feed_forward.experts"
    return {f"{stem}.{n}.{part}.weight": stack[n] for part, stack in parts.items() for n in range(len(x))}
