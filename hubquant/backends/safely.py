"""What every load has in common: nothing of a model is run or downloaded, nothing is printed, and errors are ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hubquant.backends.libraries.noise import quietly
from hubquant.errors import CheckpointError, HubquantError, UserError

SAFELY = {"local_files_only": True, "use_safetensors": True}
"""Options of ``from_pretrained``."""


@contextmanager
def loading(name: str) -> Iterator[None]:
    """In silence. Raises ``CheckpointError`` for whatever a library stumbles over, ``UserError`` for a package that it
    lacks."""
    try:
        with quietly():
            yield
    except HubquantError:
        raise
    except ImportError as error:  # of what a framework reads with the help of others
        raise UserError(
            f"{name} cannot be loaded with what is installed",
            why=_first_line(error),
            hint="install what it names, or load the model that it was made of",
        ) from error
    except Exception as error:  # each library raises its own for weights that do not fit
        raise CheckpointError(
            f"{name} cannot be loaded",
            why=_first_line(error),
            hint="compare the files with those of the repository that the model comes from",
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(" :")[:300]
