"""The app as programs use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from gradio_client import Client

from tests.support.browser import App, eventually
from tests.support.localhub import LocalHub
from tests.ui.test_walk import SMALL

pytestmark = pytest.mark.slow


def test_submit_follow_and_fetch(app: App, hub: LocalHub) -> None:  # noqa: ARG001
    app.start()
    client = Client(app.url, verbose=False)

    found = client.predict("demo", api_name="/survey_model")
    assert found["unsupported"] is None
    assert {each["name"] for each in found["types"]} >= {"Q8_0", "Q4_K_M"}

    recipe = SMALL.replace("Q4_0", "5bpw")
    estimate = client.predict(recipe, api_name="/check_recipe")
    assert [file["name"] for file in estimate["files"]] == ["Q8_0", "5bpw"]

    job = client.predict(recipe, api_name="/start_job")["job"]
    assert [each["id"] for each in client.predict(api_name="/list_jobs")["jobs"]] == [job]
    eventually(lambda: client.predict(job, api_name="/get_job")["state"] == "done", 600)
    last = client.predict(job, api_name="/get_job")
    assert [stage["name"] for stage in last["stages"]][:2] == ["imatrix", "measure"]

    [result] = client.predict(job, api_name="/get_result")["results"]
    assert {each["type"] for each in result["measurements"]} == {"Q8_0", "max-5bpw-Q4_K_S"}
    assert (
        0
        < estimate["files"][1]["size"] - result["files"]["demo-GGUF/hubquant-demo-max-5bpw-Q4_K_S.gguf"]["size"]
        < 2000
    )
    [file] = [file for name, file in result["files"].items() if name.endswith("Q8_0.gguf")]
    content = httpx2.get(app.url + file["address"]).content
    assert content[:4] == b"GGUF"
    assert len(content) == file["size"]


@pytest.mark.parametrize(
    ("endpoint", "given", "message"),
    [
        ("/start_job", "model: !!python/name:os.system", "tag"),
        ("/start_job", "model: a/b\nquantise: {}", "quantise"),
        ("/survey_model", "<img src=x onerror=alert(1)>", "no model"),
        ("/get_job", "0" * 32, "no such job"),
        ("/cancel_job", "../../jobs", "no such job"),
    ],
)
def test_mistakes_are_told(running: Client, endpoint: str, given: str, message: str) -> None:
    error = running.predict(given, api_name=endpoint)["error"]
    assert message in f"{error['what']} {error['why']}"


def test_each_endpoint_is_a_tool_of_an_mcp_server(running: Client) -> None:
    headers = {"Accept": "application/json, text/event-stream"}

    def ask(method: str, **params: Any) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx2.post(f"{running.src}gradio_api/mcp/", json=asked, headers=headers, timeout=60)
        [line] = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        return json.loads(line.removeprefix("data: "))["result"]

    tools = {tool["name"] for tool in ask("tools/list")["tools"]}
    assert tools >= {"survey_model", "check_recipe", "start_job", "get_job", "get_result", "cancel_job"}
    told = ask("tools/call", name="check_recipe", arguments={"recipe": SMALL})
    assert "Q4_0" in told["content"][0]["text"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    app = App(tmp_path_factory.mktemp("app") / "state").start()
    yield Client(app.url, verbose=False)
    app.stop()
