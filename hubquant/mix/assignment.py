"""From tensor names and shapes to tensor types, as llama-quantize decides (llama.cpp, August 2026)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from hubquant.errors import NotSupportedYet
from hubquant.mix.denoisers import DENOISERS, assign_denoiser
from hubquant.mix.fallback import LAST_RESORT, Shape, fallback, fitting
from hubquant.mix.file_types import FTYPES, file_type, tensor_type
from hubquant.mix.patterns import first_match, pattern
from hubquant.mix.rules import ATTN_V_NAMES, MixedModel, Role, TensorPlace, mixed_type, role
from hubquant.mix.storage import kept, storage_type
from hubquant.recipe.schema import Rule

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
    as llama.cpp's converter does, unless a rule names the type. Denoisers have rules of their own
    (:mod:`hubquant.mix.denoisers`).
    Raises MixError for unknown names, a pattern that is no regular expression, and a type whose blocks do not divide a
    row.
    """
    target = file_type(ftype)
    if target.name == "NVFP4":
        hint = "use MXFP4_MOE or Q4_K_M; weights that a checkpoint has in NVFP4 stay so with --tensor-type blk=NVFP4"
        raise NotSupportedYet("files of type NVFP4", hint=hint)
    user_rules = [(pattern(rule.match), tensor_type(rule.type)) for rule in rules]
    if architecture in DENOISERS:
        return assign_denoiser(
            tensors, target, architecture, rules=user_rules, pure=pure, float_type=tensor_type(float_type)
        )
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
            types[name] = fitting(name, shape, override)
        elif not target.quantized:
            types[name] = storage_type(name, shape, target.default)
        elif ruled := first_match(user_rules, name):
            types[name] = fallback(name, shape, ruled)
        else:
            mixed = None if pure else mixed_type(model, name, shape, _place(model, name, seen))
            types[name] = fallback(name, shape, mixed or target.default, last_resort=LAST_RESORT)
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
