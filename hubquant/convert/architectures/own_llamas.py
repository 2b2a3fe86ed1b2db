"""Models in Llama's image whose code is not part of transformers: XVERSE, Baichuan 7B, EXAONE 3, openPangu, Orion and
Maincoder. Their checkpoints' names become those of the family that stands for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import every_layer
from hubquant.convert.architectures import decoder, llama, qwen3
from hubquant.convert.architectures.llama import LLAMA
from hubquant.convert.architectures.qwen3 import QWEN3
from hubquant.convert.architectures.stablelm import STABLELM
from hubquant.convert.head_order import InterleaveHalves
from hubquant.convert.operations import Beside, Dimensions, Scale, split
from hubquant.convert.rules.rope import DYNAMIC, Rope
from hubquant.convert.rules.rule import Fixed, Rule, Settings
from hubquant.convert.rules.windows import QWEN_WINDOW
from hubquant.convert.tables import Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_WITHOUT_BIASES = (Fixed("attention_bias", False), Fixed("mlp_bias", False))


def _named(names: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in settings.items()}


def _block(bias: bool = False) -> tuple[Row, ...]:
    """Llama's, with rows of heads as they are in the checkpoint."""
    return (
        norm("input_layernorm"),
        *decoder.attention(bias, bias),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
    )


XVERSE = replace(
    LLAMA,
    name="xverse",
    classes={"XverseForCausalLM": "llama"},
    rules=(*decoder.RULES_OF_WHOLE_HEADS, Rope(("default",)), *_WITHOUT_BIASES),
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(*llama.ATTENTION, *decoder.gated_mlp()),
    own_code=True,
)

_OF_EXAONE = {
    "num_layers": "num_hidden_layers",
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "rms_norm_eps",
}
_MODULES = (
    (r"attn\.attention\.out_proj", "self_attn.o_proj"),
    (r"attn\.attention", "self_attn"),
    (r"ln_1", "input_layernorm"),
    (r"ln_2", "post_attention_layernorm"),
    (r"mlp\.c_fc_0", "mlp.gate_proj"),
    (r"mlp\.c_fc_1", "mlp.up_proj"),
    (r"mlp\.c_proj", "mlp.down_proj"),
)
EXAONE = replace(
    LLAMA,
    name="exaone",
    classes={"ExaoneForCausalLM": "llama"},
    rules=(*decoder.RULES, Rope(("default", DYNAMIC, "linear", "llama3")), *_WITHOUT_BIASES),
    block=every_layer(*_block()),
    renames=(
        (r"^transformer\.wte\.", "model.embed_tokens."),
        (r"^transformer\.ln_f\.", "model.norm."),
        *((rf"^transformer\.h\.(\d+)\.{theirs}\.", rf"model.layers.\1.{ours}.") for theirs, ours in _MODULES),
    ),
    translate=lambda settings: _named(_OF_EXAONE, settings),
    translated=tuple(_OF_EXAONE),
    own_code=True,
)

PANGU = replace(
    LLAMA,
    name="pangu-embedded",
    classes={"PanguEmbeddedForCausalLM": "llama"},
    rules=(
        *decoder.RULES,
        Rope(("default",)),
        Fixed("bias", True),
        Fixed("attention_bias", True),
        Fixed("mlp_bias", False),
    ),
    block=every_layer(*_block(bias=True)),
    translate=lambda settings: {"attention_bias": True, **settings},
    own_code=True,
)

ORION = replace(
    STABLELM,
    name="orion",
    classes={"OrionForCausalLM": "stablelm"},
    rules=(
        *(rule for rule in STABLELM.rules if getattr(rule, "setting", "") != "use_parallel_residual"),
        Fixed("use_parallel_residual", False),
        Fixed("use_qkv_bias", False),
    ),
    block=every_layer(
        norm("input_layernorm", bias=True),
        *decoder.attention(),
        norm("post_attention_layernorm", bias=True),
        *decoder.gated_mlp(),
    ),
    translate=lambda settings: {"partial_rotary_factor": 1.0, **_named({"rms_norm_eps": "layer_norm_eps"}, settings)},
    translated=("rms_norm_eps",),  # of norms that take the mean off all the same
    own_code=True,
)

MAINCODER = replace(
    QWEN3,
    name="maincoder",
    classes={"MaincoderForCausalLM": "qwen3"},
    rules=(*decoder.RULES, Rope(("default",)), Fixed("attention_bias", False)),
    block=every_layer(*qwen3.ATTENTION, *decoder.gated_mlp()),
    without_effect=QWEN_WINDOW.reads,
    own_code=True,
)


class _WithRope(Rule):
    """llama.cpp knows by the number of layers whether positions are rotated or biases go by distance."""

    reads = ("num_hidden_layers",)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.num_hidden_layers != _LAYERS_OF_7B:
            raise NotSupportedYet(
                f"Baichuan with {config.num_hidden_layers} layers", why=f"only that with {_LAYERS_OF_7B} has rope"
            )
        if config.vocab_size == _VOCABULARY_OF_2:
            raise NotSupportedYet("Baichuan 2", why="its code divides each row of the output layer by its length")
        return {}


_LAYERS_OF_7B, _VOCABULARY_OF_2 = 32, 125_696


def _rotated(sizes: Dimensions) -> Beside:
    return Beside((InterleaveHalves(sizes["n_head"]), InterleaveHalves(sizes["n_head"]), Scale((1.0,))))


BAICHUAN = replace(
    XVERSE,
    name="baichuan",
    classes={"BaichuanForCausalLM": "llama", "BaiChuanForCausalLM": "llama"},
    rules=(*XVERSE.rules, _WithRope()),
    block=every_layer(
        norm("input_layernorm"),
        Tensors(
            ("self_attn.W_pack.weight",),
            {f"attn_{part}.weight": ("n_embd", "n_embd") for part in "qkv"},
            (split(*3 * ("n_embd",)), _rotated),
        ),
        linear("self_attn.o_proj", "n_embd", "n_embd"),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
    ),
)
