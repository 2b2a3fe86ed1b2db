"""Write docs/recipe.md: every field of the recipe, from its schema.

python -m scripts.recipe_document
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hubquant.recipe.explain import is_list, is_model, members, noun, stripped
from hubquant.recipe.pictures import MeasuredPictures, Pictures, PromptSource
from hubquant.recipe.schema import ModelReference, NamedType, Recipe, Rule, TextSource

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipe.md"
EXAMPLES = """
model: {folder: ./my-model}
calibration: {sources: [{file: data/manual.txt, parse_special: true}, {bundled: calibration}]}
imatrix: {file: "hub:me/Qwen3-0.6B-GGUF/imatrix.gguf", exclude_weights: [attn_k]}
evaluate: {skip: true}
---
model: {id: me/my-adapter, merge: Qwen/Qwen3-0.6B}
---
model: {id: me/my-drafter, target: meta-llama/Llama-3.1-8B-Instruct}
---
version: 1
model: {id: Qwen/Qwen3-0.6B, revision: main, allow_pickle: false}
convert: {pre_tokenizer: qwen2, no_mtp: true, mmproj: [F16, Q8_0]}
calibration:
  sources:
    - {dataset: Salesforce/wikitext, config: wikitext-2-raw-v1, split: train, revision: main, samples: 2000}
    - {file: data/chat.jsonl, field: messages, chat_template: true, weight: 2}
  chunk_size: 512
  chunks: 250
  seed: 0
imatrix:
  process_output: true
  offload: cpu
  max_memory: {"0": 20GiB, cpu: 64GiB}
  include_weights: [ffn_down, attn_v]
quantize:
  types:
    - Q8_0
    - {name: Q4_K_L, type: Q4_K_M, output_tensor: Q8_0, token_embedding: Q8_0}
    - {name: UD-Q3_K_XL, type: Q3_K_M, rules: [{match: ffn_down, type: Q5_K}], pure: false}
    - 3.5bpw
  mode: exact
  rules: [{match: ffn_down, type: Q6_K}]
  pure: true
  output_tensor: Q8_0
  token_embedding: Q6_K
  override_kv: ["general.name=str:My model", "llama.context_length=int:8192"]
  allow_fork_types: true
  allow_requantize: true
  skip_modules: [lm_head, "layers.0."]
evaluate:
  sources:
    - {file: data/german.txt, name: German}
    - {plugin: "my_source.py:MySource", langs: [en, de], samples: 500, skip: 1000}
  chunk_size: 512
  chunks: 48
  way: streamed
  engine: both
  margin: 0.05
  confidence: 0.9
gates: {kld_mean: {Q4_K_M: 0.05}, cosine_mean: {Q4_K_M: 0.99}, prediction_error: {Q4_K_M: 0.1}}
publish:
  to: me/Qwen3-0.6B-GGUF
  base_model: Qwen/Qwen3-0.6B
  private: true
  gated: inherit
  i_have_permission: true
  card: my-card.jinja
  name: Qwen3 0.6B
  quantized_by: me
  repo_url: https://huggingface.co/me/Qwen3-0.6B-GGUF
  create_pr: true
  commit_message: Quants of Qwen3 0.6B
  prune: true
  shard_size: 20GiB
---
model: {file: my-model-F16.gguf}
quantize: {leave_output_tensor: true, prune_layers: [20, 21], rounding: feedback}
imatrix: {files: [a.gguf, b.dat]}
publish: {branch: v2}
---
model: {bundled: demo}
imatrix: {skip: true}
---
model: {folder: my-pipeline, component: transformer_2}
calibration:
  pictures:
    prompts:
      - {dataset: me/prompts, config: default, split: train, revision: main, field: prompt}
      - {file: prompts.txt}
      - {bundled: prompts}
    count: 32
    steps: 28
    size: [1024, 768]
    frames: 33
    guidance: 3.5
    batch: 2
    seed: 1000
imatrix: {compare: false}
publish: {layout: diffusers}
evaluate:
  pictures:
    prompts: [{file: others.txt}]
    count: 8
    steps: 28
    size: 1024
    frames: 33
    guidance: 3.5
    batch: 1
    seed: 1
"""
"""Recipes that are right, and together give every field a value."""

TEXT = """\
# The recipe

`python -m scripts.recipe_document` writes this page from the schema (`hubquant/recipe/schema.py`); a test fails when
they say something else.

A recipe is a YAML file that says what to make of which model, with what text, how good it must be and where it goes.
Every field but `model` has a default:

```yaml
model: Qwen/Qwen3-0.6B
```

`hubquant run RECIPE` runs it, and `hubquant plan RECIPE` shows what that would do. A model in the place of a recipe is
a recipe with the defaults. `--set quantize.mode=exact` on the command line, or `overrides=["quantize.mode=exact"]` in
Python, puts a value in the place of any field; it is read as YAML: `--set 'quantize.types=[Q8_0, Q4_K_M]'` is a list,
and so is `--set quantize.types=Q8_0,Q4_K_M`. Flags say the most common of these shorter (`hubquant run --help`).
Unknown keys, values of another kind and contradictions are refused with the name of the field, before any work.
Paths are relative to the current folder. Tokens are never part of a recipe: `hf auth login` keeps them.

Every published repository holds the recipe that it was made with, `recipe.yaml`, where the revision of the model is a
commit and paths are names alone. What a recipe of somebody else may not do stands in
[publishing.md](publishing.md#a-recipe-of-somebody-else); whole recipes with comments are in
[recipes/](../recipes/README.md).

{sections}
"""


PARTS: dict[str, type[BaseModel]] = {
    "A text": TextSource,
    "Pictures": Pictures,
    "Measured pictures": MeasuredPictures,
    "A list of prompts": PromptSource,
    "A named type": NamedType,
    "A rule": Rule,
}
"""What fields hold that no section is about."""


def document() -> str:
    """The page, as it is to be committed."""
    return TEXT.format(sections="\n\n".join(_sections())) + "\n"


def examples() -> dict[type[BaseModel], dict[str, Any]]:
    """A value for every field, by the model that has it. Raises ``KeyError`` for a field without an example."""
    found: dict[type[BaseModel], dict[str, Any]] = {}
    for recipe in yaml.safe_load_all(EXAMPLES):
        _collect(Recipe, recipe, found)
    return {model: {name: values[name] for name in model.model_fields} for model, values in found.items()}


def _collect(model: type[BaseModel], values: dict[str, Any], found: dict[type[BaseModel], dict[str, Any]]) -> None:
    for name, value in values.items():
        found.setdefault(model, {}).setdefault(name, value)
        for kind in filter(is_model, _elements(model.model_fields[name])):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    _collect(kind, each, found)


def _sections() -> Iterator[str]:
    given = examples()
    for name, info in Recipe.model_fields.items():
        kind = _element(info)
        if is_model(kind):
            more = "\n\n`model: org/name` is short for `model: {id: org/name}`." if kind is ModelReference else ""
            yield f"## {name}\n\n{_text(inspect.getdoc(kind))}{more}\n\n{_table(kind, given[kind])}"
        else:
            yield f"## {name}\n\n{_text(info.description)} {_example(name, given[Recipe][name])}"
    for title, part in PARTS.items():
        yield f"## {title}\n\n{_text(inspect.getdoc(part))}\n\n{_table(part, given[part])}"


def _table(model: type[BaseModel], given: dict[str, Any]) -> str:
    lines = ["| field | value | default | meaning | example |", "|---|---|---|---|---|"]
    for name, info in model.model_fields.items():
        row = (f"`{name}`", _kind(info), _default(info), _text(info.description), _example(name, given[name]))
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |")
    return "\n".join(lines)


def _kind(info: FieldInfo) -> str:
    kind, _ = stripped(info)
    element = _element(info)
    if element is TextSource:
        return "a list of [texts](#a-text)"
    if element is PromptSource:
        return "a list of [prompts](#a-list-of-prompts)"
    for title, kind in (("Pictures", Pictures), ("Measured pictures", MeasuredPictures)):
        if element is kind:
            return f"[pictures](#{title.lower().replace(' ', '-')})"
    if element is Rule:
        return "a list of [rules](#a-rule)"
    if NamedType in _elements(info):
        return "a list of texts and [named types](#a-named-type)"
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if is_list(kind):
        return "a list of whole numbers" if element is int else "a list of texts"
    return noun(info)


def _element(info: FieldInfo) -> Any:
    """The kind of a field, or of the elements of its list."""
    return _elements(info)[0]


def _elements(info: FieldInfo) -> list[Any]:
    kind, _ = stripped(info)
    return members(typing.get_args(kind)[0]) if is_list(kind) else [kind]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default()
    if value is None or value in ((), {}):
        return "–"
    plain = [_plain(each) for each in value] if isinstance(value, tuple) else _plain(value)
    return f"`{_inline(plain)}`" if plain != {} else "–"


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value


def _example(name: str, value: Any) -> str:
    return f"`{name}: {_inline(value)}`"


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _text(described: str | None) -> str:
    """A docstring as one line of Markdown."""
    return " ".join((described or "").split()).replace("``", "`")


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
