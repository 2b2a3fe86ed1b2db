"""GGUF files: exact layout before writing, a resumable writer, a reader that trusts nothing."""

from hubquant.gguf_file.layout import Layout, Split, TensorEntry, plan_layout, shard, shard_paths
from hubquant.gguf_file.metadata import KV, Metadata
from hubquant.gguf_file.overrides import overridden, parse_override
from hubquant.gguf_file.reader import GGUFFile
from hubquant.gguf_file.writer import GGUFWriter

__all__ = [
    "KV",
    "GGUFFile",
    "GGUFWriter",
    "Layout",
    "Metadata",
    "Split",
    "TensorEntry",
    "overridden",
    "parse_override",
    "plan_layout",
    "shard",
    "shard_paths",
]
