"""The app on a Space. What it keeps lies in the Space's storage, if it has any."""

import os
import sys
from pathlib import Path

STORAGE = Path("/data")
if STORAGE.is_dir() and os.access(STORAGE, os.W_OK):  # before a library reads them
    os.environ.setdefault("HUBQUANT_HOME", str(STORAGE / "hubquant"))
    os.environ.setdefault("HF_HOME", str(STORAGE / "huggingface"))

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces

    @spaces.GPU(duration=1)
    def nothing() -> None:
        """ZeroGPU ends a Space without such a function. Jobs are processes of their own, which get no GPU by it."""


if __name__ == "__main__":
    from hubquant.cli import main

    sys.argv = ["hubquant", "ui", "--host", "0.0.0.0", "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
    main()
