"""What is asked for, checked before any model is opened."""

from __future__ import annotations

from collections.abc import Sequence

from hubquant.errors import RecipeError
from hubquant.mix.budget import Budget, is_budget
from hubquant.mix.file_types import file_type, tensor_type
from hubquant.mix.names import check_name
from hubquant.mix.patterns import pattern
from hubquant.quants import FORK_TYPES
from hubquant.quants.formats import fork_of
from hubquant.recipe.backends import is_of_library
from hubquant.recipe.schema import NamedType, Quantize, Recipe


def check_recipe(recipe: Recipe) -> Recipe:
    """The recipe with canonical type names. Raises ``UserError`` for types that do not exist or are not measured."""
    settings = check_settings(recipe.quantize)
    own = {name.lower(): name for name in settings.names}
    gates = {}
    for field, bounds in recipe.gates:
        gates[field] = {own.get(name.lower()) or _type(name): bound for name, bound in bounds.items()}
        unmeasured = [name for name in gates[field] if name not in settings.names or recipe.evaluate.skip]
        if unmeasured:
            raise RecipeError(
                f"gates.{field} names {unmeasured[0]}, which is not measured",
                hint="leave evaluate.skip out" if recipe.evaluate.skip else f"add {unmeasured[0]} to the types",
            )
    return recipe.model_copy(update={"quantize": settings, "gates": recipe.gates.model_copy(update=gates)})


def check_settings(settings: Quantize) -> Quantize:
    """The settings with canonical names of file types, each once.

    Raises ``MixError`` for a type that does not exist or a rule that is no regular expression, ``RecipeError`` for no
    type at all and for one that only a fork of llama.cpp reads, unless the settings allow such types.
    Two files of one name, and names by which no program knows a type, are refused too.
    """
    if not settings.types:
        raise RecipeError("quantize.types is empty", hint="name at least one, such as --types Q4_K_M")
    types = _canonical(settings.types)
    files = [settings.of(entry) for entry in settings.model_copy(update={"types": types}).of_gguf.types]
    for rule in {rule: None for each in files for rule in each.rules}:
        pattern(rule.match)
    if settings.override_kv:
        from hubquant.gguf_file import parse_override  # it imports numpy

        for override in settings.override_kv:
            parse_override(override)
    named = [rule.type for each in files for rule in each.rules]
    named += [type for each in files for type in (each.output_tensor, each.token_embedding) if type]
    tensor_types = [tensor_type(name) for name in named]
    defaults = [file_type(name).default for each in files for name in each.names if not is_budget(name)]
    found = [name for name in (*defaults, *tensor_types) if name in FORK_TYPES]
    if found and not settings.allow_fork_types:
        raise RecipeError(
            f"{found[0]} is not a type of llama.cpp",
            why=f"only its fork {fork_of(found)} loads such files",
            hint="choose Q3_K_M, or add --set quantize.allow_fork_types=true",
        )
    return settings.model_copy(update={"types": types})


def _canonical(entries: Sequence[str | NamedType]) -> tuple[str | NamedType, ...]:
    """Canonical types, each once. Raises ``RecipeError`` for two files of one name."""
    types = dict.fromkeys(_type(entry) for entry in entries if isinstance(entry, str))
    seen = {type.lower(): type for type in types}
    found: list[str | NamedType] = []
    for entry in entries:
        if isinstance(entry, str):
            found.append(_type(entry))
            continue
        type = file_type(entry.type).name
        check_name(entry.name, type)
        if (other := seen.get(entry.name.lower())) is not None:
            raise RecipeError(
                f"quantize.types has two files called {entry.name}",
                why=None if other == entry.name else f"programs do not tell {other} from {entry.name}",
                hint="give each a name of its own",
            )
        seen[entry.name.lower()] = entry.name
        found.append(entry.model_copy(update={"type": type}))
    return tuple(dict.fromkeys(found))


def _type(name: str) -> str:
    """Those of libraries are the libraries' to know, and sizes stay as they are, in one way to write them."""
    if is_of_library(name):
        return name
    budget = Budget.of(name)
    return str(budget) if budget else file_type(name).name
