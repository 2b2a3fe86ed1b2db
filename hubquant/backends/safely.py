"""What every load has in common: nothing of a model is run or downloaded, nothing is printed, and errors are ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hubquant.backends.libraries.noise import quietly
from hubquant.errors import CheckpointError, HubquantError

SAFELY = {"local_files_only": True, "use_safetensors": True}
"""Options of ``from_pretrained``."""


@contextmanager
def loading(name: str) -> Iterator[None]:
    """In silence. Raises ``CheckpointError`` for whatever a library stumbles over."""
    try:
        with quietly():
            yield
    except HubquantError:
        raise
    except Exception as error:  # each library raises its own for weights that do not fit
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(
            f"{name} cannot be loaded",
            why=(lines or [type(error).__name__])[0].rstrip(" :")[:300],
            hint="compare the files with those of the repository that the model comes from",
        ) from error
