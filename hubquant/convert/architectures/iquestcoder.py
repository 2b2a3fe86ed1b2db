"""IQuest-Coder, which is Llama to transformers and llama.cpp, with other defaults."""

from dataclasses import replace

from hubquant.convert.architectures.llama import LLAMA

IQUESTCODER = replace(LLAMA, classes={"IQuestCoderForCausalLM": "iquestcoder"})
