"""GGUF files: exact layout before writing, a resumable writer, a reader that trusts nothing."""

from hubquant.gguf_file.layout import Layout, TensorEntry, plan_layout, shard, shard_paths
from hubquant.gguf_file.metadata import KV, Metadata
from hubquant.gguf_file.reader import GGUFFile
from hubquant.gguf_file.writer import GGUFWriter

__all__ = ["KV", "GGUFFile", "GGUFWriter", "Layout", "Metadata", "TensorEntry", "plan_layout", "shard", "shard_paths"]
