"""Libraries written in Rust end some work on a stranger's files with a panic, which no ``except Exception`` sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hubquant.errors import HubquantError, TokenizerError

_PANIC = "PanicException"  # has no public name: https://pyo3.rs/main/doc/pyo3/panic/struct.panicexception


@contextmanager
def tokenizer_panics() -> Iterator[None]:
    """Raise ``TokenizerError`` where the tokenizer's library panics, over a pattern without end for example."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise TokenizerError(
            "the model's tokenizer fails on a text",
            why=" ".join(str(error).split())[:200],
            hint="compare tokenizer.json with the file of the original repository",
        ) from None


@contextmanager
def tokenizer_errors(what: str, hint: str | None = None) -> Iterator[None]:
    """Raise ``TokenizerError`` for whatever tokenizers and transformers raise over a bad file, panics too."""
    try:
        yield
    except HubquantError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" :")
        raise TokenizerError(what, why=line[:200], hint=hint) from error
