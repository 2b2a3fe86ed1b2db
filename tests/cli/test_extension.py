"""``hf hubquant``, as ``hf`` calls what ``hf extensions install`` has installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hubquant.version import __version__

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="scripts are .exe files there")


@pytest.mark.parametrize("words", [["hubquant"], ["extensions", "exec", "hubquant"]])
def test_hf_calls_hubquant(words: list[str], tmp_path: Path) -> None:
    module, function = SCRIPTS["hf-hubquant"].split(":")
    script = tmp_path / "hf-hubquant"
    script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
    script.chmod(0o755)
    manifest = {
        "owner": "org",
        "repo": "hf-hubquant",
        "repo_id": "org/hf-hubquant",
        "short_name": "hubquant",
        "executable_path": str(script),
        "type": "python",
        "installed_at": "2026-01-01T00:00:00+00:00",
    }
    place = tmp_path / ".local/share/hf/extensions/hf-hubquant"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps(manifest))
    environment = {"HOME": str(tmp_path), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONPATH": str(ROOT)}
    hf = [sys.executable, "-m", "huggingface_hub.cli.hf", *words]
    for arguments, code, shown in [(["--version"], 0, f"hubquant {__version__}"), (["inspect", "none.gguf"], 2, "")]:
        done = subprocess.run(
            [*hf, *arguments], env=os.environ | environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout.strip()) == (code, shown), done.stderr
