"""Whatever goes wrong at the Hub: one clear message with the next command, and never a token."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from collections.abc import Callable

import pytest
from huggingface_hub import constants

from hubquant.errors import DiskFullError, HubAccessError, HubquantError, HubUnavailableError, OutputError
from hubquant.hub.failures import hub_errors, redact
from hubquant.hub.pull import fetch_file, fetch_metadata, fetch_weights, range_reader, resolve
from hubquant.hub.push import can_write
from hubquant.hub.retry import Retry
from tests.support.hub_fixtures import Run
from tests.support.localhub import ALICE, ALICE_FINE_GRAINED, ALICE_READ_ONLY, BOB, TOKENS, LocalHub

NO_WAIT = Retry(sleep=lambda _: None)
INVALID = "hf_thisTokenIsExpired0000000000000000"
Action = Callable[[], object]


@pytest.fixture(autouse=True)
def repositories(hub: LocalHub) -> None:
    hub.add("org/open", {"config.json": b"{}", "model.safetensors": bytes(1000)})
    hub.add("org/secret", {"config.json": b"{}"}, private=True)
    hub.add("org/gated", {"config.json": b"{}"}, gated="manual")
    hub.add("org/off", {"config.json": b"{}"}, disabled=True)


def failure(action: Action) -> HubquantError:
    with pytest.raises(HubquantError) as caught:
        action()
    return caught.value


ACCESS = [
    (BOB, "org/none", "there is no repository org/none", "this account may not see it", "hf auth whoami"),
    (None, "org/none", "there is no repository org/none", "you are not logged in", "hf auth login"),
    (BOB, "org/secret", "there is no repository org/secret", "this account may not see it", "check the spelling"),
    (None, "org/secret", "there is no repository org/secret", "it is private", "hf auth login"),
    (None, "org/gated", "org/gated is gated", "you are not logged in", "/org/gated, then: hf auth login"),
    (BOB, "org/gated", "org/gated is gated", "has not been given access", "/org/gated with the account"),
    (ALICE, "org/off", "org/off is disabled", None, "another repository"),
    (INVALID, "org/open", "does not accept the token in HF_TOKEN", "invalid or expired", "/settings/tokens"),
    (ALICE, "a/b/c", "'a/b/c' is not a repository id", "namespace/name", "copy it"),
    (ALICE, "org/a--b", "'org/a--b' is not a repository id", None, None),
]


@pytest.mark.parametrize(("token", "id", "what", "why", "hint"), ACCESS)
def test_no_access(
    monkeypatch: pytest.MonkeyPatch, token: str | None, id: str, what: str, why: str | None, hint: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    error = failure(lambda: resolve(id))
    assert isinstance(error, HubAccessError)
    assert error.exit_code == 2
    assert what in error.what
    assert why is None or why in str(error.why)
    assert hint is None or hint in str(error.hint)


@pytest.mark.parametrize("id", ["org/none", "org/gated", "org/secret"])
def test_the_same_for_single_files(monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    monkeypatch.setenv("HF_TOKEN", BOB)
    error = failure(lambda: fetch_file(id, "config.json"))
    assert isinstance(error, HubAccessError)
    assert id in error.what


def test_members_and_granted_accounts_get_in(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("org/secret").private
    assert resolve("org/gated").gated
    hub.repository("org/gated").granted.add("bob")
    monkeypatch.setenv("HF_TOKEN", BOB)
    assert (fetch_metadata(resolve("org/gated")) / "config.json").read_bytes() == b"{}"


def test_an_unknown_revision_lists_the_known_ones(hub: LocalHub) -> None:
    hub.repository("org/open").branches["dev"] = hub.repository("org/open").tags["v1"] = hub.repository("org/open").head
    error = failure(lambda: resolve("org/open", "nope"))
    assert error.what == "org/open has no revision 'nope'"
    assert error.hint == "it has main, dev, v1"


def test_an_unknown_revision_when_the_list_is_not_to_be_had(hub: LocalHub) -> None:
    hub.fail("GET .*/refs", 500)
    assert failure(lambda: resolve("org/open", "nope")).what == "org/open has no revision 'nope'"


def test_an_unknown_file() -> None:
    error = failure(lambda: fetch_file("org/open", "recipe.yaml"))
    assert isinstance(error, HubAccessError)
    assert error.what == "org/open has no file recipe.yaml"
    assert str(error.hint).endswith("/org/open/tree/main")


STEPS: list[tuple[str, str, Action]] = [
    ("model_info", "GET /api/models/org/open/revision", lambda: resolve("org/open", retry=NO_WAIT)),
    ("range", "GET /_cdn", lambda: range_reader(resolve("org/open"), "model.safetensors", retry=NO_WAIT)(0, 8)),
    ("body", "GET /.*/resolve/", lambda: fetch_metadata(resolve("org/open"), retry=NO_WAIT)),
    ("weights", "GET /_cdn", lambda: fetch_weights(resolve("org/open"), ["model.safetensors"], retry=NO_WAIT)),
    ("file", "GET /.*/resolve/", lambda: fetch_file("org/open", "config.json", retry=NO_WAIT)),
    ("whoami", "GET /api/whoami", lambda: can_write("org/open", retry=NO_WAIT)),
    ("auth-check", "GET .*/auth-check/write", lambda: can_write("org/open", retry=NO_WAIT)),
]


@pytest.mark.parametrize(("pattern", "action"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_an_outage_is_waited_out_but_not_for_ever(hub: LocalHub, pattern: str, action: Action) -> None:
    hub.fail(pattern, 503, times=4)
    action()
    assert len([entry for entry in hub.requests(pattern) if entry.status == 503]) == 4


@pytest.mark.parametrize(("pattern", "action"), [step[1:] for step in STEPS[:2]], ids=[step[0] for step in STEPS[:2]])
def test_an_outage_that_lasts_is_reported(hub: LocalHub, pattern: str, action: Action) -> None:
    hub.fail(pattern, 502, times=99, message=f"oops {ALICE} is down")
    error = failure(action)
    assert isinstance(error, HubUnavailableError)
    assert error.exit_code == 1
    assert str(error) == "the Hub is out of order (status 502): oops *** is down"
    assert len([entry for entry in hub.requests(pattern) if entry.status == 502]) == 5


def test_rate_limits_are_respected(hub: LocalHub, caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []
    hub.fail("GET /api/models", 429, headers={"Retry-After": "12"})
    hub.fail("GET /api/models", 429, headers={"RateLimit": '"api";r=0;t=55'})
    hub.fail("GET /api/models", 429, headers={"Retry-After": "99999"})
    hub.fail("GET /api/models", 429)
    resolve("org/open", retry=Retry(sleep=waits.append))
    assert waits == [12, 55, 300, 8]
    assert caplog.messages[0] == "the Hub answers with status 429: trying again in 12 s"
    hub.fail("GET /api/models", 429, times=99)
    assert failure(lambda: resolve("org/open", retry=NO_WAIT)).what == "the Hub limits the number of requests"


def test_mistakes_are_not_retried(hub: LocalHub) -> None:
    failure(lambda: resolve("org/none", retry=NO_WAIT))
    assert len(hub.requests("/org/none")) == 1


NO_NETWORK = """
from hubquant.errors import HubUnavailableError
from hubquant.hub.pull import fetch_file, resolve
from hubquant.hub.push import can_write
from hubquant.hub.retry import Retry
once = Retry(sleep=lambda _: None)
for action in (resolve, lambda id, retry: fetch_file(id, "a", retry=retry), can_write):
    try:
        action("org/open", retry=once)
    except HubUnavailableError as error:
        print(error, "|", error.hint)
"""


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://hub.invalid"])
def test_no_network(run_python: Run, endpoint: str) -> None:
    result = run_python("-c", NO_NETWORK, HF_ENDPOINT=endpoint)
    lines = result.stdout.splitlines()
    assert len(lines) == 3, result.stderr
    for line in lines:
        assert line.startswith(f"cannot reach {endpoint}: no connection: no network")
        assert "HF_HUB_OFFLINE=1" in line


def test_something_else_at_the_endpoint(hub: LocalHub) -> None:
    hub.fail("GET /api/models", 200, message="<html>")
    hub.fail("HEAD /org/open/resolve", 200, times=9)
    for action in (lambda: resolve("org/open"), lambda: fetch_file("org/open", "config.json")):
        assert "does not answer as a Hugging Face Hub does" in failure(action).what


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EACCES, OutputError), (errno.EROFS, OutputError)]
)
def test_a_full_or_locked_disk(number: int, kind: type[HubquantError]) -> None:
    error = failure(lambda: raise_os_error(number))
    assert isinstance(error, kind)
    assert "HF_HOME" in str(error.hint)


def raise_os_error(number: int) -> None:
    with hub_errors("org/open"):
        raise OSError(number, os.strerror(number), "/cache/blob")


def test_errors_of_other_kinds_pass_untouched() -> None:
    with pytest.raises(RuntimeError, match="mine"), hub_errors("org/open"):
        raise RuntimeError("mine")
    with pytest.raises(FileNotFoundError), hub_errors("org/open"):
        raise FileNotFoundError(errno.ENOENT, "gone", "x")


WRITING = [
    (None, "alice/new", "you are not logged in to the Hub", "hf auth login"),
    (INVALID, "alice/new", "does not accept the token", "settings/tokens"),
    (ALICE_READ_ONLY, "alice/new", "may not write to alice/new: it is a read-only token", "settings/tokens"),
    (BOB, "alice/new", "may not write to alice/new: the account bob writes to bob", "hf auth whoami"),
    (BOB, "org/open", "may not write to org/open", "hf auth whoami"),
    (BOB, "org/secret", "may not write to org/secret: the account bob writes to bob", "hf auth whoami"),
    (ALICE, "nobody/new", "the account alice writes to alice, org", "hf auth whoami"),
    (ALICE_FINE_GRAINED, "org/new", "its permissions do not include repo.write in org", "settings/tokens"),
    (ALICE, "not an id", "is not a repository id", "copy it"),
]


@pytest.mark.parametrize(("token", "id", "message", "hint"), WRITING)
def test_no_permission_to_write_is_known_before_any_work(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, token: str | None, id: str, message: str, hint: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    before = set(hub.repositories)
    error = failure(lambda: can_write(id))
    assert isinstance(error, HubAccessError)
    assert message in str(error)
    assert hint in str(error.hint)
    assert set(hub.repositories) == before


def test_a_pull_request_to_what_is_gated_is_refused_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", BOB)
    assert "org/gated is gated" in str(failure(lambda: can_write("org/gated", pull_request=True)))


@pytest.mark.parametrize(
    ("token", "id", "full"),
    [
        (ALICE, "alice/new", "alice/new"),
        (ALICE, "new", "alice/new"),
        (ALICE, "org/new", "org/new"),
        (ALICE, "org/open", "org/open"),
        (ALICE_FINE_GRAINED, "alice/new", "alice/new"),
    ],
)
def test_permission_to_write(monkeypatch: pytest.MonkeyPatch, token: str, id: str, full: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert can_write(id) == full


def test_no_message_and_no_log_line_holds_a_token(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[object] = []
    for token in [*TOKENS, INVALID]:
        monkeypatch.setenv("HF_TOKEN", token)
        for id in ["org/open", "org/none", "org/gated", "org/off", "a/b/c"]:
            hub.fail(f"GET .*{id}", 500, message=f"token {token}")
            for action in (lambda id=id: resolve(id, retry=NO_WAIT), lambda id=id: can_write(id, retry=NO_WAIT)):
                try:
                    action()
                except HubquantError as error:
                    said += [error, repr(error), error.why, error.hint, pickle.dumps(error)]
    assert len(said) > 50
    everything = " ".join(map(str, said)) + caplog.text + "".join(capfd.readouterr())
    for token in [*TOKENS, INVALID]:
        assert token not in everything
    assert constants.ENDPOINT in everything


def test_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "unusual-token")
    assert redact("Bearer unusual-token or hf_abcDEF123 or api_org_XyZ99") == "Bearer *** or *** or ***"
