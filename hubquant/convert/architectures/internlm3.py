"""InternLM3, which is Llama to llama.cpp."""

from dataclasses import replace

from hubquant.convert.architectures.llama import LLAMA

INTERNLM3 = replace(LLAMA, classes={"InternLM3ForCausalLM": "internlm3"})
