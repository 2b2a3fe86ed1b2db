"""The recipe: its schema and the ways to load one."""

from hubquant.recipe.load import dump_recipe, load_recipe, parse_recipe
from hubquant.recipe.schema import Recipe, TextSource

__all__ = ["Recipe", "TextSource", "dump_recipe", "load_recipe", "parse_recipe"]
