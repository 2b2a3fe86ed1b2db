"""What the libraries print, log and warn of while they work."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quietly() -> Iterator[None]:
    """Without any of it: what the user has to know is told in our own words."""
    from hubquant.models.load import quiet

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
