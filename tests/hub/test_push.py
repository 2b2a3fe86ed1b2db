"""Pushing to the local Hub over HTTP with the real client."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from hubquant.errors import HubAccessError, HubUnavailableError, OutputError
from hubquant.hub.branches import PushOptions
from hubquant.hub.push import Pushed, can_write, check_id
from hubquant.hub.push import push as push_files
from hubquant.hub.retry import Retry
from tests.support.localhub import ALICE, ALICE_READ_ONLY, BOB, LocalHub

NO_WAIT = Retry(sleep=lambda _: None)
CARD = b"---\nlicense: mit\nbase_model: org/model\n---\n# GGUF\n"
LARGE = (1 << 20) + 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    contents = {
        "README.md": CARD,
        "recipe.yaml": b"model: org/model\n",
        "imatrix.gguf": os.urandom(2000),
        "model-Q4_K_M.gguf": os.urandom(LARGE),
        "Q8_0/model-Q8_0-00001-of-00002.gguf": os.urandom(LARGE + 1),
        "Q8_0/model-Q8_0-00002-of-00002.gguf": os.urandom(5000),
        ".eval_results/org_texts_Q8_0.yaml": b"- value: 1\n",
        ".hubquant/journal.json": b"{}",
        ".hidden": b"x",
        "Q8_0/.model.partial": b"x",
        "kld.png": b"\x89PNG\0",
    }
    for name, content in contents.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "out"


def publishable(folder: Path) -> dict[str, Path]:
    """What the manifest of such a folder would name."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if not name.startswith((".hubquant", ".hidden", "Q8_0/."))}


def push(folder: Path, to: str, **options: Any) -> Pushed:
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in publishable(folder).items()}
    return push_files(folder, digests, to, **options)


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in publishable(folder).values())


def names(hub: LocalHub, id: str = "alice/model-GGUF") -> set[str]:
    return set(hub.repository(id).files) - {".gitattributes"}


def test_what_is_not_as_it_was_made_is_not_uploaded(hub: LocalHub, folder: Path) -> None:
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in publishable(folder).items()}
    (folder / "model-Q4_K_M.gguf").write_bytes(bytes(LARGE))
    with pytest.raises(OutputError, match="not what hubquant made"):
        push_files(folder, digests, "alice/model-GGUF")
    assert names(hub) == set()
    assert not hub.requests("PUT")


def test_push_creates_the_repository_with_every_file_in_one_commit(hub: LocalHub, folder: Path) -> None:
    hub.multipart_threshold, hub.part_size = 1 << 20, 400_000
    done: list[int] = []
    pushed = push(folder, "alice/model-GGUF", options=PushOptions(message="Publish model"), advance=done.append)
    assert pushed.url == f"{hub.url}/alice/model-GGUF"
    assert set(pushed.uploaded) == set(publishable(folder)) == names(hub)
    for name, path in publishable(folder).items():
        assert hub.content("alice/model-GGUF", name) == path.read_bytes()
    repository = hub.repository("alice/model-GGUF")
    assert not repository.private
    assert [commit.title for _, commit in repository.history("main")] == ["Publish model", "initial commit"]
    assert pushed.commit == repository.head
    assert sum(done) == total(folder)


@pytest.mark.parametrize("part_size", [None, 400_000])
def test_progress_moves_within_a_file_and_counts_nothing_twice(
    hub: LocalHub, folder: Path, part_size: int | None
) -> None:
    if part_size is not None:
        hub.multipart_threshold, hub.part_size = 1 << 20, part_size
    hub.fail("PUT /_lfs", 400, after=1)
    done: list[int] = []
    with pytest.raises(HubAccessError):
        push(folder, "alice/model-GGUF", advance=done.append, retry=NO_WAIT)
    hub.fail("PUT /_lfs", 503)
    done.clear()
    push(folder, "alice/model-GGUF", advance=done.append, retry=NO_WAIT)
    assert sum(done) == total(folder)
    assert sum(0 < n < LARGE - 10_000 for n in done) > len(publishable(folder))


def test_the_card_is_not_there_before_the_files(hub: LocalHub, folder: Path) -> None:
    push(folder, "alice/model-GGUF")
    lines = [entry.line.split("?")[0] for entry in hub.log]
    commit = next(index for index, line in enumerate(lines) if "/commit/" in line)
    uploads = [index for index, line in enumerate(lines) if line.startswith("PUT")]
    assert uploads
    assert max(uploads) < commit
    assert not [line for line in lines[:commit] if "README" in line]


def test_a_repeated_push_uploads_nothing_and_makes_no_commit(hub: LocalHub, folder: Path) -> None:
    first = push(folder, "alice/model-GGUF")
    hub.log.clear()
    done: list[int] = []
    again = push(folder, "alice/model-GGUF", advance=done.append)
    assert (again.uploaded, again.commit, again.url) == ((), None, first.url)
    assert hub.repository("alice/model-GGUF").head == first.commit
    assert {entry.line for entry in hub.log if entry.method != "GET"} == {"POST /api/repos/create"}
    assert sum(done) == total(folder)


def test_only_what_changed_is_uploaded(hub: LocalHub, folder: Path) -> None:
    push(folder, "alice/model-GGUF")
    hub.log.clear()
    (folder / "README.md").write_bytes(CARD + b"more\n")
    (folder / "model-Q4_K_M.gguf").write_bytes(bytes(LARGE))
    pushed = push(folder, "alice/model-GGUF")
    assert pushed.uploaded == ("README.md", "model-Q4_K_M.gguf")
    assert len(hub.requests("PUT")) == 1
    assert hub.content("alice/model-GGUF", "model-Q4_K_M.gguf") == bytes(LARGE)


def test_files_of_others_stay(hub: LocalHub, folder: Path) -> None:
    hub.add("alice/model-GGUF", {"theirs.txt": b"keep", "README.md": b"old card"})
    push(folder, "alice/model-GGUF")
    assert hub.content("alice/model-GGUF", "theirs.txt") == b"keep"
    assert hub.content("alice/model-GGUF", "README.md") == CARD


def test_private(hub: LocalHub, folder: Path) -> None:
    push(folder, "alice/model-GGUF", private=True)
    assert hub.repository("alice/model-GGUF").private


@pytest.mark.parametrize("pattern", ["POST /api/repos/create", "GET /api/models/alice", "POST .*/commit/"])
@pytest.mark.parametrize("status", [503, 429])
def test_outages_are_waited_out(hub: LocalHub, folder: Path, pattern: str, status: int) -> None:
    hub.fail(pattern, status, times=3)
    waits: list[float] = []
    push(folder, "alice/model-GGUF", retry=Retry(sleep=waits.append))
    assert waits == [1, 2, 4]
    assert names(hub) == set(publishable(folder))
    assert len(list(hub.repository("alice/model-GGUF").history("main"))) == 2


@pytest.mark.parametrize("pattern", [r"PUT /_lfs", r"POST .*/commit/", r"POST /_lfs/.*/verify"])
def test_a_broken_push_shows_no_card_and_is_continued(hub: LocalHub, folder: Path, pattern: str) -> None:
    hub.fail(pattern, 400, after=1 if "_lfs" in pattern else 0, times=9)
    with pytest.raises(HubAccessError, match="status 400"):
        push(folder, "alice/model-GGUF", retry=NO_WAIT)
    assert names(hub) == set()
    sent = [entry.path for entry in hub.requests("PUT") if entry.status == 200]
    assert sent
    hub.faults.clear()
    hub.log.clear()
    push(folder, "alice/model-GGUF")
    assert names(hub) == set(publishable(folder))
    assert not {entry.path for entry in hub.requests("PUT")} & set(sent)


def test_a_broken_push_leaves_the_old_version_complete(hub: LocalHub, folder: Path) -> None:
    first = push(folder, "alice/model-GGUF")
    (folder / "README.md").write_bytes(CARD + b"new\n")
    (folder / "model-Q4_K_M.gguf").write_bytes(bytes(LARGE))
    hub.fail("POST .*/commit/", 500, times=99)
    with pytest.raises(HubUnavailableError, match="out of order"):
        push(folder, "alice/model-GGUF", retry=NO_WAIT)
    assert hub.repository("alice/model-GGUF").head == first.commit
    assert hub.content("alice/model-GGUF", "README.md") == CARD


def test_a_commit_in_between_is_kept(hub: LocalHub, folder: Path) -> None:
    hub.add("alice/model-GGUF", {"notes.txt": b"1"})

    def interfere(_: int) -> None:
        if "notes2.txt" not in hub.repository("alice/model-GGUF").files:
            hub.add("alice/model-GGUF", {"notes2.txt": b"2"})

    pushed = push(folder, "alice/model-GGUF", advance=interfere)
    assert names(hub) == {*publishable(folder), "notes.txt", "notes2.txt"}
    assert set(pushed.uploaded) == set(publishable(folder))
    assert [entry.status for entry in hub.requests("/commit/")] == [412, 200]


def test_a_repository_that_never_rests_is_given_up(hub: LocalHub, folder: Path) -> None:
    hub.fail("POST .*/commit/", 412, times=99)
    with pytest.raises(HubUnavailableError, match="keeps changing"):
        push(folder, "alice/model-GGUF")
    assert len(hub.requests("/commit/")) == 5


def test_a_commit_whose_answer_got_lost_is_not_made_twice(hub: LocalHub, folder: Path) -> None:
    hub.fail("POST .*/commit/", cut=0)
    pushed = push(folder, "alice/model-GGUF", retry=NO_WAIT)
    repository = hub.repository("alice/model-GGUF")
    assert len(list(repository.history("main"))) == 2
    assert pushed.commit == repository.head
    assert set(pushed.uploaded) == set(publishable(folder))


@pytest.mark.parametrize(("token", "id"), [(BOB, "alice/model-GGUF"), (ALICE_READ_ONLY, "alice/model-GGUF")])
def test_no_permission(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str, id: str) -> None:
    hub.add(id, {"a.txt": b"1"})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubAccessError, match="may not write"):
        push(folder, id)
    assert names(hub) == {"a.txt"}


def test_no_permission_for_a_new_repository(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", BOB)
    with pytest.raises(HubAccessError, match=r"may not write to alice/new: .*rights to create"):
        push(folder, "alice/new")
    assert not hub.repositories


def test_a_card_that_the_hub_refuses(hub: LocalHub, folder: Path) -> None:
    (folder / "README.md").write_bytes(b"---\nlicense: [\n---\n")
    with pytest.raises(OutputError, match=r"front matter of README\.md"):
        push(folder, "alice/model-GGUF")
    assert names(hub) == set()


def test_nothing_to_publish(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "out" / ".hubquant").mkdir(parents=True)
    with pytest.raises(OutputError, match="nothing to publish"):
        push(tmp_path / "out", "alice/model-GGUF")
    assert not hub.log


def test_a_name_is_checked_without_asking_the_hub(hub: LocalHub) -> None:
    check_id("alice/model-GGUF")
    with pytest.raises(HubAccessError, match="'a/b/c' is not a repository id"):
        check_id("a/b/c")
    assert not hub.log


def test_the_client_draws_no_bars_and_shows_no_token(
    hub: LocalHub, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # bars also without a terminal
    push(folder, "alice/model-GGUF")
    written = "".join(capfd.readouterr())
    assert "B/s" not in written
    assert ALICE not in written
    assert all(ALICE.encode() not in path.read_bytes() for path in hub.blobs.folder.iterdir())


def test_a_branch_is_made_once_and_main_stays(hub: LocalHub, folder: Path) -> None:
    hub.add("alice/model-GGUF", {"notes.txt": b"1"})
    before = hub.repository("alice/model-GGUF").head
    first = push(folder, "alice/model-GGUF", options=PushOptions(branch="v2"))
    repository = hub.repository("alice/model-GGUF")
    assert repository.head == before
    assert first.url.endswith("/tree/v2")
    assert {*publishable(folder), "notes.txt"} <= set(repository.commits[repository.branches["v2"]].tree)
    again = push(folder, "alice/model-GGUF", options=PushOptions(branch="v2"))
    assert (again.uploaded, repository.branches["v2"]) == ((), first.commit)


def pull_requests(hub: LocalHub) -> list[dict[str, Any]]:
    return hub.repository("alice/model-GGUF").discussions


@pytest.mark.parametrize("lost", [r"POST .*/discussions$", r"POST .*/commit/", r"POST .*/status$"])
def test_a_pull_request_is_opened_once_whatever_answer_is_lost(hub: LocalHub, folder: Path, lost: str) -> None:
    hub.add("alice/model-GGUF", {"notes.txt": b"1"})
    before = hub.repository("alice/model-GGUF").head
    hub.fail(lost, cut=0)
    pushed = push(folder, "alice/model-GGUF", options=PushOptions(pull_request=True), retry=NO_WAIT)
    repository = hub.repository("alice/model-GGUF")
    assert [(each["num"], each["status"]) for each in pull_requests(hub)] == [(1, "open")]
    assert pushed.url.endswith("/discussions/1")
    assert repository.head == before
    history = list(repository.history("refs/pr/1"))
    assert [oid for oid, _ in history] == [pushed.commit, before]
    assert set(history[0][1].tree) == {*publishable(folder), "notes.txt"}


def test_an_open_pull_request_goes_on_and_a_closed_one_does_not(hub: LocalHub, folder: Path) -> None:
    push(folder, "alice/model-GGUF", options=PushOptions(pull_request=True))
    (folder / "README.md").write_bytes(CARD + b"more\n")
    assert push(folder, "alice/model-GGUF", options=PushOptions(pull_request=True)).uploaded == ("README.md",)
    assert len(pull_requests(hub)) == 1
    pull_requests(hub)[0]["status"] = "closed"
    assert push(folder, "alice/model-GGUF", options=PushOptions(pull_request=True)).url.endswith("/discussions/2")


def test_what_main_holds_already_makes_no_pull_request(hub: LocalHub, folder: Path) -> None:
    push(folder, "alice/model-GGUF")
    assert push(folder, "alice/model-GGUF", options=PushOptions(pull_request=True)).commit is None
    assert pull_requests(hub) == []


def test_a_pull_request_needs_no_permission_to_write(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("alice/model-GGUF", {"a.txt": b"1"})
    monkeypatch.setenv("HF_TOKEN", BOB)
    assert can_write("alice/model-GGUF", pull_request=True) == "alice/model-GGUF"
    push(folder, "alice/model-GGUF", options=PushOptions(pull_request=True))
    assert names(hub) == {"a.txt"}
    assert pull_requests(hub)[0]["author"]["name"] == "bob"
