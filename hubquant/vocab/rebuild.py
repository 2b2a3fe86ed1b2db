"""A transformers tokenizer from what a GGUF file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gguf import TokenType

from hubquant.panics import tokenizer_errors
from hubquant.vocab.letters import written
from hubquant.vocab.pretokenizers import structure_of
from hubquant.vocab.rwkv import END, unescaped
from hubquant.vocab.spm import SPACE
from hubquant.vocab.unigram import EDGES
from hubquant.vocab.vocabulary import DEFAULT_TEMPLATE, Vocabulary
from hubquant.vocab.wordpiece import without_phantom_space

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


_COST_OF_BYTES = -1000.0


def build_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """The transformers tokenizer that gives the ids of the one the vocabulary was read from.

    ``TokenizerError`` when the vocabulary contradicts itself.
    """
    with tokenizer_errors("the vocabulary cannot be used"):
        return _build(vocabulary)


def _build(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    backend = _BUILD[vocabulary.model](vocabulary)
    texts, specials = vocabulary.tokens, vocabulary.specials
    control = (TokenType.CONTROL, TokenType.UNKNOWN)
    for special, types in ((True, control), (False, (TokenType.USER_DEFINED,))):
        found = [text for text, type in zip(texts, vocabulary.types, strict=True) if type in types]
        backend.add_tokens([AddedToken(text, special=special, normalized=False) for text in found])
    # A colon would part a name from a number there.
    names = {role: role if ":" in texts[id] else texts[id] for role, id in specials.items()}
    before = [names["bos"]] if vocabulary.add_bos and "bos" in specials else []
    last = "sep" if vocabulary.model == "bert" else "eos"
    after = [names[last]] if vocabulary.add_eos and last in specials else []
    if before or after:
        one = [*before, "$A", *after]
        parted = after if vocabulary.add_sep else before
        ids = {name: specials[role] for role, used in (("bos", before), (last, after)) for name in used}
        backend.post_processor = processors.TemplateProcessing(
            single=one,
            pair=[*one, *(f"{text}:1" for text in parted), "$B:1", *(f"{text}:1" for text in after)],
            special_tokens=[{"id": name, "ids": [id], "tokens": [texts[id]]} for name, id in ids.items()],
        )
    roles = {f"{role}_token": texts[id] for role, id in specials.items() if role not in ("eot", "eom")}
    if vocabulary.model == "bert":
        roles = {"cls_token" if role == "bos_token" else role: text for role, text in roles.items()}
    templates: Any = dict(vocabulary.chat_templates)
    if list(templates) == [DEFAULT_TEMPLATE]:
        templates = templates[DEFAULT_TEMPLATE]
    # transformers does not annotate its constructor.
    build: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return build(tokenizer_object=backend, clean_up_tokenization_spaces=False, chat_template=templates or None, **roles)


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    structure = structure_of(vocabulary.pre)
    ids = {text: id for id, text in enumerate(vocabulary.tokens)}
    merges = _given_merges(vocabulary, ids)
    backend = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=structure.ignore_merges))
    if vocabulary.normalizer == "NFC":
        backend.normalizer = normalizers.NFC()
    steps: list[Any] = []
    for step in structure.steps:
        if step.kind == "Split":
            steps.append(pre_tokenizers.Split(Regex(step.value), "isolated"))
        elif step.kind == "Digits":
            steps.append(pre_tokenizers.Digits(individual_digits=step.value == "individual"))
        elif step.kind == "Punctuation":
            steps.append(pre_tokenizers.Punctuation("contiguous"))
        else:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step.value == "words"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _given_merges(vocabulary: Vocabulary, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    halves = (_halves(merge) for merge in vocabulary.merges)
    return [(left, right) for left, _, right in halves if {left, right, left + right} <= ids.keys()]


def _halves(merge: str) -> tuple[str, str, str]:
    # llama.cpp separates at the first space after the first byte.
    left, space, right = merge[1:].partition(" ")
    return merge[:1] + left, space, right


def _plamo(vocabulary: Vocabulary) -> Tokenizer:
    """A character that no piece has costs nearly what it does in PLaMo, and becomes its bytes."""
    from tokenizers import Tokenizer, decoders, models

    pieces = zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True)
    scores = [(text, _COST_OF_BYTES if type == TokenType.BYTE else score) for text, score, type in pieces]
    backend = Tokenizer(models.Unigram(scores, unk_id=vocabulary.specials.get("unk", 0), byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _rwkv(vocabulary: Vocabulary) -> Tokenizer:
    """WordPiece takes the longest token that fits, as RWKV does, but looks for it from the end of a text: good for
    texts of some thousand bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    ids = {written(unescaped(text)): id for id, text in enumerate(vocabulary.tokens)}
    backend = Tokenizer(
        models.WordPiece(vocab=ids, unk_token=END, continuing_subword_prefix="", max_input_chars_per_word=1 << 30)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    ids = {text: id for id, text in enumerate(vocabulary.tokens)}
    unknown = next(
        (t for t, type in zip(vocabulary.tokens, vocabulary.types, strict=True) if type == TokenType.UNKNOWN), None
    )
    backend = Tokenizer(
        models.BPE(vocab=ids, merges=_merges(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    escape = normalizers.Replace(" ", SPACE)
    prefix = [normalizers.Prepend(SPACE)] if vocabulary.add_space_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, escape])
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.add_space_prefix else []
    backend.decoder = decoders.Sequence([*steps, *strip])
    return backend


def _gemma4(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    ids = {text: id for id, text in enumerate(vocabulary.tokens)}
    unknown = vocabulary.specials.get("unk")
    backend = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=_given_merges(vocabulary, ids),
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _unigram(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens, types = vocabulary.tokens, vocabulary.types
    in_bytes = TokenType.BYTE in types
    # No text makes a token of another kind; the others are found before the text is split.
    impossible = [id for id, type in enumerate(types) if type != TokenType.NORMAL]
    scores = [*vocabulary.scores]
    for id in impossible:
        scores[id] = 0.0
    backend = Tokenizer(
        models.Unigram(
            [*zip(tokens, scores, strict=True)], unk_id=vocabulary.specials.get("unk", 2), byte_fallback=in_bytes
        )
    )
    steps: list[Any] = [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []
    if vocabulary.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(EDGES), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if vocabulary.add_space_prefix or vocabulary.remove_extra_whitespaces:
        steps.append(normalizers.Prepend(SPACE))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    across = any(SPACE in token[1:] for token, type in zip(tokens, types, strict=True) if type == TokenType.NORMAL)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "never", split=not across)
    prefix = "always" if vocabulary.add_space_prefix else "never"
    words = decoders.Metaspace(SPACE, prefix, split=not across)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), words]) if in_bytes else words
    return backend


def _wordpiece(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {
        without_phantom_space(text) if type == TokenType.NORMAL else text: id
        for id, (text, type) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    }
    backend = Tokenizer(models.WordPiece(ids, unk_token=vocabulary.tokens[vocabulary.specials.get("unk", 100)]))
    backend.normalizer = normalizers.BertNormalizer(
        strip_accents=vocabulary.strip_accents, lowercase=vocabulary.lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a piece from two others, best piece first, as SentencePiece goes about it."""
    types = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
    scores = {
        text: (score, id)
        for id, (text, score, type) in enumerate(
            zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True)
        )
        if type in types
    }
    ranked: list[tuple[float, int, int, str, str]] = []
    for text, (score, _) in scores.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in scores and right in scores:
                ranked.append((-score, scores[left][1], scores[right][1], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


_BUILD: Mapping[str, Callable[[Vocabulary], Tokenizer]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "gemma4": _gemma4,
    "t5": _unigram,
    "bert": _wordpiece,
    "plamo2": _plamo,
    "rwkv": _rwkv,
}
