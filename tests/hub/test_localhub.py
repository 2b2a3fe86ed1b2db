"""The local Hub, through the real client: what these tests rely on must be what the client does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.localhub import ALICE, BOB, LocalHub


def test_the_client_was_pointed_here_before_it_was_imported(hub: LocalHub) -> None:
    assert hub.url == constants.ENDPOINT
    assert os.environ["HF_HOME"] in constants.HF_HUB_CACHE


def test_upload_and_download_of_small_large_and_multipart_files(hub: LocalHub, tmp_path: Path) -> None:
    hub.multipart_threshold, hub.part_size = 1 << 20, 400_000
    contents = {
        "README.md": b"---\nlicense: mit\n---\n# hi\n",
        "a.gguf": os.urandom(1000),
        "b/c.gguf": os.urandom(1_500_000),
    }
    for path, content in contents.items():
        (tmp_path / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / path).write_bytes(content)
    api = HfApi()
    api.create_repo("alice/model")
    info = api.upload_folder(repo_id="alice/model", folder_path=tmp_path / "up")
    assert info.oid == hub.repository("alice/model").head
    assert len(hub.requests(r"PUT /_lfs/[0-9a-f]+/\d")) == 4
    for path, content in contents.items():
        assert Path(hf_hub_download("alice/model", path)).read_bytes() == content
    description = api.model_info("alice/model", files_metadata=True)
    assert description.card_data is not None
    assert description.card_data.license == "mit"
    assert {file.rfilename: file.size for file in description.siblings or []}["b/c.gguf"] == 1_500_000


def test_tokens_never_reach_the_cdn(hub: LocalHub) -> None:
    hub.add("org/model", {"model.safetensors": bytes(100)})
    hf_hub_download("org/model", "model.safetensors")
    assert hub.requests("GET /_cdn/")
    assert not [entry for entry in hub.requests("/_cdn/") if "authorization" in entry.headers]
    assert all(entry.headers["authorization"] == f"Bearer {ALICE}" for entry in hub.requests("/resolve/"))


def test_stale_parent_commit_is_refused(hub: LocalHub) -> None:
    old = hub.add("alice/model", {"a.txt": b"1"}).head
    hub.add("alice/model", {"a.txt": b"2"})
    operation = CommitOperationAdd("b.txt", b"3")
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi().create_commit("alice/model", [operation], commit_message="late", parent_commit=old)
    assert caught.value.response.status_code == 412


def test_deleting_files_branches_and_tags(hub: LocalHub) -> None:
    hub.add("alice/model", {"a.txt": b"1", "b/c.txt": b"2"})
    api = HfApi()
    api.create_branch("alice/model", branch="dev")
    api.create_tag("alice/model", tag="v1")
    api.create_commit("alice/model", [CommitOperationDelete("a.txt")], commit_message="drop", revision="dev")
    assert api.list_repo_files("alice/model", revision="dev") == ["b/c.txt"]
    assert api.list_repo_files("alice/model", revision="v1") == ["a.txt", "b/c.txt"]
    assert [branch.name for branch in api.list_repo_refs("alice/model").branches] == ["main", "dev"]
    assert [commit.title for commit in api.list_repo_commits("alice/model", revision="dev")] == ["drop", "add files"]
    api.delete_repo("alice/model")
    assert not api.repo_exists("alice/model")


def test_tree_listing_comes_in_pages(hub: LocalHub) -> None:
    hub.page_size = 7
    names = [f"f{number:02}.txt" for number in range(20)]
    hub.add("org/model", dict.fromkeys(names, b"x"))
    assert [entry.path for entry in HfApi().list_repo_tree("org/model")] == names
    assert len(hub.requests("/tree/")) == 3


def test_errors_are_the_ones_the_client_knows(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    api = HfApi()
    hub.add("org/open", {"a.txt": b"1"})
    hub.add("org/secret", {"a.txt": b"1"}, private=True)
    hub.add("org/gated", {"a.txt": b"1"}, gated="auto")
    hub.add("org/off", {"a.txt": b"1"}, disabled=True)
    monkeypatch.setenv("HF_TOKEN", BOB)
    for id, error in [
        ("org/none", RepositoryNotFoundError),
        ("org/secret", RepositoryNotFoundError),
        ("org/off", DisabledRepoError),
    ]:
        with pytest.raises(error):
            api.model_info(id)
    assert api.model_info("org/gated").gated == "auto"
    with pytest.raises(GatedRepoError):
        hf_hub_download("org/gated", "a.txt")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/open", revision="nope")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("org/open", "b.txt")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.upload_file(repo_id="org/open", path_or_fileobj=b"1", path_in_repo="b.txt")
    hub.add("bob/mine", {})
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(repo_id="bob/mine", path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(HfHubHTTPError, match="401"):
        api.model_info("org/open")


def test_faults_hit_after_so_many_requests_and_no_more(hub: LocalHub) -> None:
    hub.add("org/model", {"a.txt": b"1"})
    hub.fail("GET /api/models/org/model", 503, times=2, after=1)
    statuses = []
    for _ in range(4):
        try:
            HfApi().model_info("org/model")
            statuses.append(200)
        except HfHubHTTPError as error:
            statuses.append(error.response.status_code)
    assert statuses == [200, 503, 503, 200]


def test_a_delayed_answer_still_arrives(hub: LocalHub) -> None:
    hub.add("org/model", {"a.txt": b"1"})
    hub.fail("GET /api/models/org/model", None, delay=0.2)
    begun = time.monotonic()
    assert HfApi().model_info("org/model").id == "org/model"
    assert time.monotonic() - begun >= 0.2


def test_datasets_load_and_stream(hub: LocalHub) -> None:
    from datasets import load_dataset

    rows = "".join(f'{{"text": "line {number}"}}\n' for number in range(50))
    hub.add("org/texts", {"train.jsonl": rows.encode(), "README.md": b"---\nlicense: mit\n---\n"}, kind="dataset")
    assert load_dataset("org/texts", split="train")[49] == {"text": "line 49"}
    streamed = load_dataset("org/texts", split="train", streaming=True)
    assert [row["text"] for row in streamed.take(2)] == ["line 0", "line 1"]
