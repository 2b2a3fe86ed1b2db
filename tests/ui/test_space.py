"""The folder that a Space is made of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.support.browser import eventually
from tests.support.localhub import LocalHub, oauth
from tests.support.webhooks import free_port

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "spaces/hubquant"


def front_matter() -> dict[str, object]:
    return yaml.safe_load((SPACE / "README.md").read_text("utf-8").split("---\n")[1])  # type: ignore[no-any-return]


def test_its_metadata_is_what_is_tested_here() -> None:
    found = front_matter()
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    assert (found["sdk"], found["sdk_version"]) == ("gradio", pinned["gradio"])
    assert (SPACE / str(found["app_file"])).is_file()
    assert found["hf_oauth"] is True
    scopes = found["hf_oauth_scopes"]
    assert isinstance(scopes, list)
    assert {*scopes} == {*oauth.SCOPES.split()} - {"openid", "profile"}
    assert len(str(found["short_description"])) <= 60


@pytest.mark.slow
def test_its_app_starts(hub: LocalHub, tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, **oauth.environment(hub), "GRADIO_SERVER_PORT": str(port)}
    environment |= {"HUBQUANT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, SPACE / "app.py"], env=environment, stdout=subprocess.DEVNULL)

    def page() -> str:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/").text
        except httpx2.HTTPError:
            assert process.poll() is None
            return ""

    try:
        assert "hubquant" in eventually(page)
        answer = httpx2.get(f"http://127.0.0.1:{port}/login/huggingface")
        assert answer.headers["location"].startswith(f"{hub.url}/oauth/authorize")
    finally:
        process.terminate()
        assert process.wait(30) == 143
