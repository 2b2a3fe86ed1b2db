"""The files beside a tokenizer: which tokens they add, whether they belong to the model, and values of wrong types."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from gguf import TokenType

from hubquant.errors import TokenizerError
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import CORPUS, TOKENIZERS, build, qwen2_tokenizer
from hubquant.vocab import ModelFacts, read_vocabulary
from tests.support.conversion import edit_weights, plan
from tests.support.multimodal import build_multimodal

CHATML = ("<|im_start|>", "<|im_end|>")


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    TOKENIZERS["llama"]().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def slow(folder: Path) -> Path:
    """tokenizer.model with 512 pieces and added_tokens.json, as older fine-tunes of Llama 2 have them."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=made,
        vocab_size=512,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        bos_id=1,
        eos_id=2,
        unk_id=0,
        minloglevel=2,
    )
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    edit(folder / "added_tokens.json", **dict(zip(CHATML, (512, 513), strict=True)))
    return folder


def test_rows_that_only_the_config_class_knows(tmp_path: Path) -> None:
    """google/gemma-3-4b-it leaves vocab_size to the default of its text_config."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "query_pre_attn_scalar": 8}
    folder = build_multimodal("gemma3", "gemma3_text", "siglip_vision_model", tmp_path / "gemma", tied=True, **sizes)
    n_tokens = len(load_tokenizer(folder))
    rows = 262_208

    def more(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.endswith("embed_tokens.weight")]:
            weights[name] = torch.zeros(rows, 32, dtype=torch.bfloat16)

    edit_weights(folder, more)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].pop("vocab_size")
    edit(folder / "config.json", **config)
    conversion = plan(folder)
    assert len(conversion.metadata["tokenizer.ggml.tokens"].value) == rows  # type: ignore[arg-type]
    assert conversion.shapes["token_embd.weight"][0] == rows > n_tokens


def test_tokens_of_added_tokens_json(tmp_path: Path) -> None:
    slow(tmp_path)
    edit(tmp_path / "tokenizer_config.json", bos_token="<s>", eos_token="<|im_end|>", add_bos_token=True)
    vocabulary = read_vocabulary(tmp_path, {"eos_token_id": 2}, ModelFacts(rows=514))
    assert vocabulary.tokens[512:] == CHATML
    assert vocabulary.types[512:] == (TokenType.CONTROL,) * 2
    assert vocabulary.specials["eos"] == 513
    assert vocabulary.notes == ()
    assert load_tokenizer(tmp_path)("a<|im_end|>")["input_ids"][-1] == 513


def test_names_of_special_tokens_map(tmp_path: Path) -> None:
    slow(tmp_path)
    edit(tmp_path / "added_tokens.json", **{"<tool>": 514, "plain": 515})
    edit(
        tmp_path / "special_tokens_map.json",
        eos_token={"content": "<|im_end|>", "lstrip": False},
        additional_special_tokens=["<tool>"],
    )
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=516))
    assert vocabulary.specials["eos"] == 513
    assert vocabulary.types[514:] == (TokenType.CONTROL, TokenType.USER_DEFINED)


def test_added_tokens_json_beside_tokenizer_json(folder: Path) -> None:
    n = len(read_vocabulary(folder, {}).tokens)
    edit(folder / "added_tokens.json", **{"<tool>": n})
    vocabulary = read_vocabulary(folder, {})
    assert vocabulary.tokens[n:] == ("<tool>",)
    assert load_tokenizer(folder)("<tool>")["input_ids"][-1] == n


def test_two_tokens_with_one_id(folder: Path) -> None:
    edit(folder / "added_tokens.json", **{"<tool>": 5})
    with pytest.raises(TokenizerError, match=r"same id: '\S' and '<tool>' are 5"):
        read_vocabulary(folder, {})


def test_tokens_that_only_have_a_name(folder: Path) -> None:
    n = len(read_vocabulary(folder, {}).tokens)
    edit(folder / "tokenizer_config.json", pad_token="<pad>", image_token="<image>", extra_special_tokens=["<sound>"])
    vocabulary, theirs = read_vocabulary(folder, {}), load_tokenizer(folder)
    assert vocabulary.tokens[n:] == tuple(theirs.convert_ids_to_tokens(range(n, len(theirs))))
    assert vocabulary.specials["pad"] == theirs.pad_token_id
    assert {*vocabulary.types[n:]} == {TokenType.CONTROL}


def resized_tokenizer_only(folder: Path, **special: str) -> Path:
    tokenizer = qwen2_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [*CHATML]})
    for role, text in special.items():
        setattr(tokenizer, role, text)
    build("qwen3", folder, vocab_size=rows)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_end_of_text_without_embedding(tmp_path: Path) -> None:
    folder = resized_tokenizer_only(tmp_path, eos_token="<|im_end|>")
    with pytest.raises(TokenizerError, match=r"ends a text, '<\|im_end\|>', has no embedding: its id is 385"):
        plan(folder)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    folder = resized_tokenizer_only(tmp_path)
    edit(folder / "generation_config.json", eos_token_id=[0, 385])
    (folder / "chat_template.jinja").write_text("<|im_start|>{{ messages[0].content }}")
    assert plan(folder).notes == (
        "2 tokens have no embedding and are left out: <|im_start|>, <|im_end|>; the chat template writes <|im_start|>",
        "generation stops at 385, which is no token of the model",
    )


def test_numbers_of_no_token(folder: Path) -> None:
    n = len(read_vocabulary(folder, {}).tokens)
    edit(folder / "generation_config.json", pad_token_id=n + 5, bos_token_id=n + 1, eos_token_id=1)
    vocabulary = read_vocabulary(folder, {"pad_token_id": -1, "mask_token_id": n}, ModelFacts(rows=n + 1))
    assert vocabulary.specials == {"bos": 0, "eos": 1}
    assert vocabulary.notes == (f"tokens are named that the model does not have: {n} as mask, {n + 5} as pad",)


def test_stops_of_config_json(folder: Path) -> None:
    tokenizer = TOKENIZERS["llama"]()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eom_id|>", "<|eot_id|>"]})
    tokenizer.save_pretrained(folder)
    n = len(tokenizer)
    config = {"eos_token_id": [1, n - 2, n - 1]}
    assert read_vocabulary(folder, config).specials == {"bos": 0, "eos": 1, "eom": n - 2, "eot": n - 1}
    edit(folder / "generation_config.json", eos_token_id=1)
    assert read_vocabulary(folder, config).specials == {"bos": 0, "eos": 1}


def test_defaults_of_the_config_class(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", bos_token=None, eos_token=None)
    facts = ModelFacts(ids={"bos": 0, "eos": 2})
    assert read_vocabulary(folder, {}, facts).specials == {"bos": 0}  # token 2 is no special one


def tokenizer_json(*keys: str | int, value: Any) -> Callable[[Path], None]:
    return lambda folder: put(folder / "tokenizer.json", keys, value)


def configured(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, **values)


def put(path: Path, keys: tuple[str | int, ...], value: Any) -> None:
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))


PROCESSOR = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}]}
WRONG: dict[str, Callable[[Path], None]] = {
    "model": tokenizer_json("model", value=[]),
    "model.byte_fallback": tokenizer_json("model", "byte_fallback", value="no"),
    "model.vocab": tokenizer_json("model", "vocab", value=[["a", 1]]),
    "model.merges.0": tokenizer_json("model", "merges", value=[1, 2]),
    "model.merges.1": tokenizer_json("model", "merges", value=["a b", ["a", None]]),
    "added_tokens": tokenizer_json("added_tokens", value=7),
    "added_tokens.0": tokenizer_json("added_tokens", value=[1]),
    "added_tokens.0.id": tokenizer_json("added_tokens", 0, "id", value="0"),
    "added_tokens.0.content": tokenizer_json("added_tokens", 0, "content", value=None),
    "pre_tokenizer": tokenizer_json("pre_tokenizer", value="ByteLevel"),
    "pre_tokenizer.pretokenizers": tokenizer_json("pre_tokenizer", "pretokenizers", value=None),
    "pre_tokenizer.pretokenizers.0.type": tokenizer_json("pre_tokenizer", "pretokenizers", value=[{"type": {}}]),
    "normalizer.normalizers": tokenizer_json("normalizer", value={"type": "Sequence", "normalizers": 5}),
    "post_processor.single": tokenizer_json("post_processor", value={**PROCESSOR, "single": 5}),
    "post_processor.single.0.SpecialToken": tokenizer_json("post_processor", "single", value=[{"SpecialToken": "x"}]),
    "post_processor.special_tokens.x": tokenizer_json(
        "post_processor", value={**PROCESSOR, "special_tokens": {"x": 1.5}}
    ),
    "post_processor.processors.0": tokenizer_json("post_processor", value={"processors": [3]}),
    "added_tokens_decoder": configured("tokenizer_config.json", added_tokens_decoder="x"),
    "added_tokens_decoder.x": configured("tokenizer_config.json", added_tokens_decoder={"x": {"content": "a"}}),
    "added_tokens_decoder.5": configured("tokenizer_config.json", added_tokens_decoder={"5": "a"}),
    "model_max_length": configured("tokenizer_config.json", model_max_length=[]),
    "eos_token": configured("tokenizer_config.json", eos_token=5),
    "eos_token.content": configured("tokenizer_config.json", eos_token={"content": 5}),
    "extra_special_tokens.0": configured("tokenizer_config.json", extra_special_tokens=[5]),
    "add_bos_token": configured("tokenizer_config.json", add_bos_token="yes"),
    "chat_template.0.template": configured("tokenizer_config.json", chat_template=[{"name": "default"}]),
    "eos_token_id": configured("generation_config.json", eos_token_id={"a": 1}),
    "eos_token_id.1": configured("generation_config.json", eos_token_id=[1, "2"]),
    "<tool>": configured("added_tokens.json", **{"<tool>": "5"}),
    "pad_token": configured("special_tokens_map.json", pad_token=[]),
    "chat_template": configured("chat_template.json", chat_template=7),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_types(folder: Path, key: str) -> None:
    WRONG[key](folder)
    with pytest.raises(TokenizerError) as raised:
        read_vocabulary(folder, {})
    shown = str(raised.value)
    assert key in shown or key.removesuffix(".template") in shown
    assert ".json" in shown or key == "model.vocab"


@pytest.mark.parametrize(
    "config", [{"eos_token_id": "2"}, {"bos_token_id": 1.5}, {"text_config": {"eos_token_id": {}}}]
)
def test_wrong_types_in_config_json(folder: Path, config: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"config\.json cannot be used: .*_token_id is .*, not a whole number"):
        read_vocabulary(folder, config)


def test_usual_oddities_are_no_mistakes(folder: Path) -> None:
    """What real repositories hold beside what is needed."""
    edit(
        folder / "tokenizer_config.json",
        model_max_length=1000000000000000019884624838656,
        chat_template=None,
        unk_token=None,
        add_eos_token=None,
        additional_special_tokens=[],
        clean_up_tokenization_spaces="no",
        extra_special_tokens={},
    )
    edit(folder / "generation_config.json", eos_token_id=None, pad_token_id=-1)
    assert read_vocabulary(folder, {"pad_token_id": -1, "text_config": None}).specials == {"bos": 0, "eos": 1}


def test_a_pattern_without_end_is_one_error(tmp_path: Path) -> None:
    from hubquant.calibration import build as tokenize
    from hubquant.models import load_tokenizer
    from hubquant.models.tiny import build
    from hubquant.recipe.schema import TextSource

    path = build("llama", tmp_path / "model", hidden_size=64, intermediate_size=64) / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$"
    path.write_text(json.dumps(content))
    (tmp_path / "text").write_text("a" * 60 + "b")
    with pytest.raises(TokenizerError, match="fails on a text"):
        tokenize([TextSource(file=str(tmp_path / "text"))], load_tokenizer(path.parent), 8, 2, 0)


def test_panics_of_the_library(folder: Path) -> None:
    put(folder / "tokenizer.json", ("normalizer",), {"type": "Precompiled"})
    with pytest.raises(TokenizerError, match=r"cannot be loaded: Precompiled: .*missing field"):
        load_tokenizer(folder)
