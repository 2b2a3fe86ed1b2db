"""RWKV 6 and 7, of which transformers has no code: the formulas stand for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hubquant.convert.restore import read_state_dict
from hubquant.errors import HubquantError
from hubquant.gguf_file import GGUFFile
from hubquant.models.load import load_tokenizer
from hubquant.vocab import Vocabulary, build_tokenizer
from tests.support import rwkv
from tests.support.collecting import assert_llama_cpp_collects
from tests.support.conversion import Weights, assert_same, configure, edit_weights, plan, relative_error, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

IDS = [(7 * i * i + 3 * i) % 260 + 1 for i in range(80)]
MODELS: dict[str, tuple[dict[str, Any], Callable[[], Weights], Callable[[Weights, list[int]], torch.Tensor]]] = {
    "rwkv6": (rwkv.CONFIG6, rwkv.weights6, rwkv.logits6),
    "rwkv7": (rwkv.CONFIG7, rwkv.weights7, rwkv.logits7),
}
TEXTS = ['hello world, the other\n\nit\'s "naïve" café  日本語 🙂', "\\n\t\r\x00", "<s>the end<s>"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(rwkv.write(tmp_path_factory.mktemp("words") / "model", rwkv.CONFIG6, {"x": torch.zeros(1)}))


@given(st.lists(st.sampled_from(rwkv.WORDS + rwkv.BYTES[9:128]) | st.characters().map(str.encode), max_size=30))
def test_the_longest_token_is_taken(tokenizer: Any, parts: list[bytes]) -> None:
    text = b"".join(parts).decode(errors="ignore").replace("<s>", "")
    rest, longest_first = text.encode(), sorted(enumerate(rwkv.TOKENS, 1), key=lambda item: -len(item[1]))
    expected = []
    while rest:
        id, token = next(item for item in longest_first if rest.startswith(item[1]))
        expected.append(id)
        rest = rest[len(token) :]
    assert tokenizer.encode(text) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_collects_what_flows_into_its_matrices(name: str, tmp_path: Path) -> None:
    config, make, _ = MODELS[name]
    assert_llama_cpp_collects(rwkv.write(tmp_path / "model", config, make()), tmp_path)


def together(weights: Weights) -> None:
    """As Flash Linear Attention had it at first, and with what the first layer does not use."""
    for layer in range(rwkv.LAYERS):
        parts = [weights.pop(f"model.layers.{layer}.attn.x_{name}") for name in "rwkvag"]
        weights[f"model.layers.{layer}.attn.x_x"] = torch.cat(parts, dim=1)[0]
    weights["model.layers.0.attn.v_lora.lora.2.bias"] = torch.zeros(rwkv.WIDTH)


@pytest.mark.parametrize("name", MODELS)
def test_logits_text_and_what_is_read_back(name: str, tmp_path: Path) -> None:
    config, make, logits = MODELS[name]
    weights, file = make(), tmp_path / "model.gguf"
    folder = rwkv.write(tmp_path / "model", config, weights)
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == name
    assert "transformers lacks its code" in str(conversion.cannot_run)
    expected = logits(weights, IDS)
    tokenizer = load_tokenizer(folder)
    rebuilt = build_tokenizer(Vocabulary.from_metadata(GGUFFile.open(file).metadata))
    with LlamaCpp(file) as llama:
        found = torch.from_numpy(llama.logits(IDS))
        for text in TEXTS:
            ids = llama.tokenize(text)
            assert ids == tokenizer.encode(text) == rebuilt.encode(text)
            assert b"".join(rwkv.TOKENS[id - 1] if id else b"<s>" for id in ids) == text.encode()
            assert tokenizer.decode(ids) == text
    assert relative_error(found, expected) <= 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert_same(dict(read_state_dict(GGUFFile.open(file))), weights)


def test_rwkv7_as_it_was_saved_at_first(tmp_path: Path) -> None:
    folder = rwkv.write(tmp_path / "model", rwkv.CONFIG7, rwkv.weights7())
    write_gguf(folder, tmp_path / "today.gguf", "F32")
    write_gguf(edit_weights(folder, together), tmp_path / "then.gguf", "F32")
    assert (tmp_path / "then.gguf").read_bytes() == (tmp_path / "today.gguf").read_bytes()


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no rank": (rwkv.CONFIG7, {"a_low_rank_dim": None}, "lora_rank_iclr"),
    "attention in a layer": (rwkv.CONFIG7, {"attn": {"layers": [1]}}, "attn"),
    "an activation": (rwkv.CONFIG7, {"hidden_act": "relu"}, "hidden_act"),
    "other epsilon": (rwkv.CONFIG7, {"norm_eps": 1e-6}, "norm of heads"),
    "wide values": (rwkv.CONFIG7, {"value_dim": [256]}, "value_dim"),
    "heads that do not fit": (rwkv.CONFIG7, {"head_dim": 48}, "head_size"),
    "a ratio in words": (rwkv.CONFIG7, {"intermediate_size": None, "hidden_ratio": "four"}, "hidden_ratio"),
    "narrow attention": (rwkv.CONFIG6, {"attention_hidden_size": 64}, "attention_hidden_size 64"),
    "another divisor": (rwkv.CONFIG6, {"head_size_divisor": 4}, "head_size_divisor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_llama_cpp_does_not_compute(case: str, tmp_path: Path) -> None:
    config, changes, reason = REFUSED[case]
    folder = configure(rwkv.write(tmp_path / "model", config, {"x": torch.zeros(1)}), **changes)
    with pytest.raises(HubquantError, match=reason):
        plan(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1 'a' 1\n3 'b' 1\n", "cannot be read: line 2"),
        ("1 'a' 2\n", "cannot be read: line 1"),
        ("1 open('x') 1\n", "cannot be read"),
        ("1 'a' 1\n", "no token for the byte 0"),
    ],
)
def test_vocabularies_that_are_none(content: str, reason: str, tmp_path: Path) -> None:
    folder = rwkv.write(tmp_path / "model", rwkv.CONFIG6, rwkv.weights6())
    (folder / "rwkv_vocab_v20230424.txt").write_text(content)
    with pytest.raises(HubquantError, match=reason):
        plan(folder)
