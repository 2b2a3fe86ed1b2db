"""What a byte-level BPE tokenizer does to text before the merges, read from tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hubquant.errors import TokenizerError

StepKind = Literal["Split", "Digits", "Punctuation", "ByteLevel", "other"]


@dataclass(frozen=True)
class TokenizerStep:
    """One pre-tokenizer.

    ``value`` is the regex of a split that isolates its matches, "individual" or "runs" of digits, "contiguous"
    punctuation, "words" or "plain" for ByteLevel with and without GPT-2's regex, any other step as it stands.
    """

    kind: StepKind
    value: str

    def __str__(self) -> str:
        return f"{self.kind}({self.value})"

    def to_json(self) -> dict[str, Any]:
        """The step as tokenizer.json has it."""
        if self.kind == "Split":
            return {"type": "Split", "pattern": {"Regex": self.value}, "behavior": "Isolated", "invert": False}
        if self.kind == "Digits":
            return {"type": "Digits", "individual_digits": self.value == "individual"}
        if self.kind == "Punctuation":
            return {"type": "Punctuation", "behavior": "Contiguous"}
        use_regex = self.value == "words"
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


@dataclass(frozen=True)
class TokenizerStructure:
    """Steps in order, whether a word that is a token skips the merges, and the Unicode normal form (None or "NFC")."""

    steps: tuple[TokenizerStep, ...]
    ignore_merges: bool
    normalizer: str | None


def read_structure(tokenizer: Mapping[str, Any]) -> TokenizerStructure:
    """The structure of a parsed tokenizer.json. ``TokenizerError`` for a normalizer that llama.cpp has no equal for."""
    model = tokenizer.get("model") or {}
    pre_tokenizers = flatten(tokenizer.get("pre_tokenizer"), "pretokenizers")
    steps = tuple(_step(each, alone=len(pre_tokenizers) == 2) for each in pre_tokenizers)
    normalizers = [each.get("type") for each in flatten(tokenizer.get("normalizer"), "normalizers")]
    if normalizers not in ([], ["NFC"]):
        raise TokenizerError(
            "the tokenizer changes text in a way that llama.cpp does not",
            why=f"its normalizer is {' then '.join(map(str, normalizers))}; only none and NFC can be written",
        )
    return TokenizerStructure(steps, bool(model.get("ignore_merges")), "NFC" if normalizers else None)


def flatten(part: Any, members: str) -> list[Mapping[str, Any]]:
    if not isinstance(part, dict):
        return []
    if part.get("type") != "Sequence":
        return [part]
    parts = part.get(members)
    return [each for member in parts for each in flatten(member, members)] if isinstance(parts, list) else []


def _step(part: Mapping[str, Any], *, alone: bool) -> TokenizerStep:
    kind = part.get("type")
    if kind == "Digits":
        return TokenizerStep("Digits", "individual" if part.get("individual_digits") else "runs")
    if kind == "Punctuation" and part.get("behavior") == "Contiguous":
        return TokenizerStep("Punctuation", "contiguous")
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return TokenizerStep("ByteLevel", "words" if part.get("use_regex", True) else "plain")
    regex = _split_regex(part, alone=alone) if kind == "Split" else None
    if regex is not None:
        return TokenizerStep("Split", regex)
    return TokenizerStep("other", str({key: value for key, value in part.items() if key != "trim_offsets"}))


def _split_regex(part: Mapping[str, Any], *, alone: bool) -> str | None:
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if not isinstance(regex, str):
        return None
    # Where the regex matches everything, removing what does not match (the habit of tiktoken conversions) is isolating.
    covers = alone and regex.endswith(r"|\s+") and part.get("behavior") == "Removed" and part.get("invert") is True
    if covers or (part.get("behavior") == "Isolated" and not part.get("invert")):
        return regex.replace("\r", r"\r").replace("\n", r"\n")
    return None
