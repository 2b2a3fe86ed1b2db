"""Sound inputs, and what a user does with them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
)
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
TEXT = "The quick brown fox jumps over the lazy dog. 12345 naïve 日本語\n" * 40 + "a" * 60


def import_all() -> None:
    """Before the children are forked."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import hubquant.cli.app
    import hubquant.engine.run  # noqa: F401

    torch.set_num_threads(1)


def make_models(folder: Path) -> None:
    from hubquant.models.tiny import build

    build("llama", folder / "llama", **SMALL)
    build("qwen3", folder / "qwen3", **SMALL)
    build("gemma3_text", folder / "gemma3", **SMALL, sliding_window=16)
    build("mixtral", folder / "mixtral", **SMALL, num_local_experts=2, num_experts_per_tok=1)
    build("bert", folder / "bert", **SMALL | {"head_dim": ...}, num_key_value_heads=..., tie_word_embeddings=...)
    for model in folder.iterdir():
        (model / "README.md").write_text("---\nlicense: mit\nbase_model: org/m\ntags: [a]\nlanguage: en\n---\n# m\n")


def convert_model(folder: Path) -> None:
    from hubquant.engine.files import assign_types, plan_layouts
    from hubquant.engine.plan import conversion_weights
    from hubquant.engine.source import open_source
    from hubquant.recipe.schema import ModelReference, Quantize

    model = next(path for path in folder.iterdir() if path.is_dir())
    source = open_source(ModelReference(folder=str(model)))
    conversion = source.conversion()
    weights = conversion_weights(source, conversion)
    settings = Quantize(types=("Q8_0",))
    types = assign_types(weights, "Q8_0", settings, has_imatrix=False)
    plan_layouts(weights, types, weights.metadata, 1 << 40)
    if not conversion.cannot_run:
        source.load()


def make_tokenizers(folder: Path) -> None:
    from hubquant.models.tiny import build

    for family in ("llama", "qwen3", "bert"):
        more = {"num_key_value_heads": ..., "tie_word_embeddings": ...} if family == "bert" else {}
        build(family, folder / family, **SMALL | ({"head_dim": ...} if more else {}), **more)
        (folder / family / "added_tokens.json").write_text('{"<extra>": 384}')
        (folder / family / "special_tokens_map.json").write_text('{"pad_token": {"content": "<pad>", "lstrip": false}}')


def use_tokenizer(folder: Path) -> None:
    from hubquant.calibration import build
    from hubquant.engine.plan import conversion_weights
    from hubquant.engine.source import open_source
    from hubquant.recipe.schema import ModelReference, TextSource

    source = open_source(ModelReference(folder=str(next(path for path in folder.iterdir() if path.is_dir()))))
    conversion_weights(source, source.conversion())
    text = folder / "text.txt"
    text.write_text(TEXT)
    build([TextSource(file=str(text))], source.tokenizer(), 64, 2, 0)


def make_shards(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from hubquant.models.tiny import build

    build("llama", folder, **SMALL)
    (folder / "model.safetensors").rename(folder / "whole.safetensors")
    (folder / "whole.safetensors").rename(folder / "model.safetensors")
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")


def read_weights(folder: Path) -> None:
    from hubquant.convert.checkpoint import Checkpoint
    from hubquant.engine.source import open_source
    from hubquant.recipe.schema import ModelReference

    checkpoint = Checkpoint.from_folder(folder)
    for name in checkpoint.tensors:
        checkpoint.read(name)
    source = open_source(ModelReference(folder=str(folder)))
    source.conversion()
    source.load()


def make_gguf(folder: Path) -> None:
    from hubquant.engine.alone import convert, quantize
    from hubquant.engine.progress import Silent
    from hubquant.models.tiny import build
    from hubquant.recipe.schema import Imatrix, Quantize

    model = build("llama", folder / "model", **SMALL)
    convert(str(model), folder / "f16.gguf", "F16", None, Silent())
    settings = Quantize(types=("Q4_K_M",), mode="exact")
    quantize(str(model), settings, Imatrix(), None, folder / "q4.gguf", Silent())
    shutil.rmtree(model)


def read_gguf(folder: Path) -> None:
    from hubquant.convert.restore import load_model
    from hubquant.gguf_file import GGUFFile
    from hubquant.gguf_file.describe import describe

    for path in sorted(folder.glob("*.gguf")):
        json.dumps(describe(GGUFFile.open(path)).as_dict())
        _open_gguf(path)
        load_model(path, "cpu")


def _open_gguf(path: Path) -> None:
    from hubquant.engine.gguf_source import open_gguf
    from hubquant.engine.plan import conversion_weights
    from hubquant.errors import HubquantError

    source = open_gguf(path)
    conversion_weights(source, source.conversion())
    with contextlib.suppress(HubquantError):
        source.tokenizer()("hello")
    for name in source.checkpoint.tensors:
        source.checkpoint.read(name)


def make_imatrix(folder: Path) -> None:
    import torch

    from hubquant.imatrix import Entry, ImportanceMatrix

    names = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.0.ffn_down_exps.weight")
    entries = {
        name: Entry(torch.rand(1 + 2 * ("exps" in name), 64), torch.full((1 + 2 * ("exps" in name),), 512))
        for name in names
    }
    matrix = ImportanceMatrix(entries, ("text",), 512, 4, {"model": "m"})
    matrix.save(folder / "imatrix.gguf")
    matrix.save(folder / "imatrix.dat")


def read_imatrix(folder: Path) -> None:
    from hubquant.errors import HubquantError
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.imatrix.statistics import statistics

    for path in sorted(folder.iterdir()):
        with contextlib.suppress(HubquantError):
            matrix = ImportanceMatrix.load(path)
            statistics(matrix.entries)
            matrix.fit(dict.fromkeys(("blk.0.attn_q.weight", "blk.0.ffn_down.weight"), (64, 64)))
            for name in matrix.entries:
                matrix.importance(name)
            matrix.merge([matrix]).save(folder / "again.gguf")
            matrix.save(folder / "again.dat")


def make_baseline(folder: Path) -> None:
    import torch

    from hubquant.evaluate import write_baseline
    from tests.support.evaluation import random_chunks

    table = torch.randn(97, 97, generator=torch.Generator().manual_seed(0))
    write_baseline(lambda ids: table[ids], random_chunks(2, 32, 97), folder / "b.h5", name="m", revision="r").close()
    shutil.copyfile(folder / "b.h5", folder / "b.h5.partial")
    (folder / "b.h5.partial.journal").write_text("0 1\n1 2\n")


def read_baseline(folder: Path) -> None:
    import torch

    from hubquant.errors import HubquantError
    from hubquant.evaluate import Baseline, compare, compare_baselines, write_baseline
    from tests.support.evaluation import random_chunks

    path = folder / "b.h5"
    table = torch.randn(97, 97, generator=torch.Generator().manual_seed(0))
    with contextlib.suppress(HubquantError), Baseline.open(path) as baseline:
        baseline.perplexity  # noqa: B018
        compare(lambda ids: table[ids], baseline)
        compare_baselines(path, path)
    write_baseline(lambda ids: table[ids], random_chunks(2, 32, 97), path, name="m", revision="r2").close()


RECIPE = {
    "version": 1,
    "model": {"id": "org/model", "revision": "main"},
    "calibration": {
        "sources": [{"dataset": "a/b", "config": "c", "split": "train", "field": "text", "weight": 1}],
        "chunk_size": 512,
        "chunks": 250,
        "seed": 0,
    },
    "imatrix": {"offload": "auto", "process_output": False},
    "quantize": {"types": ["Q8_0", "Q4_K_M"], "mode": "best", "rules": [{"match": "ffn_down", "type": "Q6_K"}]},
    "evaluate": {"chunks": 48, "sources": [{"bundled": "test"}]},
    "gates": {"kld_mean": {"Q4_K_M": 0.05}},
    "publish": {"to": "me/model-GGUF", "private": False, "shard_size": "45GiB"},
}


def make_recipe(folder: Path) -> None:
    from hubquant.recipe import dump_recipe
    from hubquant.recipe.load import parse_recipe

    (folder / "recipe.yaml").write_text(dump_recipe(parse_recipe(RECIPE)))
    (folder / "recipe.json").write_text(json.dumps(RECIPE))


def read_recipe(folder: Path) -> None:
    from hubquant.errors import HubquantError
    from hubquant.hub.front_matter import read_front_matter
    from hubquant.recipe import dump_recipe, load_recipe

    path = folder / "recipe.yaml"
    read_front_matter(f"---\n{path.read_text('utf-8', 'replace')}\n---\n")
    with contextlib.suppress(HubquantError):
        load_recipe("hub:org/repo", fetch=lambda _: path)
    dump_recipe(load_recipe(str(path), ["quantize.mode=exact", "calibration.chunks=3"]))


def make_texts(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    from hubquant.models.tiny import llama3_tokenizer

    talk = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hello"}]
    rows = [{"text": TEXT[:200], "messages": talk, "n": 1} for _ in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "text.txt").write_text(TEXT)
    _TOKENIZERS.append(llama3_tokenizer())


_TOKENIZERS: list[Any] = []


def read_texts(folder: Path) -> None:
    from hubquant.calibration import build
    from hubquant.calibration.sources import documents, fingerprint, read_text
    from hubquant.errors import HubquantError
    from hubquant.recipe.schema import TextSource

    for path in sorted(folder.iterdir()):
        rows = path.suffix != ".txt"
        for field in ("text", "messages") if rows else ("text",):
            source = TextSource(file=str(path), field=field, samples=5 if rows else None)
            with contextlib.suppress(HubquantError):
                list(documents(source, 0))
                build([source], _TOKENIZERS[0], 16, 2, 0)
                read_text(source, 0, 1000)
                fingerprint(source, 0)


def make_template(folder: Path) -> None:
    from hubquant.models.tiny import llama3_tokenizer

    llama3_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(
        "{% set x = namespace(n=0) %}{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('no') }}{% endif %}"
        "{{ '<|' ~ m.role ~ '|>' + m.content | trim }}{% set x.n = x.n + 1 %}"
        "{% endfor %}{{ messages | tojson(indent=2) }}{{ strftime_now('%Y') }}{% macro f(a) %}{{ a * 3 }}{% endmacro %}"
        "{{ f('x') }}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def render_template(folder: Path) -> None:
    from hubquant.calibration.chat import ChatTemplate
    from hubquant.models import load_tokenizer

    template = ChatTemplate(load_tokenizer(folder))
    template([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}])


def make_state(folder: Path) -> None:
    import hubquant
    from hubquant.models.tiny import build

    model = build("llama", folder / "model", **SMALL)
    small = ["calibration.chunk_size=64", "calibration.chunks=2", "evaluate.chunk_size=64", "evaluate.chunks=2"]
    overrides = [*small, "quantize.types=[Q8_0]"]
    hubquant.run(str(model), overrides=overrides, out=folder / "out")
    shutil.copytree(folder / "out" / ".hubquant", folder / ".hubquant")
    _PLANS.append(hubquant.plan(str(model), overrides=overrides, out=folder / "out"))


_PLANS: list[Any] = []


def go_on(folder: Path) -> None:
    """All that a run does before it computes, and what it computes from."""
    from dataclasses import replace

    from hubquant.engine.contents import IMATRIX
    from hubquant.engine.output_folder import OutputFolder
    from hubquant.engine.progress import Silent
    from hubquant.engine.reuse import discard_damaged
    from hubquant.engine.steps import Work
    from hubquant.engine.workspace import Workspace
    from hubquant.imatrix import ImportanceMatrix

    output = folder / "out"
    shutil.rmtree(output / ".hubquant")
    shutil.move(folder / ".hubquant", output / ".hubquant")
    plan = replace(_PLANS[0], output=output)
    made = OutputFolder(output)
    list(made)
    made.foreign()
    workspace = Workspace(output)
    with workspace.locked():
        work = Work(plan, plan.source, workspace, Silent())
        discard_damaged(work)
        work.needs_weights()
        made.save()
        for artifact in (plan.artifacts.imatrix, *plan.artifacts.files.values()):
            if not workspace.has(artifact):
                (workspace.open_building(artifact) / "x").write_text("")
                workspace.complete(artifact)
            elif artifact == plan.artifacts.imatrix:
                ImportanceMatrix.load(workspace.path(artifact) / IMATRIX)


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
