"""Chat templates are programs of strangers."""

from __future__ import annotations

import pytest

from hubquant.calibration.chat import ChatTemplate, prompt_format
from hubquant.errors import CalibrationError
from hubquant.models import load_tokenizer
from hubquant.models.tiny import build

HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}]
HOSTILE = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "3 seconds of computing",
    "{% set x = 'a' * 3000000000 %}": "MiB of memory",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "nested too deeply",
    "{{ 'a' * 99999999 }}": "characters",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{% if %}": "Expected an expression",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return load_tokenizer(build("llama", tmp_path_factory.mktemp("model")))


def test_it_renders_as_transformers_does(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content | tojson }}{% endfor %}"
    )
    template = ChatTemplate(tokenizer)
    assert template(HELLO) == template(HELLO) == tokenizer.apply_chat_template(HELLO, tokenize=False)


@pytest.mark.slow
@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_is_one_error(tokenizer, template: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = template + "{{ messages[0].content }}"
    with pytest.raises(CalibrationError, match=HOSTILE[template]):
        ChatTemplate(tokenizer)(HELLO)


def test_templates_without_a_default_are_one_error(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = {"rag": "x"}
    with pytest.raises(CalibrationError, match="no default"):
        ChatTemplate(tokenizer)


def test_a_folder_without_a_template(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = None
    with pytest.raises(CalibrationError, match="no chat template"):
        ChatTemplate(tokenizer)


PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
PROMPTS = {
    PLAIN: "<system>{system_prompt}</><user>{prompt}</>A:",
    "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN: "<user>{prompt}</>A:",
    "{{ strftime_now('%d %b %Y') }}: " + PLAIN: "{date}: <system>{system_prompt}</><user>{prompt}</>A:",
    "{{ raise_exception('no') }}": None,
    "{{ 'a' * 99999999 }}": None,
}


@pytest.mark.parametrize("template", PROMPTS)
def test_the_format_of_a_prompt(tokenizer, template: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = template
    assert prompt_format(tokenizer) == PROMPTS[template]


def test_without_a_template_there_is_no_format(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = None
    assert prompt_format(tokenizer) is None
