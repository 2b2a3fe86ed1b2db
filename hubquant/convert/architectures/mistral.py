"""Mistral, which is Llama to llama.cpp: its converter does not write the sliding window either."""

from dataclasses import replace

from hubquant.convert.architectures.llama import LLAMA

MISTRAL = replace(LLAMA, classes={"MistralForCausalLM": "mistral"})
