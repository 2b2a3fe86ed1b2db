"""From a recipe to a finished repository."""
