"""The program's own state, the Hub's answers and command lines: sound ones, and what becomes of them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fuzz.use_files import make_imatrix
from tests.fuzz.use_models import SMALL, make_gguf


def make_state(folder: Path) -> None:
    import hubquant
    from hubquant.models.tiny import build

    model = build("llama", folder / "model", **SMALL)
    small = ["calibration.chunk_size=64", "calibration.chunks=2", "evaluate.chunk_size=64", "evaluate.chunks=2"]
    overrides = [*small, "quantize.types=[Q8_0]"]
    out, store = folder / "out", folder / "store"
    hubquant.run(str(model), overrides=overrides, out=out, store=store)
    (folder / "state").mkdir()
    shutil.copytree(out / ".hubquant", folder / "state" / ".hubquant")
    shutil.move(store, folder / "state" / "store")
    _PLANS.append(hubquant.plan(str(model), overrides=overrides, out=out, store=store))


_PLANS: list[Any] = []


def go_on(folder: Path) -> None:
    """All that a run does before it computes, and what it computes from."""
    from hubquant.engine.local import discard_damaged
    from hubquant.engine.progress import Silent
    from hubquant.engine.schedule import missing
    from hubquant.engine.store import Store
    from hubquant.pipeline.output_folder import OutputFolder

    output = folder / "out"
    shutil.rmtree(output / ".hubquant")
    shutil.move(folder / "state" / ".hubquant", output / ".hubquant")
    tasks = _PLANS[0].tasks
    store = Store(folder / "state" / "store")
    made = OutputFolder(output, store)
    list(made)
    made.foreign()
    store.kept()
    store.rates()
    with made.locked(), store.using(tasks.goals):
        made.save()
        discard_damaged(tasks.goals, store, Silent())
        left = missing(tasks.goals, store)
        for task in tasks:
            if task in left:
                (store.open_building(task) / "x").write_text("")
                store.complete(task)
            else:
                task.read(store.path(task))


def make_answers(folder: Path) -> None:
    sha = "0" * 40
    model = {
        "id": "org/m", "modelId": "org/m", "sha": sha, "private": False, "gated": False, "disabled": False,
        "tags": ["a"], "pipeline_tag": "text-generation", "library_name": "transformers", "downloads": 1, "likes": 0,
        "cardData": {"license": "mit", "base_model": "a/b"}, "lastModified": "2024-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z", "config": {"architectures": ["X"]},
        "siblings": [
            {"rfilename": "config.json", "size": 5, "blobId": sha},
            {"rfilename": "model.safetensors", "size": 9, "blobId": sha,
             "lfs": {"sha256": "1" * 64, "size": 9, "pointerSize": 5}},
        ],
    }  # fmt: skip
    account = {
        "type": "user", "name": "me", "fullname": "Me", "email": "x@y.z", "canPay": False, "isPro": False,
        "orgs": [{"type": "org", "name": "o", "roleInOrg": "admin"}],
        "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "fineGrained", "fineGrained": {
            "scoped": [{"entity": {"name": "me", "type": "user"}, "permissions": ["repo.write"]}]}}},
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "account.json").write_text(json.dumps(account))
    (folder / "refs.json").write_text(
        json.dumps(
            {"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": sha}], "converts": [], "tags": []}
        )
    )


def ask_hub(folder: Path) -> None:
    """The client's calls, answered by a server in this process."""
    import os

    from huggingface_hub import constants

    from hubquant.errors import HubquantError
    from hubquant.hub.pull import resolve
    from hubquant.hub.push import can_write
    from hubquant.hub.retry import Retry

    answers = {"whoami-v2": "account.json", "refs": "refs.json"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = next((file for part, file in answers.items() if self.path.endswith(part)), "model.json")
            body = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    constants.ENDPOINT = url
    constants.HF_HUB_OFFLINE = False
    os.environ["HF_TOKEN"] = "hf_fuzz"
    retry = Retry(attempts=1, connect_attempts=1, sleep=lambda _: None)
    try:
        for call in (lambda: resolve("org/m", retry=retry), lambda: can_write("me/m", retry=retry)):
            with contextlib.suppress(HubquantError):
                call()
    finally:
        server.shutdown()
        server.server_close()


def make_words(folder: Path) -> None:
    make_gguf(folder)
    make_imatrix(folder)
    (folder / "f16.gguf").unlink()
    commands = [
        ["inspect", "q4.gguf"], ["inspect", "q4.gguf", "--json", "--tensors"], ["imatrix", "show", "imatrix.gguf"],
        ["imatrix", "merge", "imatrix.gguf", "imatrix.dat", "-o", "m.gguf"], ["plan", "org/model", "--types", "Q8_0"],
        ["imatrix", "convert", "imatrix.gguf", "-o", "x.dat"], ["evaluate", "compare", "a.h5", "b.h5"],
        ["publish", ".", "--to", "me/x"], ["convert", "q4.gguf", "-o", "x.gguf"], ["plan", "q4.gguf"],
        ["run", "org/model", "--dry-run"], ["quantize", "q4.gguf", "-t", "Q8_0", "-o", "out"], [], ["--version"],
        ["imatrix", "show", "imatrix.dat", "--json"], ["run", "recipe.yaml"],
        ["evaluate", "run", "q4.gguf", "--baseline", "b.h5"],
    ]  # fmt: skip
    words = [
        "-t", "--types", "Q4_K_M", "q4_k_m", "3.5bpw", "-o", "--out", "--json", "--quiet", "-q", "--help", "-h", "",
        " ", "-", "--", "--set", "quantize.mode=exact", "quantize.mode=", "=", "a.b.c=[", "x=1", "--tensors",
        "--weight", "nan", "-1", "1e999", "\0", "\ud800", "\x1b[2J", "a" * 300, "/", "~", "~nobody/x", "..", ".",
        "q4.gguf", "imatrix.gguf", "imatrix.dat", "words.json", "hub:org/x", "hub:", "org/model@main",
        "https://huggingface.co/org/m", "é", "*", "--tensor-type", "(=Q6_K", "ffn=Q6_K", "--imatrix", "--mode",
        "best", "--push", "--private", "--pre-tokenizer", "llama-bpe", "--allow-requantize", "--pure",
        "--output-tensor", "F99", "--shard", "2/1", "--max-memory", "cpu=1", "--", "--json=1", "--no-such", "-x",
        "@file", "%s", "{}", "None", "0", "99999999999999999999",
    ]  # fmt: skip
    (folder / "words.json").write_text(json.dumps({"commands": commands, "words": words}))


def run_command(folder: Path) -> None:
    import os

    from hubquant.cli.app import run_app

    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_app(json.loads((folder / "arguments.json").read_text()))
    if code not in (0, 1, 2):
        raise ValueError(f"exit code {code}")
