"""PLaMo 2, of which transformers has no code: the formulas stand for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.convert.restore import read_state_dict
from hubquant.errors import HubquantError
from hubquant.gguf_file import GGUFFile
from hubquant.models.load import load_tokenizer
from hubquant.vocab import Vocabulary, build_tokenizer
from tests.support import plamo
from tests.support.conversion import configure, plan, relative_error, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

SPECIALS = ["<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>", "<|plamo:op|>"]
PIECES = {"日本": -7.5, "日本語": -9.0, "語": -8.0, "the": -4.0, " the": -4.5, "he": -5.0, " ": -3.0, "\n": -5.0}
PIECES |= {letter: -6.0 - i / 10 for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz日本")}
TEXTS = ["the other day, then\n", "日本語 the 日本本日", "🙂 naïve café x\x00", "<|plamo:op|>hello there"]


def scored() -> dict[str, float]:
    return dict.fromkeys((f"<0x{byte:02X}>" for byte in range(256)), 0.0) | PIECES


def vocabulary(folder: Path) -> Path:
    kinds = ["UNKNOWN", *["CONTROL"] * 3, "NORMAL"]
    lines = [[text, 0.0, kind, 0, 0, 0, 0] for text, kind in zip(SPECIALS, kinds, strict=True)]
    lines += [[text, score, "BYTE" if text.startswith("<0x") else "NORMAL"] for text, score in scored().items()]
    (folder / "tokenizer.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIALS, strict=False))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "add_eos_token": False, **names}))
    return folder


def best(text: str) -> list[int]:
    """The pieces with the highest sum of scores, where a character that is none costs 1000."""
    ids = {piece: id for id, piece in enumerate([*SPECIALS, *scored()])}
    paths: list[tuple[float, list[int]]] = [(0.0, [])]
    for end in range(1, len(text) + 1):
        character = [ids[f"<0x{byte:02X}>"] for byte in text[end - 1].encode()]
        choices = [(paths[end - 1][0] - 1000, [*paths[end - 1][1], *character])]
        for begin in range(end):
            if (piece := text[begin:end]) in PIECES:
                choices.append((paths[begin][0] + PIECES[piece], [*paths[begin][1], ids[piece]]))
        paths.append(max(choices, key=lambda choice: choice[0]))
    return paths[-1][1]


def test_logits_text_and_what_is_read_back(tmp_path: Path) -> None:
    weights, file = plamo.weights2(), tmp_path / "model.gguf"
    folder = vocabulary(plamo.write(tmp_path / "model", plamo.CONFIG, weights))
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == "plamo2"
    assert "transformers lacks its code" in str(conversion.cannot_run)
    ids = [(7 * i * i + 3 * i) % 380 + 1 for i in range(80)]
    expected = plamo.logits2(weights, ids)
    tokenizer = load_tokenizer(folder)
    rebuilt = build_tokenizer(Vocabulary.from_metadata(GGUFFile.open(file).metadata))
    with LlamaCpp(file) as llama:
        found = torch.from_numpy(llama.logits(ids))
        for text in TEXTS:
            turn, _, rest = text.rpartition(SPECIALS[4])
            wanted = [1, *([4] if turn != text and SPECIALS[4] in text else []), *best(rest)]
            assert llama.tokenize(text) == tokenizer.encode(text) == rebuilt.encode(text) == wanted
            assert tokenizer.decode(wanted[1:]) == text
    assert relative_error(found, expected) <= 1e-4
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    restored = dict(read_state_dict(GGUFFile.open(file)))
    assert restored.keys() == weights.keys()
    for name, x in weights.items():
        lossy = name.endswith(("norm.weight", "A_log"))
        assert torch.equal(restored[name], x) or (lossy and (restored[name] - x).abs().max() <= 2**-22), name


def test_a_window_that_llama_cpp_has_not_is_told(tmp_path: Path) -> None:
    folder = vocabulary(plamo.write(tmp_path / "model", plamo.CONFIG, plamo.weights2()))
    (note,) = plan(configure(folder, max_position_embeddings=10485760)).notes
    assert "more than 2,048 tokens" in note


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no mixer": ({"mamba_enabled": False}, "mamba_enabled"),
    "no step": ({"mamba_step": 1}, "mamba_step"),
    "heads in words": ({"mamba_num_heads": "many"}, "mamba_num_heads"),
    "no state": ({"mamba_d_state": None}, "mamba_d_state"),
    "another rank": ({"hidden_size": 2048, "num_attention_heads": 64}, "shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_llama_cpp_does_not_compute(case: str, tmp_path: Path) -> None:
    changes, reason = REFUSED[case]
    folder = vocabulary(plamo.write(tmp_path / "model", plamo.CONFIG, plamo.weights2()))
    with pytest.raises(HubquantError, match=reason):
        plan(configure(folder, **changes))


@pytest.mark.parametrize("content", ['["a", 0, "ODD"]', '["a"]', "{", '[1, 0, "NORMAL"]', '["a", "b", "NORMAL"]'])
def test_vocabularies_that_are_none(content: str, tmp_path: Path) -> None:
    folder = vocabulary(plamo.write(tmp_path / "model", plamo.CONFIG, plamo.weights2()))
    (folder / "tokenizer.jsonl").write_text(content)
    with pytest.raises(HubquantError, match=r"tokenizer\.jsonl cannot be read"):
        plan(folder)
