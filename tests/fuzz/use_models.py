"""Models as inputs: sound ones, and what a user does with them."""

from __future__ import annotations

import contextlib
import json
import shutil
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
    import hubquant.pipeline.run  # noqa: F401

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
    from hubquant.backends.gguf.files import assign_types, plan_layouts
    from hubquant.backends.gguf.target import conversion_weights
    from hubquant.gguf_file import Split
    from hubquant.recipe.schema import ModelReference, Quantize
    from hubquant.sources.open import open_source

    model = next(path for path in folder.iterdir() if path.is_dir())
    source = open_source(ModelReference(folder=str(model)))
    conversion = source.conversion()
    weights = conversion_weights(source, conversion)
    settings = Quantize(types=("Q8_0",))
    types = assign_types(weights, "Q8_0", settings, has_imatrix=False)
    plan_layouts(weights, types, weights.metadata, Split())
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
    from hubquant.backends.gguf.target import conversion_weights
    from hubquant.calibration import build
    from hubquant.recipe.schema import ModelReference, TextSource
    from hubquant.sources.open import open_source

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
    from hubquant.checkpoint.checkpoint import Checkpoint
    from hubquant.recipe.schema import ModelReference
    from hubquant.sources.open import open_source

    checkpoint = Checkpoint.from_folder(folder)
    for name in checkpoint.tensors:
        checkpoint.read(name)
    source = open_source(ModelReference(folder=str(folder)))
    source.conversion()
    source.load()


def make_gguf(folder: Path) -> None:
    import hubquant
    from hubquant.models.tiny import build

    model, store = build("llama", folder / "model", **SMALL), folder / "store"
    hubquant.convert(model, out=folder / "f16.gguf", type="F16", store=store, progress=None)
    hubquant.quantize(model, ["Q4_K_M"], out=folder / "q4.gguf", mode="exact", store=store, progress=None)
    shutil.rmtree(store)
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
    from hubquant.backends.gguf.target import conversion_weights
    from hubquant.errors import HubquantError
    from hubquant.sources.gguf import open_gguf

    source = open_gguf(path)
    conversion_weights(source, source.conversion())
    with contextlib.suppress(HubquantError):
        source.tokenizer()("hello")
    for name in source.checkpoint.tensors:
        source.checkpoint.read(name)


def make_sample(folder: Path) -> None:
    from tests.support.gguf_bytes import write_sample

    write_sample(folder / "sample.gguf")


def take_apart(folder: Path) -> None:
    from hubquant.gguf_file.copying import write_files
    from hubquant.gguf_file.dump import Dump
    from hubquant.gguf_file.editing import edited
    from hubquant.gguf_file.hashing import digests
    from hubquant.gguf_file.metadata import string
    from hubquant.gguf_file.splitting import Limit, merge, split
    from hubquant.gguf_file.stored import read_model

    files = read_model(folder / "sample.gguf")
    dump = Dump("sample", files)
    json.dumps([dump.as_dict(tensors=True), dump.as_text(tensors=True), dump.as_markdown(tensors=True)])
    found = list(digests(files, ["xxh64", "uuid"]))
    write_files(
        {folder / "edited.gguf": edited(files[0], {"a.new": string("x")}), folder / "merged.gguf": merge(files)}
    )
    assert list(digests(read_model(folder / "edited.gguf"), ["xxh64", "uuid"])) == found
    read_model(folder / "merged.gguf")
    split(files, Limit(max_tensors=3))


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
