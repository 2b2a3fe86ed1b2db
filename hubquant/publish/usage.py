"""What somebody needs to know to run a model: context, sampling, the prompt's format, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hubquant.gguf_file import Metadata
from hubquant.publish.recommendation import MeasuredFile
from hubquant.units import number

CONTEXT = 8192  # tokens that a machine is to have room for, where the model takes so many
REST_BYTES = 500_000_000  # llama.cpp itself and what it computes with
CACHE_BYTES = 2  # of a number of the keys and values, which llama.cpp keeps in 16 bits
# GB of memory that graphics cards and machines have
MACHINES = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
LONGEST_PROMPT = 3000  # characters; what is longer shows tools and rules rather than a format

# general.sampling.* key, llama.cpp's option, the name in words
SAMPLING = (
    ("temp", "--temp", "temperature"),
    ("top_k", "--top-k", "top k"),
    ("top_p", "--top-p", "top p"),
    ("min_p", "--min-p", "min p"),
    ("penalty_repeat", "--repeat-penalty", "repetition penalty"),
)


@dataclass(frozen=True)
class Usage:
    """``context_length`` in tokens; ``cache_bytes`` are those of one token's keys and values in all layers, None where
    the file does not tell; ``sampling`` by the names in ``general.sampling.*``; ``prompt`` with names in braces in the
    places of texts.
    """

    context_length: int | None = None
    cache_bytes: int | None = None
    sampling: tuple[tuple[str, float], ...] = ()
    prompt: str | None = None

    @classmethod
    def of(cls, metadata: Metadata, prompt: str | None) -> Usage:
        """From the keys of a file, and its chat template's ``prompt``."""
        found = {key: kv.value for key, kv in metadata.items()}
        architecture = found.get("general.architecture")
        length = found.get(f"{architecture}.context_length")
        given = {key: found.get(f"general.sampling.{key}") for key, _, _ in SAMPLING}
        return cls(
            context_length=length if isinstance(length, int) and length > 0 else None,
            cache_bytes=_cache_bytes(metadata, str(architecture)),
            sampling=tuple((key, float(value)) for key, value in given.items() if isinstance(value, int | float)),
            prompt=prompt if prompt and len(prompt) <= LONGEST_PROMPT else None,
        )

    @property
    def sampling_words(self) -> str:
        """Such as "temperature 0.6, top k 20"."""
        return ", ".join(f"{words} {value}" for _, words, value in self._sampling())

    @property
    def sampling_options(self) -> str:
        """For llama.cpp's programs."""
        return " ".join(f"{option} {value}" for option, _, value in self._sampling())

    def _sampling(self) -> Iterator[tuple[str, str, str]]:
        given = dict(self.sampling)
        yield from ((option, words, f"{given[key]:.4g}") for key, option, words in SAMPLING if key in given)

    @property
    def context(self) -> int | None:
        """Tokens that :func:`by_memory` has room for."""
        return min(self.context_length or CONTEXT, CONTEXT) if self.cache_bytes is not None else None

    def memory(self, file: MeasuredFile) -> int:
        """Bytes that a file takes, all of it in one memory."""
        return file.size + (self.cache_bytes or 0) * (self.context or 0) + REST_BYTES


def by_memory(files: Sequence[MeasuredFile], usage: Usage) -> list[tuple[str, MeasuredFile]]:
    """For each size of memory where the answer changes, in words, the file that is nearest to the source among those
    that fit. By the mean KLD or cosine where every file was measured, and otherwise by size; without what
    llama.cpp itself does not load.
    """
    common = [file for file in files if file.is_for_llama_cpp]
    rows: list[tuple[str, MeasuredFile]] = []
    for gigabytes in MACHINES:
        fitting = [file for file in common if usage.memory(file) <= gigabytes * 1e9]
        best = min(fitting, key=lambda file: _distance(file, common), default=None)
        if best is not None and (not rows or rows[-1][1] != best):
            rows.append((f"{gigabytes} GB", best))
    return rows


def _distance(file: MeasuredFile, files: Sequence[MeasuredFile]) -> tuple[float, int]:
    if file.distance is not None and all(other.distance is not None for other in files):
        return file.distance, file.size
    return 0.0, -file.size


def per_thousand(usage: Usage) -> str | None:
    """The memory of a thousand tokens of context, in MB."""
    return None if usage.cache_bytes is None else number(usage.cache_bytes / 1000)


def _cache_bytes(metadata: Metadata, architecture: str) -> int | None:
    """Of one token, counted for every layer as if it looked at the whole context: an upper bound where layers have
    windows."""
    layers, width, heads = (_integers(metadata, f"{architecture}.{key}") for key in _SIZES)
    key, value = (_integers(metadata, f"{architecture}.attention.{name}_length") for name in ("key", "value"))
    kv_heads = _integers(metadata, f"{architecture}.attention.head_count_kv") or heads
    if not layers or not kv_heads or not (key or (width and heads and heads[0])):
        return None
    one = key[0] if key else width[0] // heads[0]
    per_head = one + (value[0] if value else one)
    n_heads = sum(kv_heads) if len(kv_heads) > 1 else kv_heads[0] * layers[0]
    return n_heads * per_head * CACHE_BYTES or None


_SIZES = ("block_count", "embedding_length", "attention.head_count")


def _integers(metadata: Metadata, key: str) -> list[int]:
    value = metadata[key].value if key in metadata else ()
    return [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, int)]
