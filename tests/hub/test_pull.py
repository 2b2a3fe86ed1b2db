"""Pulling from the local Hub over HTTP with the real client."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from hubquant.errors import CheckpointError, DiskFullError, HubUnavailableError, NotSupportedYet
from hubquant.hub import cache
from hubquant.hub.pull import RemoteFile, fetch_file, fetch_metadata, fetch_weights, range_reader, resolve
from hubquant.hub.retry import Retry
from tests.support.hub_fixtures import Run
from tests.support.localhub import LocalHub

CARD = b"---\nlicense: apache-2.0\nlanguage: [en, de]\npipeline_tag: text-generation\ntags: [chat]\n---\n# M\n"
SMALL = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool.jinja": b"{{ tools }}",
    "README.md": CARD,
}
WEIGHTS = {f"model-0000{n}-of-00002.safetensors": os.urandom(3_000_000) for n in (1, 2)}
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
UNWANTED = {
    "modeling_x.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80pickle",
    "original/params.json": b"{}",
    "training_args.bin": b"\x80",
    "evil.json": b"{}",
}
FILES = {**SMALL, "model.safetensors.index.json": INDEX.encode(), **WEIGHTS, **UNWANTED}
NO_WAIT = Retry(sleep=lambda _: None)


@pytest.fixture
def repository(hub: LocalHub) -> str:
    hub.add("org/model", FILES)
    return "org/model"


def test_resolve_pins_the_commit_and_lists_files(hub: LocalHub, repository: str) -> None:
    model = resolve(repository)
    assert (model.id, model.revision) == ("org/model", hub.repository(repository).head)
    assert list(model.files) == sorted(FILES)
    assert model.files["config.json"] == RemoteFile(2)
    name, content = next(iter(WEIGHTS.items()))
    assert model.files[name] == RemoteFile(len(content), hashlib.sha256(content).hexdigest())
    assert model.card["license"] == "apache-2.0"
    assert model.card["language"] == ["en", "de"]
    assert (model.pipeline_tag, model.tags, model.gated, model.private) == ("text-generation", ("chat",), None, False)
    assert not hub.requests("/resolve/")


def test_branches_and_commits_resolve(hub: LocalHub, repository: str) -> None:
    first = hub.repository(repository).head
    hub.add(repository, {"config.json": b'{"new": 1}'})
    hub.repository(repository).branches["refs/pr/1"] = first
    assert resolve(repository).revision != first
    assert resolve(repository, first).revision == first
    assert resolve(repository, "refs/pr/1").revision == first


def test_only_small_safe_files_are_metadata(hub: LocalHub, repository: str) -> None:
    folder = fetch_metadata(resolve(repository))
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert fetched == {*SMALL, "model.safetensors.index.json"}
    assert (folder / "README.md").read_bytes() == CARD
    assert not hub.requests(r"\.(py|bin|safetensors)$")


def test_metadata_stays_at_the_commit_when_the_branch_moves(hub: LocalHub, repository: str) -> None:
    model = resolve(repository)
    hub.add(repository, {"config.json": b'{"moved": true}'})
    assert (fetch_metadata(model) / "config.json").read_bytes() == b"{}"


def test_a_repository_without_a_model_is_refused(hub: LocalHub) -> None:
    hub.add("org/empty", {"notes.txt": b"hello"})
    with pytest.raises(CheckpointError, match="holds no model"):
        fetch_metadata(resolve("org/empty"))


def test_ranges_are_read_without_downloading(hub: LocalHub, repository: str) -> None:
    model = resolve(repository)
    name, content = next(iter(WEIGHTS.items()))
    read = range_reader(model, name)
    assert read(0, 8) == content[:8]
    assert read(8, 5008) == content[8:5008]
    assert read(len(content) - 3, len(content)) == content[-3:]
    assert read(5, 5) == b""
    assert [entry.headers["range"] for entry in hub.requests("GET /_cdn/")][:2] == ["bytes=0-7", "bytes=8-5007"]
    assert cache.cached_file(model.id, model.revision, name) is None
    assert "authorization" not in hub.requests("GET /_cdn/")[0].headers
    for begin, end in [(-1, 2), (3, 2), (0, len(content) + 1)]:
        with pytest.raises(ValueError, match="which has 3000000"):
            read(begin, end)


def test_ranges_survive_faults_and_broken_connections(hub: LocalHub, repository: str) -> None:
    name, content = next(iter(WEIGHTS.items()))
    waits: list[float] = []
    read = range_reader(resolve(repository), name, retry=Retry(sleep=waits.append))
    hub.fail("GET /org/model/resolve", 503)
    hub.fail("GET /_cdn/", 429, headers={"Retry-After": "7"})
    hub.fail("GET /_cdn/", cut=1000)
    assert read(0, 100_000) == content[:100_000]
    assert waits == [1.0, 7.0, 4.0]


def test_weights_arrive_with_progress_and_are_not_fetched_twice(hub: LocalHub, repository: str) -> None:
    model = resolve(repository)
    done: list[int] = []
    folder = fetch_weights(model, list(WEIGHTS), done.append)
    assert {name: (folder / name).read_bytes() for name in WEIGHTS} == WEIGHTS
    assert sum(done) == 6_000_000
    assert len(done) > 2
    assert folder == fetch_metadata(model)
    hub.log.clear()
    fetch_weights(model, list(WEIGHTS), done.append)
    assert sum(done) == 6_000_000
    assert not hub.requests("GET /")
    assert range_reader(model, next(iter(WEIGHTS)))(0, 8) == next(iter(WEIGHTS.values()))[:8]
    assert not hub.requests("GET /")


def test_a_broken_download_goes_on_where_it_stopped(hub: LocalHub, repository: str) -> None:
    name, content = next(iter(WEIGHTS.items()))
    model = resolve(repository)
    done: list[int] = []
    hub.fail("GET /_cdn/", cut=2_500_000)
    hub.fail("GET /_cdn/", 500)
    folder = fetch_weights(model, [name], done.append, retry=NO_WAIT)
    assert (folder / name).read_bytes() == content
    assert sum(done) == len(content)
    begins = [int(entry.headers["range"].removeprefix("bytes=").split("-")[0]) for entry in hub.requests("GET /_cdn/")]
    assert begins[0] == 0
    assert begins[1] == begins[2] > 1_000_000


def test_a_download_that_fails_for_good_is_continued_by_the_next_run(hub: LocalHub, repository: str) -> None:
    name, content = next(iter(WEIGHTS.items()))
    model = resolve(repository)
    hub.fail("GET /_cdn/", cut=2_000_000)
    hub.fail("GET /_cdn/", 503, times=9)
    with pytest.raises(HubUnavailableError, match="out of order") as caught:
        fetch_weights(model, [name], retry=NO_WAIT)
    assert caught.value.hint is not None
    assert "same line again" in caught.value.hint
    assert cache.cached_file(model.id, model.revision, name) is None
    hub.faults.clear()
    hub.log.clear()
    assert (fetch_weights(model, [name]) / name).read_bytes() == content
    (request,) = hub.requests("GET /_cdn/")
    assert request.headers["range"] != "bytes=0-2999999"


def test_a_killed_download_is_continued_by_another_process(hub: LocalHub, repository: str, run_python: Run) -> None:
    name, content = next(iter(WEIGHTS.items()))
    script = f"""
import os
from hubquant.hub.pull import fetch_weights, resolve
fetch_weights(resolve({repository!r}), [{name!r}], lambda n: os.kill(os.getpid(), 9))
"""
    assert run_python("-c", script).returncode == -9
    hub.log.clear()
    done: list[int] = []
    model = resolve(repository)
    assert (fetch_weights(model, [name], done.append) / name).read_bytes() == content
    assert sum(done) == len(content)
    (request,) = hub.requests("GET /_cdn/")
    assert not request.headers["range"].startswith("bytes=0-")


def test_a_server_that_ignores_ranges_costs_time_but_no_bytes(hub: LocalHub, repository: str) -> None:
    name, content = next(iter(WEIGHTS.items()))
    model = resolve(repository)
    hub.fail("GET /_cdn/", cut=2_000_000)
    hub.ranges = False
    assert (fetch_weights(model, [name], retry=NO_WAIT) / name).read_bytes() == content
    assert range_reader(model, list(WEIGHTS)[1])(100, 200) == list(WEIGHTS.values())[1][100:200]


def test_damaged_bytes_are_noticed_and_thrown_away(hub: LocalHub, repository: str) -> None:
    name, content = next(iter(WEIGHTS.items()))
    model = resolve(repository)
    blob = hub.blobs.path(hashlib.sha256(content).hexdigest())
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HubUnavailableError, match="arrived damaged"):
        fetch_weights(model, [name])
    blob.write_bytes(content)
    assert (fetch_weights(model, [name]) / name).read_bytes() == content


def test_a_truncated_file_in_the_cache_is_fetched_again(hub: LocalHub, repository: str) -> None:
    name, content = next(iter(WEIGHTS.items()))
    model = resolve(repository)
    path = fetch_weights(model, [name]) / name
    path.resolve().write_bytes(content[:100])
    hub.log.clear()
    assert (fetch_weights(model, [name]) / name).read_bytes() == content
    assert hub.requests("GET /_cdn/")


@pytest.mark.parametrize("file", ["optimizer.bin", "modeling_x.py", "training_args.bin"])
def test_only_weights_are_downloaded_as_such(hub: LocalHub, repository: str, file: str) -> None:
    with pytest.raises(NotSupportedYet, match="can run code"):
        fetch_weights(resolve(repository), [file])
    assert not hub.requests("/resolve/")


def test_a_file_that_is_not_there(repository: str) -> None:
    with pytest.raises(CheckpointError, match=r"no file other\.safetensors"):
        fetch_weights(resolve(repository), ["other.safetensors"])


def test_too_little_room_is_known_before_the_first_byte(hub: LocalHub, repository: str) -> None:
    model = resolve(repository)
    name = next(iter(WEIGHTS))
    hub.log.clear()
    huge = type(model)(model.id, model.revision, {name: RemoteFile(1 << 60, "0" * 64)})
    with pytest.raises(DiskFullError, match="do not fit"):
        fetch_weights(huge, [name])
    assert not hub.log


def test_one_file_of_a_published_repository(hub: LocalHub) -> None:
    hub.add("alice/model-GGUF", {"recipe.yaml": b"model: org/model\n", "imatrix.gguf": b"GGUF" + bytes(100)})
    assert fetch_file("alice/model-GGUF", "recipe.yaml").read_text() == "model: org/model\n"
    hub.fail("GET /_cdn/", 503)
    assert fetch_file("alice/model-GGUF", "imatrix.gguf", retry=NO_WAIT).read_bytes()[:4] == b"GGUF"


OFFLINE = """
import json, sys
from hubquant.hub.pull import fetch_metadata, fetch_weights, range_reader, resolve
model = resolve("org/model")
folder = fetch_metadata(model)
name = "model-00001-of-00002.safetensors"
read = range_reader(model, name)(0, 8).hex()
weights = fetch_weights(model, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
files = {name: (file.size, file.sha256) for name, file in model.files.items() if name.startswith("model-")}
print(json.dumps([model.revision, str(folder), str(weights), read, files, model.card["license"], model.pipeline_tag]))
"""


@pytest.mark.usefixtures("repository")
def test_everything_works_offline_once_it_is_cached(hub: LocalHub, run_python: Run) -> None:
    online = run_python("-c", OFFLINE)
    assert online.returncode == 0, online.stderr
    hub.log.clear()
    offline = run_python("-c", OFFLINE, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout) == json.loads(online.stdout)
    assert not hub.log


@pytest.mark.usefixtures("repository")
def test_offline_without_a_cache_says_so(hub: LocalHub, run_python: Run) -> None:
    script = """
from hubquant.errors import HubUnavailableError
from hubquant.hub.pull import fetch_file, resolve
for action in (lambda: resolve("org/model"), lambda: fetch_file("org/model", "config.json")):
    try:
        action()
    except HubUnavailableError as error:
        print(error, "|", error.hint)
"""
    result = run_python("-c", script, HF_HUB_OFFLINE="1")
    assert result.stdout.splitlines() == [
        "org/model is not in the cache: HF_HUB_OFFLINE is set | unset HF_HUB_OFFLINE and run the same line again",
        "config.json of org/model is not in the cache: HF_HUB_OFFLINE is set"
        " | unset HF_HUB_OFFLINE and run the same line again",
    ], result.stderr
    assert not hub.log


def test_the_cache_is_the_standard_one(repository: str) -> None:
    folder = fetch_weights(resolve(repository), [next(iter(WEIGHTS))])
    assert Path(constants.HF_HUB_CACHE) / "models--org--model" in folder.parents
