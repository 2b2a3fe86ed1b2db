"""Whether a file is of the tokenizer that a baseline's text was cut by."""

from __future__ import annotations

import hashlib

from torch import Tensor

from hubquant.errors import BaselineError, HubquantError
from hubquant.evaluate.baseline import Baseline
from hubquant.gguf_file import Metadata
from hubquant.vocab import Vocabulary


def texts_fingerprint(metadata: Metadata, ids: Tensor) -> str:
    """sha256 of the texts that ``ids`` have in the tokenizer of a GGUF file's ``metadata``, blanks as blanks however it
    writes them; empty where it has none that can be read."""
    try:
        tokens = Vocabulary.from_metadata(metadata).tokens
    except HubquantError:
        return ""
    used = sorted(set(ids.flatten().tolist()))
    texts = [(id, tokens[id].replace("▁", " ") if id < len(tokens) else None) for id in used]
    return hashlib.sha256(repr(texts).encode(errors="surrogatepass")).hexdigest()


def check_fits(baseline: Baseline, metadata: Metadata, n_vocab: int | None, name: str) -> None:
    """Raises BaselineError where the file ``name``, whose logits are ``n_vocab`` numbers, has another vocabulary or
    another tokenizer than the model of ``baseline``."""
    source = baseline.identity.model if baseline.identity else "its own model"
    hint = "write a baseline of the model that the file was made from: hubquant evaluate baseline"
    if n_vocab is not None and n_vocab != baseline.n_vocab:
        raise BaselineError(
            f"{name} cannot be compared with the baseline of {source}",
            why=f"the file has a vocabulary of {n_vocab}, the baseline one of {baseline.n_vocab}",
            hint=hint,
        )
    for ids, expected in baseline.tokens_of_parts:
        if not expected or texts_fingerprint(metadata, ids) in ("", expected):
            continue
        raise BaselineError(
            f"{name} cannot be compared with the baseline of {source}",
            why="their tokenizers have other texts for the same tokens",
            hint=hint,
        )


def with_first_token(baseline: Baseline, metadata: Metadata) -> Baseline:
    """``baseline`` as llama-perplexity runs a file of ``metadata`` on it: in its own form the first token of a chunk is
    still the text's, and BOS takes its place where the tokenizer adds one."""
    if baseline.form == "llama.cpp":
        vocabulary = Vocabulary.from_metadata(metadata)
        if vocabulary.add_bos and "bos" in vocabulary.specials:
            baseline.ids[:, 0] = vocabulary.specials["bos"]
    return baseline
