"""Single commands, without a recipe."""
