"""Whose token this process uses on the Hub."""

from __future__ import annotations

import os


def sign_in(token: str | None) -> None:
    """From now on the client of this process uses ``token``, or none. Child processes do not inherit it, and nobody
    reads it in the list of this process's environment: what the client looks up is Python's copy of that alone.

    The client would take a token stored on this machine for none: see :func:`hubquant.environ.of_nobody`.
    """
    if token is None:
        os.environ.pop("HF_TOKEN", None)
    else:
        os.environ["HF_TOKEN"] = token
        os.unsetenv("HF_TOKEN")
