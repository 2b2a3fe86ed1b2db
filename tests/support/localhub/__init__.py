"""A Hugging Face Hub on 127.0.0.1 that the real clients talk to over HTTP.

    with LocalHub(folder) as hub:
        hub.add("org/model", {"config.json": b"{}"})
        hub.fail(r"GET .*/resolve/", status=503, times=2)
        ...  # in a process with HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1 and HF_TOKEN=ALICE

It serves what huggingface_hub 2.4, datasets 5.2 and transformers 5.23 ask for when they pull, push and stream:
repositories, commits, branches, trees with pagination, small files and LFS (single PUT and multipart), ranged downloads
through a CDN on another hostname, gated, private and disabled repositories, tokens with roles, pull requests and
collections. Xet and jobs are not served.
"""

from tests.support.localhub.server import LocalHub
from tests.support.localhub.state import (
    ALICE,
    ALICE_FINE_GRAINED,
    ALICE_READ_ONLY,
    BOB,
    TOKENS,
    Account,
)

__all__ = ["ALICE", "ALICE_FINE_GRAINED", "ALICE_READ_ONLY", "BOB", "TOKENS", "Account", "LocalHub"]
