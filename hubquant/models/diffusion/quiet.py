"""diffusers without its warnings and bars."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hubquant.models.load import quiet


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """transformers and accelerate are quiet too."""
    from diffusers.utils import logging as diffusers_logging

    logging: Any = diffusers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
