"""PLaMo 1, 2 and 3, of which transformers has no code: the formulas stand for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.convert.restore import read_state_dict
from hubquant.errors import HubquantError
from hubquant.gguf_file import GGUFFile
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import build
from hubquant.vocab import Vocabulary, build_tokenizer
from tests.convert.test_published_configs import code
from tests.convert.test_published_configs import model as model_config
from tests.convert.test_published_older_configs import read
from tests.support import plamo
from tests.support.collecting import assert_llama_cpp_collects
from tests.support.conversion import Weights, configure, plan, relative_error, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

SPECIALS = ["<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>", "<|plamo:op|>"]
LOCAL = {"rope_theta": 1e4, "rope_local_theta": 1e6, "full_attention_idx": []}
YARN = {"rope_scaling_factor": 4.0, "initial_context_length": plamo.CONTEXT}
PIECES = {"日本": -7.5, "日本語": -9.0, "語": -8.0, "the": -4.0, " the": -4.5, "he": -5.0, " ": -3.0, "\n": -5.0}
PIECES |= {letter: -6.0 - i / 10 for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz日本")}
MODELS: dict[str, tuple[dict[str, Any], Callable[[], Weights], Callable[[Weights, list[int]], torch.Tensor]]] = {
    "plamo": (plamo.CONFIG1, plamo.weights1, plamo.logits1),
    "plamo2": (plamo.CONFIG, plamo.weights2, plamo.logits2),
    "plamo2 with a local base": (plamo.CONFIG | LOCAL, plamo.weights2, partial(plamo.logits2, theta=1e6)),
    "plamo3": (plamo.CONFIG3, plamo.weights3, plamo.logits3),
    "plamo3 with yarn": (plamo.CONFIG3 | YARN, plamo.weights3, partial(plamo.logits3, factor=4.0)),
}
PLAMO_13B = model_config(
    *("PlamoForCausalLM", 40, 5120, 40, 40, 16640),
    max_position_embeddings=4096,
    model_type="plamo",
    n_shared_head=8,
    rms_norm_eps=1e-06,
    tie_word_embeddings=False,
    tokenizer_class="PlamoTokenizer",
    **code("plamo", "PlamoForCausalLM"),
)
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


def model(name: str, folder: Path) -> Path:
    """PLaMo 1 has SentencePiece's vocabulary, in whose place there is another."""
    config, make, _ = MODELS[name]
    if name == "plamo":
        return plamo.write(build("llama", folder), config, make())
    return vocabulary(plamo.write(folder, config, make()))


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


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_what_is_read_back(name: str, tmp_path: Path) -> None:
    _, make, compute = MODELS[name]
    folder, weights, file = model(name, tmp_path / "model"), make(), tmp_path / "model.gguf"
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == name.split()[0]
    assert "transformers lacks its code" in str(conversion.cannot_run)
    ids = [(7 * i * i + 3 * i) % 380 + 1 for i in range(80)]
    expected = compute(weights, ids)
    with LlamaCpp(file) as llama:
        found = torch.from_numpy(llama.logits(ids))
    assert relative_error(found, expected) <= 1e-4
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    restored = dict(read_state_dict(GGUFFile.open(file)))
    weights = {key: x for key, x in weights.items() if not key.endswith("inv_freq")}
    assert restored.keys() == weights.keys()
    for key, x in weights.items():
        lossy = key.endswith(("norm.weight", "A_log")) and name != "plamo"
        assert torch.equal(restored[key], x) or (lossy and (restored[key] - x).abs().max() <= 2**-22), key


def test_texts(tmp_path: Path) -> None:
    folder, file = model("plamo2", tmp_path / "model"), tmp_path / "model.gguf"
    write_gguf(folder, file, "F32")
    tokenizer = load_tokenizer(folder)
    rebuilt = build_tokenizer(Vocabulary.from_metadata(GGUFFile.open(file).metadata))
    with LlamaCpp(file) as llama:
        for text in TEXTS:
            turn, _, rest = text.rpartition(SPECIALS[4])
            wanted = [1, *([4] if turn != text and SPECIALS[4] in text else []), *best(rest)]
            assert llama.tokenize(text) == tokenizer.encode(text) == rebuilt.encode(text) == wanted
            assert tokenizer.decode(wanted[1:]) == text


def tokenizer_config(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))
    return folder


def test_no_token_is_put_before_a_text_where_none_is_asked_for(tmp_path: Path) -> None:
    folder = tokenizer_config(model("plamo3", tmp_path / "model"), add_bos_token=...)
    assert load_tokenizer(folder).encode("the") == best("the")


def test_cuts_that_llama_cpp_does_not_make_are_told(tmp_path: Path) -> None:
    folder = tokenizer_config(model("plamo3", tmp_path / "model"), break_around_repeated_chars_threshold=8)
    (note,) = plan(folder).notes
    assert "break_around_repeated_chars_threshold" in note


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plamo", "plamo2", "plamo3"])
def test_llama_cpp_collects_what_flows_into_its_matrices(name: str, tmp_path: Path) -> None:
    assert_llama_cpp_collects(model(name, tmp_path / "model"), tmp_path)


def test_a_window_that_llama_cpp_has_not_is_told(tmp_path: Path) -> None:
    folder = model("plamo2", tmp_path / "model")
    (note,) = plan(configure(folder, max_position_embeddings=10485760)).notes
    assert "more than 2,048 tokens" in note


def test_settings_that_are_left_out() -> None:
    three = {
        key.removeprefix("plamo3."): kv.value for key, kv in read({"architectures": ["PLaMo3ForCausalLM"]}).items()
    }
    assert three == {
        "general.architecture": "plamo3",
        "vocab_size": 32000,
        "context_length": 2048,
        "embedding_length": 4096,
        "block_count": 32,
        "feed_forward_length": 13312,
        "attention.head_count": 32,
        "attention.head_count_kv": 4,
        "attention.key_length": 128,
        "attention.value_length": 128,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.dimension_count": 128,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "attention.sliding_window": 2048,
        "attention.sliding_window_pattern": 4 * (*7 * (True,), False),
    }
    one = {key.removeprefix("plamo."): kv.value for key, kv in read(PLAMO_13B).items()}
    assert (one["attention.head_count"], one["attention.head_count_kv"], one["attention.key_length"]) == (40, 5, 128)


def test_yarn_is_told_to_be_rounded(tmp_path: Path) -> None:
    (note,) = plan(model("plamo3 with yarn", tmp_path / "model")).notes
    assert "rounds the range" in note


def test_a_period_of_one_has_no_windows(tmp_path: Path) -> None:
    folder = model("plamo3", tmp_path / "model")
    found = plan(configure(folder, sliding_window_pattern=1, interleaved_sliding_window=...)).metadata
    assert "plamo3.attention.sliding_window" not in found


SHARED = {"num_attention_heads": 6, "n_shared_head": 4}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no mixer": ("plamo2", {"mamba_enabled": False}, "mamba_enabled"),
    "no step": ("plamo2", {"mamba_step": 1}, "mamba_step"),
    "heads in words": ("plamo2", {"mamba_num_heads": "many"}, "mamba_num_heads"),
    "no state": ("plamo2", {"mamba_d_state": None}, "mamba_d_state"),
    "another rank": ("plamo2", {"hidden_size": 2048, "num_attention_heads": 64}, "shape"),
    "two bases": ("plamo2", {**LOCAL, "full_attention_idx": [1]}, "1000000.0 in others"),
    "layers in words": ("plamo2", {"full_attention_idx": "all"}, "full_attention_idx"),
    "no window": ("plamo3", {"window_size": None}, "sliding_window"),
    "other windows": ("plamo3", {"interleaved_sliding_window": [24, None, 24, None]}, "interleaved_sliding_window"),
    "a period in words": ("plamo3", {"sliding_window_pattern": "8"}, "sliding_window_pattern"),
    "a factor alone": ("plamo3", {"rope_scaling_factor": 4.0}, "initial_context_length"),
    "no base": ("plamo3", {"rope_local_theta": 0}, "rope_theta"),
    "a scaled embedding": ("plamo3", {"scale_embedding": True}, "scale_embedding"),
    "other matrices": ("plamo3", {"linear_type": "fp8"}, "linear_type"),
    "groups of two sizes": ("plamo", SHARED, "n_shared_head"),
    "groups in words": ("plamo", {"n_shared_head": "3"}, "n_shared_head"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_llama_cpp_does_not_compute(case: str, tmp_path: Path) -> None:
    name, changes, reason = REFUSED[case]
    with pytest.raises(HubquantError, match=reason):
        plan(configure(model(name, tmp_path / "model"), **changes))


@pytest.mark.parametrize("content", ['["a", 0, "ODD"]', '["a"]', "{", '[1, 0, "NORMAL"]', '["a", "b", "NORMAL"]'])
def test_vocabularies_that_are_none(content: str, tmp_path: Path) -> None:
    folder = model("plamo2", tmp_path / "model")
    (folder / "tokenizer.jsonl").write_text(content)
    with pytest.raises(HubquantError, match=r"tokenizer\.jsonl cannot be read"):
        plan(folder)
