"""From tensor names and shapes to tensor types, as llama-quantize decides (llama.cpp, August 2026)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from hubquant.errors import MixError, NotSupportedYet
from hubquant.mix.file_types import BLOCK_SIZES, FLOAT_TYPES, FTYPES, file_type, tensor_type
from hubquant.mix.rules import ATTN_V_NAMES, MixedModel, Role, TensorPlace, mixed_type, role
from hubquant.mix.storage import kept, storage_type
from hubquant.recipe.schema import Rule

Shape = tuple[int, ...]

SHAPE_FALLBACK: Mapping[str, str] = (
    dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL")
    | dict.fromkeys(("Q2_K", "Q3_K", "Q3_K_HIFI", "TQ1_0", "TQ2_0", "Q2_0"), "Q4_0")
    | {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
)
LAST_RESORT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")  # blocks of 32
MIXED_AS: Mapping[str, str] = {"Q3_K_HIFI": "Q3_K_S"}  # llama.cpp has no rules for it
NEEDS_IMATRIX = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")


def assign(
    tensors: Mapping[str, Shape],
    ftype: str,
    architecture: str,
    hparams: Mapping[str, int],
    has_imatrix: bool,
    *,
    rules: Sequence[Rule] = (),
    pure: bool = False,
    output_tensor: str | None = None,
    token_embedding: str | None = None,
    float_type: str = "F16",
) -> dict[str, str]:
    """The type of every tensor of a file of type ``ftype``, in the order of ``tensors``.

    ``tensors`` maps GGUF names to shapes with rows first; ``hparams`` holds n_layer, n_head, n_head_kv and n_expert.
    The lower-cased patterns of ``rules`` are searched in the tensor's name; the first match decides before llama.cpp's
    own rules, which ``pure`` switches off. ``output_tensor`` and ``token_embedding`` override the type of those two.
    Tensors that are never quantized become F32 or ``float_type``; the float file types store every matrix as themselves
    and ignore ``rules``, as llama-quantize does. Where llama-quantize stops at a row that no block type fits, it is F16
    as llama.cpp's converter does, unless a rule names the type.
    Raises MixError for unknown names, a pattern that is no regular expression, and a type whose blocks do not divide a
    row.
    """
    target = file_type(ftype)
    if target.name == "NVFP4":
        raise NotSupportedYet("files of type NVFP4", hint="use MXFP4_MOE or Q4_K_M")
    user_rules = [(pattern(rule.match), tensor_type(rule.type)) for rule in rules]
    output_type = tensor_type(output_tensor) if output_tensor else None
    token_type = tensor_type(token_embedding) if token_embedding else None
    model = MixedModel(
        ftype=FTYPES[MIXED_AS.get(target.name, target.name)],
        architecture=architecture,
        n_layer=hparams["n_layer"],
        n_head=hparams.get("n_head", 0),
        n_head_kv=hparams.get("n_head_kv", 0),
        n_expert=hparams.get("n_expert", 0),
        n_attention_wv=sum(any(part in name for part in ATTN_V_NAMES) for name in tensors),
        tied="output.weight" not in tensors,
        has_imatrix=has_imatrix,
        output_tensor=output_type,
    )
    overrides = {Role.OUTPUT: output_type, Role.TOKEN_EMBD: token_type}
    unquantized = tensor_type(float_type) if target.quantized else target.default
    seen: Counter[Role] = Counter()
    types: dict[str, str] = {}
    for name in sorted(tensors, key=_file_order):
        shape = tensors[name]
        if kept(name, shape):
            types[name] = storage_type(name, shape, unquantized)
        elif override := overrides.get(role(name)):
            types[name] = _fitting(name, shape, override)
        elif not target.quantized:
            types[name] = target.default
        elif ruled := _first_match(user_rules, name):
            types[name] = _fallback(name, shape, ruled)
        else:
            mixed = None if pure else mixed_type(model, name, shape, _place(model, name, seen))
            types[name] = _fallback(name, shape, mixed or target.default, last_resort=LAST_RESORT)
    return {name: types[name] for name in tensors}


def requires_imatrix(name: str, type: str, ftype: str) -> bool:
    """Whether llama-quantize refuses to make ``name`` of ``type`` without importance data in a file of ``ftype``."""
    if role(name) in (Role.OUTPUT, Role.TOKEN_EMBD):
        return False
    return type in NEEDS_IMATRIX or (type == "Q2_K" and file_type(ftype).name == "Q2_K_S")


def without_importance(type: str) -> str:
    """The type to take instead of one that needs data which is not there: the next larger that needs none."""
    return "Q3_K" if type == "Q2_K" else "Q2_K"


def _file_order(name: str) -> tuple[int, bytes]:
    return block_number(name), name.encode()


def block_number(name: str) -> int:
    """The block a tensor belongs to, -1 for tensors outside the blocks."""
    block = re.match(r"blk\.(\d+)\.", name)
    return int(block[1]) if block else -1


def _place(model: MixedModel, name: str, seen: Counter[Role]) -> TensorPlace:
    tensor_role = role(name)
    i = seen[tensor_role]
    seen[tensor_role] += 1
    # Experts, shared experts and dense layers mix in one role: only the block's number says how deep a tensor lies.
    layer = block_number(name) if model.n_expert > 1 else i
    return TensorPlace(i=i, layer=layer, n=model.n_attention_wv if tensor_role is Role.ATTN_V else model.n_layer)


def pattern(match: str) -> re.Pattern[str]:
    """Searched in lower-case names. Raises ``MixError`` for what is no regular expression."""
    try:
        return re.compile(match.lower())
    except (re.error, RecursionError, OverflowError) as error:
        raise MixError(
            f"{match!r} is not a regular expression", why=str(error), hint="escape special characters with a backslash"
        ) from None


def _first_match(rules: Sequence[tuple[re.Pattern[str], str]], name: str) -> str | None:
    return next((type for pattern, type in rules if pattern.search(name)), None)


def _fallback(name: str, shape: Shape, type: str, last_resort: Collection[str] = ()) -> str:
    """``type``, or where its blocks do not divide a row the type that llama.cpp takes instead.

    That is F16 where blocks of 32 do not, also in place of types of ``last_resort``.
    """
    n_in = shape[-1]
    if n_in % BLOCK_SIZES[type] == 0:
        return type
    if type in last_resort:
        return "F16"
    if type not in SHAPE_FALLBACK:
        return _fitting(name, shape, type)
    other = SHAPE_FALLBACK[type]
    return other if n_in % BLOCK_SIZES[other] == 0 else "F16"


def _fitting(name: str, shape: Shape, type: str) -> str:
    n_in, block = shape[-1], BLOCK_SIZES[type]
    if n_in % block:
        fitting = [other for other, size in BLOCK_SIZES.items() if other not in FLOAT_TYPES and n_in % size == 0]
        raise MixError(
            f"{name} cannot be {type}",
            why=f"its rows have {n_in} weights, not a multiple of {block}",
            hint=f"give it one of {', '.join(['F16', *fitting])} with a rule, or choose another file type",
        )
    return type
