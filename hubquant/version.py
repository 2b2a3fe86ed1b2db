"""The version of the package, apart from its face so that any room may name it."""

__version__ = "0.1.0"
