"""What is asked for, checked before any model is opened."""

from __future__ import annotations

from hubquant.errors import RecipeError
from hubquant.mix.assignment import pattern
from hubquant.mix.file_types import FTYPES, file_type, tensor_type
from hubquant.quants import FORK_TYPES
from hubquant.quants.formats import fork_of
from hubquant.recipe.schema import Quantize, Recipe


def check_recipe(recipe: Recipe) -> Recipe:
    """The recipe with canonical type names. Raises ``UserError`` for types that do not exist or are not measured."""
    settings = check_settings(recipe.quantize)
    gates = {file_type(name).name: bound for name, bound in recipe.gates.kld_mean.items()}
    unmeasured = [name for name in gates if name not in settings.types or recipe.evaluate.skip]
    if unmeasured:
        raise RecipeError(
            f"gates.kld_mean names {unmeasured[0]}, which is not measured",
            hint="leave evaluate.skip out" if recipe.evaluate.skip else f"add {unmeasured[0]} to the types",
        )
    return recipe.model_copy(
        update={
            "quantize": settings,
            "gates": recipe.gates.model_copy(update={"kld_mean": gates}),
        }
    )


def check_settings(settings: Quantize) -> Quantize:
    """The settings with canonical names of file types, each once.

    Raises ``MixError`` for a type that does not exist or a rule that is no regular expression, ``RecipeError`` for no
    type at all and for one that only a fork of llama.cpp reads, unless the settings allow such types, and
    ``NotSupportedYet`` for a size.
    """
    if not settings.types:
        raise RecipeError("quantize.types is empty", hint="name at least one, such as --types Q4_K_M")
    types = tuple(dict.fromkeys(file_type(name).name for name in settings.types))
    for rule in settings.rules:
        pattern(rule.match)
    named = [rule.type for rule in settings.rules]
    named += [type for type in (settings.output_tensor, settings.token_embedding) if type]
    tensor_types = [tensor_type(name) for name in named]
    found = [name for name in (*(FTYPES[ftype].default for ftype in types), *tensor_types) if name in FORK_TYPES]
    if found and not settings.allow_fork_types:
        raise RecipeError(
            f"{found[0]} is not a type of llama.cpp",
            why=f"only its fork {fork_of(found)} loads such files",
            hint="choose Q3_K_M, or add --set quantize.allow_fork_types=true",
        )
    return settings.model_copy(update={"types": types})
