r"""llama.cpp's pre-tokenizer names and the tokenizer.json structures they stand for, in both directions.

llama.cpp splits text by regexes that are built in under a name. A name fits a tokenizer when those regexes split as its
own do (llama-vocab.cpp); where llama.cpp rewrites a regex for its engine, the original stands here. Names with equal
behaviour share an entry; the first of them is written, every one of them can be read.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from hubquant.errors import TokenizerError
from hubquant.vocab.structure import TokenizerStep, TokenizerStructure

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_PATHS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"

LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
MINICPM5 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_REST}"
TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_PATHS}"
GPT_4O = rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_PATHS}"
_LONG_SPACES = "|".join(rf"\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1))
JAIS2 = (
    rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_LONG_SPACES}"
    r"|\s{1,2}(?!\S)|\s{1}"
)
SEED_CODER = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
EXAONE_MOE = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_DEEPSEEK_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
DEEPSEEK_V3 = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
SPARK = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+"
YOUTU = GPT_4O.replace(r"\p{N}{1,3}", r"\p{N}")
UFAKZEKA = rf"{_WORD}|\p{{N}}|{_REST}"
_NO_HAN = tuple(part.replace("]", r"&&[^\p{Han}]]") for part in (_UPPER, _LOWER))
_BEGINNING = r"[^\r\n\p{L}\p{N}]?"
KIMI_K2 = (
    rf"[\p{{Han}}]+|{_BEGINNING}{_NO_HAN[0]}*{_NO_HAN[1]}+{_CONTRACTIONS}?"
    rf"|{_BEGINNING}{_NO_HAN[0]}+{_NO_HAN[1]}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST}"
)
_FROM_THE_END = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_ASIAN = "[一-鿿㐀-䶿豈-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-\u0eff\u1780-\u17ff\u1000-\u109fꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+"
# Cased letters; ranges that begin or end at characters with a canonical equivalent are written by number.
DEEPSEEK_LETTERS = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "ℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
# Qwen2's regex as tiktoken's cl100k conversions spell Llama 3's: possessive quantifiers, same matches.
_CL100K = BAILING.replace(r"\p{N}|", r"\p{N}{1,3}|")

WORDS, PLAIN = TokenizerStep("ByteLevel", "words"), TokenizerStep("ByteLevel", "plain")
DIGITS = TokenizerStep("Digits", "individual")


def _split(*patterns: str) -> tuple[TokenizerStep, ...]:
    return (*(TokenizerStep("Split", pattern) for pattern in patterns), PLAIN)


@dataclass(frozen=True)
class PreTokenizer:
    """``names`` that llama.cpp treats alike and the structure of their tokenizers; ``spellings`` are equal steps."""

    names: tuple[str, ...]
    structure: TokenizerStructure
    spellings: tuple[tuple[TokenizerStep, ...], ...] = ()

    def fits(self, steps: tuple[TokenizerStep, ...]) -> bool:
        return steps == self.structure.steps or steps in self.spellings


def _known(
    names: str,
    steps: tuple[TokenizerStep, ...],
    *spellings: tuple[TokenizerStep, ...],
    normalizer: str | None = None,
    ignore_merges: bool = False,
) -> PreTokenizer:
    return PreTokenizer(tuple(names.split()), TokenizerStructure(steps, ignore_merges, normalizer), spellings)


_CJK = r"[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK_CODER = (
    TokenizerStep("Split", r"[\r\n]"),
    TokenizerStep("Split", r"\s?\p{L}+"),
    TokenizerStep("Split", r"\s?\p{P}+"),
    TokenizerStep("Split", _CJK),
)
_DEEPSEEK_LLM = (
    TokenizerStep("Split", r"[\r\n]"),
    TokenizerStep("Split", DEEPSEEK_LETTERS),
    TokenizerStep("Split", r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
    TokenizerStep("Split", r"\s+$"),
    TokenizerStep("Split", _CJK),
)
# What llama.cpp does with files from before it knew names.
_DEFAULT = _split(
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{N}+",
    "[0-9][0-9][0-9]",
)
_FALCON = (
    TokenizerStep("Punctuation", "contiguous"),
    WORDS,
    TokenizerStep("Digits", "runs"),
    TokenizerStep("Split", "[0-9][0-9][0-9]"),
)
_POLISHED = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_SPARK = (TokenizerStep("Split", SPARK), DIGITS, PLAIN)
_YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
_CHAMELEON = (
    TokenizerStep("Split", "<sentinel:[0-9]+>"),
    TokenizerStep("Split", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
    TokenizerStep("Split", r"([\t\n]|    |  )"),
    DIGITS,
    TokenizerStep("Split", r"[\p{P}!-/:-@\[-`{-~]"),
    WORDS,
)

PRE_TOKENIZERS = (
    _known(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano glm4 glm5",
        _split(LLAMA3),
        _split(_CL100K),
        ignore_merges=True,
    ),
    _known("dbrx smaug-bpe chatglm-bpe", _split(LLAMA3), _split(_CL100K)),
    _known("qwen2 megrez", _split(QWEN2), normalizer="NFC"),
    _known("deepseek-r1-qwen stablelm2 hunyuan solar-open grok-2 kormo f2llmv2", _split(QWEN2)),
    _known("qwen35", _split(QWEN35), normalizer="NFC"),
    _known(
        "gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert roberta-bpe exaone4 jais trillion granite-docling "
        "jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-de jina-es",
        (WORDS,),
    ),
    _known("olmo mpt", (WORDS,), normalizer="NFC"),
    _known("smollm starcoder refact codeshell exaone minerva-7b mellum2", (DIGITS, WORDS)),
    _known("command-r", (DIGITS, WORDS), normalizer="NFC"),
    _known("falcon", _FALCON),
    _known("tekken", _split(TEKKEN), ignore_merges=True),
    _known("gpt-4o llama4 kanana2 talkie minimax-m2", _split(GPT_4O)),
    _known("jais-2", _split(JAIS2)),
    _known("deepseek-llm", (*_DEEPSEEK_LLM, DIGITS, PLAIN)),
    _known("deepseek-coder", (*_DEEPSEEK_CODER, DIGITS, PLAIN)),
    _known("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _split(r"\p{N}{1,3}", _KANA, DEEPSEEK_V3)),
    _known("seed-coder", _split(SEED_CODER)),
    _known("bailingmoe bailingmoe2 llada-moe", _split(BAILING)),
    _known("exaone-moe", _split(EXAONE_MOE)),
    _known("minicpm5", _split(r"\p{N}{1,3}", MINICPM5), ignore_merges=True),
    _known("default", _DEFAULT),
    _known("bloom poro-chat gpt3-finnish", _split(_POLISHED)),
    _known("viking", (TokenizerStep("Split", _POLISHED), DIGITS, PLAIN)),
    _known("granite-embed-multi-97m", _split(GPT_4O), ignore_merges=True),
    _known("tiny_aya cohere2moe", _split(r"\d{1,3}(?=(?:\d{3})*\b)", GPT_4O)),
    _known("youtu", _split(_YOUTU_SCRIPTS, YOUTU), ignore_merges=True),
    _known("kimi-k2", _split(KIMI_K2)),
    _known("superbpe", _split(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    _known("laguna", _split(r"[^\n]+|[\n]+", QWEN2)),
    _known("ufakzeka", _split(UFAKZEKA)),
    _known("spark2_5", (TokenizerStep("Split", r"\p{N}{1,3}"), TokenizerStep("Split", _KANA), *_SPARK)),
    _known("afmoe", _split(_FROM_THE_END, _ASIAN, DEEPSEEK_V3)),
    _known("chameleon", _CHAMELEON),
)


def recognise(structure: TokenizerStructure, unreachable: Callable[[], list[str]]) -> str:
    """llama.cpp's name for a structure.

    A name whose ``ignore_merges`` differs fits as well when the merges reach every token: ``unreachable`` lists those
    they do not. Raises ``TokenizerError`` with the nearest known structure when there is none.
    """
    fitting = [known for known in PRE_TOKENIZERS if known.fits(structure.steps)]
    equal = [known for known in fitting if known.structure.ignore_merges == structure.ignore_merges]
    if fitting and not equal:
        words = unreachable()
        if words:
            raise TokenizerError(
                f"the tokenizer is almost llama.cpp's {fitting[0].names[0]!r}",
                why=f"ignore_merges differs, and it matters for {len(words)} tokens, such as {words[0]!r}",
            )
        equal = fitting
    if not equal:
        raise _unknown(structure)
    same = [known for known in equal if known.structure.normalizer == structure.normalizer]
    return (same or equal)[0].names[0]


def structure_of(name: str) -> TokenizerStructure:
    """The structure behind a name. ``TokenizerError`` for one that is not known."""
    for known in PRE_TOKENIZERS:
        if name in known.names:
            return known.structure
    names = sorted(name for known in PRE_TOKENIZERS for name in known.names)
    near = difflib.get_close_matches(name, names, 1)
    raise TokenizerError(
        f"pre-tokenizer {name!r} is not known",
        why=f"nearest is {near[0]!r}" if near else None,
        hint=f"known are {', '.join(names)}",
    )


def _unknown(structure: TokenizerStructure) -> TokenizerError:
    def likeness(known: PreTokenizer) -> float:
        return difflib.SequenceMatcher(
            None, _text(known.structure.steps), _text(structure.steps), autojunk=False
        ).ratio()

    nearest = max(PRE_TOKENIZERS, key=likeness)
    theirs, ours = nearest.structure.steps, structure.steps
    missing = [str(step) for step in theirs if step not in ours]
    extra = [str(step) for step in ours if step not in theirs]
    return TokenizerError(
        "llama.cpp has no pre-tokenizer like this tokenizer's",
        why=f"nearest is {nearest.names[0]!r}, which has {' + '.join(missing) or 'no other step'}"
        f" where this one has {' + '.join(extra) or 'nothing'}",
        hint=f"known are {', '.join(known.names[0] for known in PRE_TOKENIZERS)}",
    )


def _text(steps: tuple[TokenizerStep, ...]) -> str:
    return " ".join(map(str, steps))
