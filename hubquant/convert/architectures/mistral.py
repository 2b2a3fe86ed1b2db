"""Mistral, which is Llama to llama.cpp, without a window."""

from dataclasses import replace

from hubquant.convert.architectures.llama import LLAMA
from hubquant.convert.rules.windows import DroppedWindow

MISTRAL = replace(LLAMA, classes={"MistralForCausalLM": "mistral"}, rules=(*LLAMA.rules, DroppedWindow()))
