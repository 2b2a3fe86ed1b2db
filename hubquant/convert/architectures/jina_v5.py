"""Jina's embeddings of version 5: EuroBERT (nano) or Qwen3 (small), with an adapter for each task beside the model."""

from __future__ import annotations

from dataclasses import replace

from gguf import PoolingType

from hubquant.convert.architectures.eurobert import EUROBERT
from hubquant.convert.architectures.jina_bert import WithoutAdapters
from hubquant.convert.architectures.qwen3 import QWEN3
from hubquant.convert.rules.rule import Constant, Settings
from hubquant.gguf_file.metadata import u32

_CLASS = "JinaEmbeddingsV5Model"
_ADAPTERS = WithoutAdapters("task_names", "; the folder adapters/TASK with --merge makes that of a task")
_LAST = Constant("pooling_type", u32(int(PoolingType.LAST)))


def _is_encoder(settings: Settings) -> bool:
    return settings.get("is_decoder") is False


JINA_V5_NANO = replace(
    EUROBERT,
    classes={_CLASS: "eurobert"},
    rules=(*EUROBERT.rules, _ADAPTERS, _LAST),
    takes=_is_encoder,
    translated=("clf_pooling", *(f"{role}_token" for role in ("bos", "eos", "mask", "pad"))),
)
JINA_V5_SMALL = replace(
    QWEN3,
    classes={_CLASS: "qwen3"},
    rules=(*QWEN3.rules, _ADAPTERS, _LAST),
    takes=lambda settings: not _is_encoder(settings),
)
