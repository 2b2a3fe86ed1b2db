"""The recipe: its schema and the ways to load one."""

from hubquant.recipe.load import Override, dump_recipe, load_recipe, matrices_instead, override_recipe, parse_recipe
from hubquant.recipe.schema import ModelReference, Recipe, TextSource

__all__ = [
    "ModelReference",
    "Override",
    "Recipe",
    "TextSource",
    "dump_recipe",
    "load_recipe",
    "matrices_instead",
    "override_recipe",
    "parse_recipe",
]
