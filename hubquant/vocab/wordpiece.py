"""WordPiece vocabularies (GGUF's "bert" model) from tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import TokenType

from hubquant.errors import TokenizerError
from hubquant.vocab.bpe import lay_out, token_ids
from hubquant.vocab.files import Files
from hubquant.vocab.special import around, chat_templates, notes, special_ids
from hubquant.vocab.spm import SPACE
from hubquant.vocab.structure import flatten
from hubquant.vocab.vocabulary import Vocabulary

PREFIX = "##"


def read_wordpiece(files: Files) -> Vocabulary:
    """Raises ``TokenizerError`` for a tokenizer that is not like BERT's, which is the only one llama.cpp knows."""
    lowercase, strip_accents = _normalization(files.tokenizer)
    model = files.tokenizer["model"]
    if model.get("continuing_subword_prefix", PREFIX) != PREFIX:
        raise TokenizerError(
            f"the tokenizer marks the inside of words with {model['continuing_subword_prefix']!r}",
            why=f"llama.cpp knows {PREFIX} only",
        )
    ids = token_ids(files)
    tokens, types = lay_out(ids, files)
    specials = special_ids(files, ids)
    unknown = ids.get(str(model.get("unk_token")))
    add_bos, add_eos = around(files, specials, default_bos=False)
    if unknown is None or not add_bos or not add_eos:
        raise TokenizerError(
            "the tokenizer is not like BERT's",
            why="it has no token for unknown text"
            if unknown is None
            else "llama.cpp puts a token before and one after every text",
        )
    named = files.named_specials
    specials |= {"unk": unknown, "sep": ids.get(named.get("sep", ""), specials["eos"])}
    tokens = [
        with_phantom_space(text) if type == TokenType.NORMAL else text for text, type in zip(tokens, types, strict=True)
    ]
    if len(set(tokens)) != len(tokens):
        raise TokenizerError("two ids of the vocabulary have the same text", why="llama.cpp refuses such a file")
    return Vocabulary(
        model="bert",
        tokens=tuple(tokens),
        types=tuple(types),
        specials=specials,
        add_bos=True,
        add_eos=True,
        lowercase=lowercase,
        strip_accents=strip_accents,
        n_token_types=files.facts.n_token_types,
        chat_templates=chat_templates(files),
        notes=notes(files, ids),
    )


def with_phantom_space(text: str) -> str:
    """llama.cpp marks the tokens that begin a word, BERT those that do not."""
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else SPACE + text


def without_phantom_space(text: str) -> str:
    return text.removeprefix(SPACE) if text.startswith(SPACE) else PREFIX + text


def _normalization(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether text becomes lower case and loses its accents. ``TokenizerError`` unless llama.cpp treats text alike."""
    normalizers = flatten(tokenizer.get("normalizer"), "normalizers")
    splits = flatten(tokenizer.get("pre_tokenizer"), "pretokenizers")
    bert = normalizers[0] if len(normalizers) == 1 and normalizers[0].get("type") == "BertNormalizer" else {}
    if [split.get("type") for split in splits] != ["BertPreTokenizer"] or not (
        bert.get("clean_text") and bert.get("handle_chinese_chars")
    ):
        steps = [str(step.get("type")) for step in (*normalizers, *splits)]
        raise TokenizerError(
            "the tokenizer treats text in a way that llama.cpp does not",
            why=f"it has {' then '.join(steps) or 'no step'}; BERT has BertNormalizer, which cleans text and parts "
            "Chinese characters, then BertPreTokenizer",
        )
    lowercase = bool(bert.get("lowercase"))
    strip_accents = bert.get("strip_accents")
    return lowercase, lowercase if strip_accents is None else bool(strip_accents)
