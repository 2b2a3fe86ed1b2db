"""llama.cpp's mixing rules (August 2026): which tensors of a file type deserve another type than its default.

Each rule states a line of ``llama_tensor_get_type_impl`` in llama.cpp's llama-quant.cpp: the role of a tensor, its
place among the tensors of that role, and the file type give a type; ``None`` leaves the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from hubquant.mix.file_types import BLOCK_SIZES, FileType


class Role(Enum):
    OUTPUT = auto()
    TOKEN_EMBD = auto()
    ATTN_V = auto()
    ATTN_K = auto()
    ATTN_Q = auto()
    ATTN_OUTPUT = auto()
    FFN_UP = auto()
    FFN_GATE = auto()
    FFN_DOWN = auto()
    OTHER = auto()


ATTN_V_NAMES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")
ROLE_SUBSTRINGS: Mapping[str, Role] = dict.fromkeys(ATTN_V_NAMES, Role.ATTN_V) | {
    "attn_k.weight": Role.ATTN_K,
    "attn_q.weight": Role.ATTN_Q,
    "attn_output.weight": Role.ATTN_OUTPUT,
    "ffn_up": Role.FFN_UP,
    "ffn_gate": Role.FFN_GATE,
    "ffn_down": Role.FFN_DOWN,
}


def role(name: str) -> Role:
    if name == "output.weight":
        return Role.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Role.TOKEN_EMBD
    return next((role for part, role in ROLE_SUBSTRINGS.items() if part in name), Role.OTHER)


@dataclass(frozen=True)
class MixedModel:
    """What the rules need to know of a model. ``gqa`` is query heads per key/value head, 0 without attention."""

    ftype: FileType
    architecture: str
    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int
    n_attention_wv: int
    tied: bool
    has_imatrix: bool
    output_tensor: str | None = None

    @property
    def gqa(self) -> int:
        return self.n_head // self.n_head_kv if self.n_head_kv else 0

    @property
    def is_70b(self) -> bool:
        """llama.cpp's model type "70B"."""
        match self.architecture:
            case "llama":
                return self.n_layer == 80 and self.n_head != self.n_head_kv
            case "deci" | "qwen2" | "olmo":
                return self.n_layer == 80
            case "jais2":
                return self.n_layer == 68
            case _:
                return False


@dataclass(frozen=True)
class TensorPlace:
    """A tensor among the ``n`` of its role: ``i`` counts in file order, ``layer`` is its block if there are experts."""

    i: int
    layer: int
    n: int

    @property
    def first_eighth(self) -> bool:
        return self.layer < self.n // 8

    @property
    def more_bits(self) -> bool:
        """The first and the last eighth, and every third between them."""
        return more_bits(self.layer, self.n)


def more_bits(i: int, n: int) -> bool:
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def mixed_type(model: MixedModel, name: str, shape: tuple[int, ...], place: TensorPlace) -> str | None:
    """The type that the rules give to a tensor, ``None`` for the file type's default. ``shape`` has rows first."""
    tensor_role = role(name)
    if tensor_role is Role.OUTPUT or (tensor_role is Role.TOKEN_EMBD and model.tied):
        return _output(model, n_in=shape[-1])
    if model.ftype.name == "MXFP4_MOE":
        return _mxfp4_moe(model, tensor_role, shape)
    if tensor_role is Role.TOKEN_EMBD:
        return _token_embd(model)
    rules = LOW_BIT_RULES if model.ftype.name in LOW_BIT else RULES
    rule = rules.get(tensor_role)
    return rule(model, place) if rule else None


def _output(model: MixedModel, n_in: int) -> str | None:
    if model.output_tensor:
        return model.output_tensor
    default = model.ftype.default
    if model.ftype.name == "MXFP4_MOE" or model.architecture == "falcon" or n_in % BLOCK_SIZES[default]:
        return "Q8_0"
    if model.ftype.name in LOW_BIT or model.ftype.name == "IQ3_XXS":
        return "Q5_K"
    return None if default == "Q8_0" else "Q6_K"


def _mxfp4_moe(model: MixedModel, tensor_role: Role, shape: tuple[int, ...]) -> str:
    stacked = len(shape) > 2 and shape[-3] > 1
    if model.architecture == "bailingmoe3":
        stacked = stacked and tensor_role in (Role.FFN_UP, Role.FFN_GATE, Role.FFN_DOWN)
    return "MXFP4" if stacked else "Q8_0"


def _token_embd(model: MixedModel) -> str | None:
    match model.ftype.name:
        case "IQ2_XXS" | "IQ2_XS" | "IQ1_S" | "IQ1_M":
            return "Q2_K"
        case "IQ2_S" | "IQ2_M" | "IQ3_XXS":
            return "IQ3_S"
        case "TQ1_0" | "TQ2_0" | "Q2_0":
            return "Q4_K"
    return None


LOW_BIT = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")


def _low_bit_attn_v(model: MixedModel, _: TensorPlace) -> str:
    return "Q4_K" if model.gqa >= 4 or model.n_expert >= 4 else _low_bit_upgrade(model)


def _low_bit_attn_k(model: MixedModel, _: TensorPlace) -> str | None:
    return "Q4_K" if model.n_expert == 8 else None


def _low_bit_ffn_down(model: MixedModel, place: TensorPlace) -> str | None:
    return _low_bit_upgrade(model) if place.i < place.n // 8 else None


def _low_bit_attn_output(model: MixedModel, _: TensorPlace) -> str | None:
    if model.n_expert == 8:
        return "Q5_K"
    match model.ftype.name:
        case "IQ1_S" | "IQ1_M":
            return "IQ2_XXS"
        case "IQ2_S" | "IQ2_M":
            return "IQ3_S"
    return None


def _low_bit_upgrade(model: MixedModel) -> str:
    return "IQ3_S" if model.ftype.name in ("IQ2_S", "IQ2_M") else "Q2_K"


def _attn_v(model: MixedModel, place: TensorPlace) -> str | None:
    new = _attn_v_by_file_type(model, place)
    # With eight query heads per value head attn_v is an eighth of attn_q: more bits cost next to nothing.
    if model.is_70b and (new or model.ftype.default) in ("Q3_K", "Q4_K"):
        new = "Q5_K"
    return "Q8_0" if model.n_expert == 8 else new


def _attn_v_by_file_type(model: MixedModel, place: TensorPlace) -> str | None:
    grouped = model.gqa >= 4
    match model.ftype.name:
        case "Q2_K":
            return "Q4_K" if grouped else "Q3_K"
        case "Q2_K_S" | "IQ3_XS" | "IQ3_S" if grouped:
            return "Q4_K"
        case "IQ3_XXS":
            return "Q4_K" if grouped else "IQ3_XXS" if model.has_imatrix else "IQ3_S"
        case "IQ3_M":
            return "Q4_K"
        case "Q3_K_M":
            return "Q5_K" if place.i < 2 else "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "IQ4_NL" | "IQ4_XS" if grouped:
            return "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if more_bits(place.i, place.n):
            return "Q6_K"
        case "Q4_K_S" if place.i < 4:
            return "Q5_K"
    return None


def _attn_k(model: MixedModel, place: TensorPlace) -> str | None:
    return "Q8_0" if model.n_expert == 8 else _attn_q(model, place)


def _attn_q(model: MixedModel, _: TensorPlace) -> str | None:
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(model.ftype.name)


def _ffn_down(model: MixedModel, place: TensorPlace) -> str | None:
    falcon = model.architecture == "falcon"
    first_sixteenth = place.layer < place.n // 16
    match model.ftype.name:
        case "Q2_K":
            return "Q3_K"
        case "Q2_K_S" if place.first_eighth:
            return "Q4_K"
        case "IQ3_XXS" if not model.has_imatrix:
            return "Q4_K" if place.first_eighth else "Q3_K"
        case "Q3_K_M":
            return "Q5_K" if first_sixteenth else "Q4_K" if not falcon or place.more_bits else "Q3_K"
        case "IQ3_M" if place.first_eighth or (model.n_expert == 8 and place.more_bits):
            return "Q4_K"
        case "Q3_K_L":
            return "Q4_K" if falcon else "Q5_K"
        case "Q4_K_M" if falcon:
            return "Q6_K" if first_sixteenth else "Q5_K" if place.more_bits else "Q4_K"
        case "Q4_K_M" | "Q5_K_M" if place.more_bits:
            return "Q6_K"
        case "IQ4_NL" | "IQ4_XS" if place.first_eighth and not model.has_imatrix:
            return "Q5_K"
        case "Q4_K_S" if place.first_eighth and not falcon:
            return "Q5_K"
        case "Q4_0" if place.first_eighth and model.has_imatrix:
            return "Q4_1"
        case "Q5_0" if place.first_eighth and model.has_imatrix:
            return "Q5_1"
    return None


EIGHT_EXPERTS_ATTN_OUTPUT = (
    *("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"),
    *("IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"),
)


def _attn_output(model: MixedModel, _: TensorPlace) -> str | None:
    if model.architecture == "falcon":
        return "Q4_K" if model.ftype.name == "Q3_K_L" else None
    if model.n_expert == 8:
        return "Q5_K" if model.ftype.name in EIGHT_EXPERTS_ATTN_OUTPUT else None
    upgrades = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
    return upgrades.get(model.ftype.name)


def _ffn_gate_up(model: MixedModel, place: TensorPlace) -> str | None:
    middle = place.n // 8 <= place.layer < 7 * place.n // 8
    return "IQ3_XXS" if model.ftype.name == "IQ3_XS" and middle else None


MixRule = Callable[[MixedModel, TensorPlace], str | None]
LOW_BIT_RULES: Mapping[Role, MixRule] = {
    Role.ATTN_V: _low_bit_attn_v,
    Role.ATTN_K: _low_bit_attn_k,
    Role.FFN_DOWN: _low_bit_ffn_down,
    Role.ATTN_OUTPUT: _low_bit_attn_output,
}
RULES: Mapping[Role, MixRule] = {
    Role.ATTN_V: _attn_v,
    Role.ATTN_K: _attn_k,
    Role.ATTN_Q: _attn_q,
    Role.FFN_DOWN: _ffn_down,
    Role.ATTN_OUTPUT: _attn_output,
    Role.FFN_GATE: _ffn_gate_up,
    Role.FFN_UP: _ffn_gate_up,
}
