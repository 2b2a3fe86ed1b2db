"""The environment variables of this process, and of those that it starts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|^HF_OIDC", re.IGNORECASE)
LOUD = ("torchao", "torchao.kernel.intmm", "torch.utils._pytree", "bitsandbytes", "diffusers.utils.import_utils")
"""What transformers and diffusers import where torchao and bitsandbytes are installed: they warn of kernels of other
machines, and of some to download."""
_OF_LIBRARIES = {"TOKENIZERS_PARALLELISM"}
# what would let the client go by the cache alone, which others fill, or keep it from sending the token that it has
_OF_THE_CLIENT = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"}


def quieten_libraries(*, verbose: bool = False) -> None:
    """Our output is the only output; a user who wants the libraries' own says so in the environment."""
    if verbose:
        os.environ.setdefault("HF_HUB_VERBOSITY", "info")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)


def without_login(**added: str) -> Mapping[str, str]:
    """For a child process that has nothing to do with the Hub."""
    return {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | added


def of_nobody(nowhere: Path) -> Mapping[str, str]:
    """For a child process that works for a stranger: without this machine's secrets, and without its login on the Hub,
    in whose place the client finds ``nowhere``, a file that does not exist."""
    left = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_THE_CLIENT and (name in _OF_LIBRARIES or not _SECRET.search(name))
    }
    return left | {"HF_TOKEN_PATH": str(nowhere)}
