"""Flags as settings, checked before torch and transformers are imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.disk import check_ends
from hubquant.errors import UserError

if TYPE_CHECKING:
    from hubquant.recipe.schema import Imatrix, Quantize

LARGEST_LIST = 1 << 20  # bytes


def type_names(texts: Sequence[str], flag: str, *, named: bool = False) -> list[str]:
    """The file types in texts like "Q8_0,q4_k_m", each once. Raises ``UserError`` for none, or for an unknown one; with
    ``named`` not for what may be a name that a recipe gives, has a format before a colon, or is a size."""
    from hubquant.mix import file_type, is_budget, is_name

    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    names = [name.rpartition(":")[2] if name.lower().startswith("gguf:") else name for name in names]
    if not names:
        raise UserError(f"{flag} names no type", hint=f"write {flag} Q8_0,Q4_K_M")
    if not named and (other := next((name for name in names if ":" in name), None)):
        hint = f"hubquant run MODEL --types {other} makes and measures such a folder"
        raise UserError(f"{flag}: {other} is no type of GGUF", why="this writes GGUF files only", hint=hint)
    try:
        left = {name for name in names if named and (":" in name or is_name(name) or is_budget(name))}
        return list(dict.fromkeys(name if name in left else file_type(name).name for name in names))
    except UserError as error:
        raise UserError(f"{flag}: {error.what}", why=error.why, hint=error.hint) from None


def converted_type(text: str, model: str) -> str:
    """What ``hubquant convert`` writes. Raises ``UserError`` for a type that needs ``hubquant quantize``."""
    from hubquant.commands.flags import CONVERTED_TYPES

    [name] = type_names([text], "--type")
    if name not in CONVERTED_TYPES:
        raise UserError(f"convert does not write {name}", hint=f"hubquant quantize {model} -t {name} -o DIR")
    return name


def quantize_settings(types: Sequence[str], rules: Sequence[str], **others: Any) -> Quantize:
    """``others`` are fields of ``Quantize``. Raises ``UserError`` for a name that no type has, for a rule that is not
    REGEX=TYPE and for what contradicts itself."""
    from hubquant.mix import check_settings
    from hubquant.recipe.schema import Quantize, Rule

    if others.get("leave_output_tensor") and others.get("output_tensor"):
        raise UserError("--leave-output-tensor and --output-tensor-type contradict each other", hint="give one of them")
    parsed = []
    for rule in rules:
        match, equals, type = rule.rpartition("=")
        if not equals or not match or not type:
            raise UserError(f"{rule!r} is not a tensor rule", hint="write --tensor-type 'ffn_down=Q6_K'")
        parsed.append(Rule(match=match, type=type))
    return check_settings(Quantize(types=tuple(type_names(types, "--type")), rules=tuple(parsed), **others))


def layer_numbers(text: str) -> tuple[int, ...]:
    """Of "20,21", each once. Raises ``UserError`` for what is no number of a layer."""
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise UserError(f"--prune-layers: {wrong[0]!r} is no layer", hint="write --prune-layers 20,21")
    return tuple(sorted(set(map(int, parts))))


def read_rules(path: Path) -> list[str]:
    """What stands between the white space of a file. Raises ``UserError`` for a file that cannot be read or is none."""
    try:
        check_ends(path)
        if path.stat().st_size > LARGEST_LIST:
            raise UserError(f"{path} is too large for a list of tensors", hint="name a text file")
        found = path.read_text("utf-8").split()
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file", hint="name a list of REGEX=TYPE") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read", why=error.strerror, hint="check the path") from None
    if not found:
        raise UserError(f"{path} is empty", hint="write lines such as ffn_down=Q6_K in it")
    return found


def imatrix_settings(references: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> Imatrix:
    """Matrices and which of their entries are used. Raises ``UserError`` for contradictions."""
    from hubquant.recipe.schema import Imatrix

    if include and exclude:
        raise UserError("--include-weights and --exclude-weights contradict each other", hint="give one of them")
    if (include or exclude) and not references:
        raise UserError("there is no importance matrix to choose entries of", hint="add --imatrix FILE")
    return Imatrix(files=tuple(references), include_weights=tuple(include), exclude_weights=tuple(exclude))
