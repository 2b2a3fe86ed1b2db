"""The version of the package, apart from its face so that any room may name it, and those of others."""

__version__ = "0.1.0"


def version_of(package: str) -> str | None:
    """Of a package of PyPI, without importing it; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
