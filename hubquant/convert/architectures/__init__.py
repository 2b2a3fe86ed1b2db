"""The architectures hubquant converts. Adding one is a module beside these and a line in ``ARCHITECTURES``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures.afmoe import AFMOE
from hubquant.convert.architectures.apertus import APERTUS
from hubquant.convert.architectures.arcee import ARCEE
from hubquant.convert.architectures.bailing_moe import BAILING_MOE2, SARVAM_MOE
from hubquant.convert.architectures.bamba import BAMBA
from hubquant.convert.architectures.bert import BERT, BERT_RERANKER
from hubquant.convert.architectures.bitnet import BITNET, BITNET_OWN
from hubquant.convert.architectures.bloom import BLOOM
from hubquant.convert.architectures.chatglm import CHATGLM_OWN
from hubquant.convert.architectures.codeshell import CODESHELL
from hubquant.convert.architectures.cohere import COHERE, COHERE2
from hubquant.convert.architectures.cohere2_moe import COHERE2_MOE
from hubquant.convert.architectures.dbrx import DBRX
from hubquant.convert.architectures.deci import DECI
from hubquant.convert.architectures.deepseek import DEEPSEEK2, DEEPSEEK3, GLM4_MOE_LITE
from hubquant.convert.architectures.deepseek4 import DEEPSEEK4
from hubquant.convert.architectures.deepseek_moe import BAILING_MOE, DEEPSEEK
from hubquant.convert.architectures.dflash import DFLASH
from hubquant.convert.architectures.distilbert import DISTILBERT
from hubquant.convert.architectures.dots1 import DOTS1
from hubquant.convert.architectures.eagle3 import EAGLE3
from hubquant.convert.architectures.ernie4_5 import ERNIE4_5, ERNIE4_5_MOE
from hubquant.convert.architectures.eurobert import EUROBERT
from hubquant.convert.architectures.exaone4 import EXAONE4
from hubquant.convert.architectures.exaone_moe import EXAONE_MOE
from hubquant.convert.architectures.falcon import FALCON
from hubquant.convert.architectures.falcon_h1 import FALCON_H1
from hubquant.convert.architectures.gemma import GEMMA, GEMMA2, GEMMA3
from hubquant.convert.architectures.gemma3n import GEMMA3N
from hubquant.convert.architectures.gemma4 import GEMMA4
from hubquant.convert.architectures.gemma4_assistant import GEMMA4_ASSISTANT
from hubquant.convert.architectures.gemma_embedding import GEMMA_EMBEDDING
from hubquant.convert.architectures.glm4 import CHATGLM, GLM4, GLM4_V, GLM_OCR
from hubquant.convert.architectures.glm4_moe import GLM4_MOE, GLM4_V_MOE, SOLAR_OPEN
from hubquant.convert.architectures.gpt2 import GPT2
from hubquant.convert.architectures.gpt_oss import GPT_OSS
from hubquant.convert.architectures.gptneox import GPTNEOX
from hubquant.convert.architectures.granite import GRANITE, GRANITE_MOE, GRANITE_MOE_SHARED
from hubquant.convert.architectures.granite_hybrid import GRANITE_4, GRANITE_HYBRID
from hubquant.convert.architectures.granite_swa import GRANITE_MOE_SWA, GRANITE_SWA
from hubquant.convert.architectures.grok import GROK
from hubquant.convert.architectures.hunyuan import HUNYUAN_DENSE, HUNYUAN_MOE, HUNYUAN_VL
from hubquant.convert.architectures.hy_v3 import HY_V3
from hubquant.convert.architectures.internlm2 import INTERNLM2
from hubquant.convert.architectures.internlm3 import INTERNLM3
from hubquant.convert.architectures.iquestcoder import IQUESTCODER
from hubquant.convert.architectures.jais2 import JAIS2
from hubquant.convert.architectures.jamba import JAMBA
from hubquant.convert.architectures.jina_bert import JINA_BERT_V2, JINA_BERT_V3
from hubquant.convert.architectures.jina_v5 import JINA_V5_NANO, JINA_V5_SMALL
from hubquant.convert.architectures.kimi_linear import KIMI_LINEAR
from hubquant.convert.architectures.laguna import LAGUNA
from hubquant.convert.architectures.lfm2 import LFM2, LFM2_MOE
from hubquant.convert.architectures.llama import LLAMA
from hubquant.convert.architectures.llama4 import LLAMA4
from hubquant.convert.architectures.mamba import FALCON_MAMBA, MAMBA, MAMBA2
from hubquant.convert.architectures.mellum import MELLUM
from hubquant.convert.architectures.mimo2 import MIMO2
from hubquant.convert.architectures.minicpm import MINICPM
from hubquant.convert.architectures.minicpm3 import MINICPM3
from hubquant.convert.architectures.minimax_01 import MINIMAX_01, MINIMAX_01_OWN
from hubquant.convert.architectures.minimax_m2 import MINIMAX_M2
from hubquant.convert.architectures.minimax_m3 import MINIMAX_M3
from hubquant.convert.architectures.ministral3 import MINISTRAL3
from hubquant.convert.architectures.mistral import MISTRAL
from hubquant.convert.architectures.mistral4 import MISTRAL4
from hubquant.convert.architectures.mixtral import MIXTRAL
from hubquant.convert.architectures.modern_bert import MODERN_BERT, MODERN_BERT_RERANKER
from hubquant.convert.architectures.mpt import MPT
from hubquant.convert.architectures.nemotron import NEMOTRON
from hubquant.convert.architectures.nemotron_h import NEMOTRON_H, NEMOTRON_H_MOE
from hubquant.convert.architectures.neo_bert import NEO_BERT
from hubquant.convert.architectures.nomic_bert import NOMIC_BERT, NOMIC_BERT_MOE
from hubquant.convert.architectures.olmo import OLMO, OLMO2, OLMO3
from hubquant.convert.architectures.olmoe import OLMOE
from hubquant.convert.architectures.openelm import OPENELM
from hubquant.convert.architectures.own_diffusion import DREAM, LLADA, LLADA_MOE, RND1
from hubquant.convert.architectures.own_llamas import BAICHUAN, EXAONE, MAINCODER, ORION, PANGU, XVERSE
from hubquant.convert.architectures.paddleocr import PADDLEOCR
from hubquant.convert.architectures.phi2 import PHI2
from hubquant.convert.architectures.phi3 import PHI3
from hubquant.convert.architectures.plamo import PLAMO2
from hubquant.convert.architectures.plamo1 import PLAMO
from hubquant.convert.architectures.plamo3 import PLAMO3
from hubquant.convert.architectures.qwen import QWEN
from hubquant.convert.architectures.qwen2 import DOTS_OCR, QWEN2
from hubquant.convert.architectures.qwen3 import QWEN3
from hubquant.convert.architectures.qwen3_5 import QWEN3_5, QWEN3_5_MOE
from hubquant.convert.architectures.qwen3_next import QWEN3_NEXT
from hubquant.convert.architectures.qwen3_reranker import QWEN3_RERANKER
from hubquant.convert.architectures.qwen_moe import QWEN2_MOE, QWEN3_MOE
from hubquant.convert.architectures.qwen_vl import QWEN2_VL, QWEN3_VL, QWEN3_VL_MOE
from hubquant.convert.architectures.rwkv import RWKV6, RWKV7
from hubquant.convert.architectures.rwkv6_qwen2 import RWKV6_QWEN2
from hubquant.convert.architectures.seed_oss import SEED_OSS
from hubquant.convert.architectures.smollm3 import SMOLLM3
from hubquant.convert.architectures.sparse_attention import DEEPSEEK32, GLM_MOE_DSA
from hubquant.convert.architectures.stablelm import STABLELM
from hubquant.convert.architectures.starcoder import STARCODER
from hubquant.convert.architectures.starcoder2 import STARCODER2
from hubquant.convert.architectures.step35 import STEP35
from hubquant.convert.architectures.t5 import T5, UMT5
from hubquant.convert.architectures.youtu import YOUTU
from hubquant.convert.rules.rule import Settings
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata
from hubquant.models.identify import nearest_hint

ARCHITECTURES: tuple[Architecture, ...] = (
    *(LLAMA, LLAMA4, MISTRAL, MIXTRAL, IQUESTCODER, INTERNLM2, INTERNLM3, SMOLLM3),
    *(QWEN2, QWEN2_MOE, QWEN3_RERANKER, QWEN3, QWEN3_MOE, QWEN3_NEXT, QWEN3_5, QWEN3_5_MOE),
    *(QWEN2_VL, QWEN3_VL, QWEN3_VL_MOE, GLM_OCR, HUNYUAN_VL, PADDLEOCR),
    *(GEMMA, GEMMA2, GEMMA3, GEMMA3N, GEMMA4),
    *(GRANITE, GRANITE_MOE, GRANITE_MOE_SHARED, GRANITE_4, GRANITE_HYBRID, BAMBA, GRANITE_SWA, GRANITE_MOE_SWA),
    *(OLMO, OLMO2, OLMO3, OLMOE),
    *(BITNET, BLOOM, DBRX, FALCON, GPT2, GPTNEOX, MPT),
    *(
        DEEPSEEK2,
        DEEPSEEK3,
        DEEPSEEK32,
        DEEPSEEK4,
        GLM4_MOE,
        GLM4_V_MOE,
        GLM4_MOE_LITE,
        GLM_MOE_DSA,
        YOUTU,
        MISTRAL4,
        GPT_OSS,
        MINISTRAL3,
    ),
    *(AFMOE, APERTUS, ARCEE, BAILING_MOE2, DOTS1, ERNIE4_5, ERNIE4_5_MOE, EXAONE_MOE),
    *(
        HUNYUAN_DENSE,
        HUNYUAN_MOE,
        HY_V3,
        KIMI_LINEAR,
        LAGUNA,
        MELLUM,
        MIMO2,
        MINIMAX_01,
        MINIMAX_M2,
        MINIMAX_M3,
        SEED_OSS,
        SOLAR_OPEN,
    ),
    *(COHERE, COHERE2, COHERE2_MOE),
    *(MAMBA, FALCON_MAMBA, MAMBA2, JAMBA, LFM2, LFM2_MOE, FALCON_H1, NEMOTRON_H_MOE, NEMOTRON_H),
    *(CHATGLM, EXAONE4, GLM4, GLM4_V, JAIS2, MINICPM, MINICPM3, NEMOTRON, PHI2, PHI3, STABLELM, STARCODER, STARCODER2),
    *(
        BAICHUAN,
        BITNET_OWN,
        CHATGLM_OWN,
        CODESHELL,
        DECI,
        EXAONE,
        GROK,
        MAINCODER,
        MINIMAX_01_OWN,
        OPENELM,
        ORION,
        PANGU,
        PLAMO,
        PLAMO2,
        PLAMO3,
        QWEN,
        RWKV6,
        RWKV6_QWEN2,
        RWKV7,
        XVERSE,
    ),
    *(
        BAILING_MOE,
        DEEPSEEK,
        SARVAM_MOE,
        STEP35,
        DOTS_OCR,
        DREAM,
        LLADA,
        LLADA_MOE,
        RND1,
        DFLASH,
        EAGLE3,
        GEMMA4_ASSISTANT,
    ),
    *(JINA_BERT_V3, JINA_BERT_V2, JINA_V5_NANO, JINA_V5_SMALL),
    *(BERT, BERT_RERANKER, DISTILBERT, EUROBERT, GEMMA_EMBEDDING),
    *(MODERN_BERT, MODERN_BERT_RERANKER, NEO_BERT, NOMIC_BERT_MOE, NOMIC_BERT, T5, UMT5),
)


_READ_AS = {"baichuan": LLAMA, "internlm2": LLAMA}
"""By llama.cpp's name, the family whose tensors a file has, where transformers lacks the code of its own."""
REFUSED = {
    "PhiMoEForCausalLM": "its norms take the mean off and its router masks what is far from the best expert "
    "(sparsemixer), while llama.cpp does neither",
    "MiMoV2ForCausalLM": "queries, keys and values are one FP8 matrix, cut and scaled by the devices that it was "
    "trained on, of which no setting tells how many, and transformers lacks its code",
    "Grok1ForCausalLM": "Grok 2 caps its router's logits (router_logit_softcapping), while llama.cpp's are the same "
    "whatever the cap",
}
"""Classes that llama.cpp's converter takes, and why they are not converted."""
CLASSES = tuple(name for each in ARCHITECTURES for name in each.classes)
WITHOUT_CODE = tuple(name for each in ARCHITECTURES if each.own_code for name in each.classes)
DRAFTERS = tuple(name for each in ARCHITECTURES if each.drafts for name in each.classes)
QUANTIZED = tuple(sorted({method for each in ARCHITECTURES for method in each.quantized}))
"""Methods of quantization whose weights some architecture reads as they are."""


def of_checkpoint(settings: Settings) -> tuple[Architecture, str]:
    """The architecture of a config.json and its transformers model type; ``NotSupportedYet`` for others."""
    # of one class or type, the first counts: the plain language model stands before those that see
    fitting = [each for each in reversed(ARCHITECTURES) if each.takes(settings)]
    known = {name: (each, model_type) for each in fitting for name, model_type in each.classes.items()}
    names = settings.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        if names[0] in known:
            return known[names[0]]
        if same := [each for name, each in known.items() if name.lower() == names[0].lower()]:
            return same[0]
        if isinstance(other := settings.get("text_model_id"), str):  # as Ultravox has it
            raise NotSupportedYet(
                f"the language model of {names[0]} in a repository of its own",
                why=f"it is {other}, and this one has what hears for it",
                hint=f"convert {other}, and this one with --mmproj",
            )
        if why := next((why for name, why in REFUSED.items() if name.lower() == names[0].lower()), None):
            raise NotSupportedYet(
                f"architecture {names[0]!r}",
                why=why,
                hint="no option helps: llama.cpp would compute another model",
            )
        if not is_base_class(settings):
            raise _unknown(names[0], CLASSES)
    by_type = {kind: (each, kind) for each, kind in known.values() if not each.own_code}
    model_type = settings.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(
            "config.json names neither architectures nor a model_type", hint="check that this is a transformers model"
        )
    if model_type in by_type:
        return by_type[model_type]
    raise _unknown(model_type, list(by_type))


def is_base_class(settings: Settings) -> bool:
    """Whether the model was saved as transformers' ``AutoModel`` has it: without what comes after the last layer."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    names, base = settings.get("architectures"), MODEL_MAPPING_NAMES.get(str(settings.get("model_type")))
    return isinstance(names, list) and bool(names) and base is not None and names[0] == base


def of_gguf(name: str, metadata: Metadata, tensors: Collection[str]) -> Architecture:
    """The architecture that reads files back with ``name`` as ``general.architecture``.

    ``metadata`` is the file's under that name, without it, and ``tensors`` are its names. Raises ``NotSupportedYet``
    for a name that is not known.
    """
    if name in _READ_AS:
        return replace(_READ_AS[name], name=name)
    named = [each for each in ARCHITECTURES if each.name == name]
    if not named:
        raise _unknown(name, sorted({each.name for each in ARCHITECTURES}))
    marked = [each for each in named if each.marker is not None and each.marks(metadata, tensors)]
    return (marked or [each for each in named if each.marker is None])[0]


def _unknown(name: str, known: Sequence[str]) -> NotSupportedYet:
    return NotSupportedYet(f"architecture {name[:80]!r}", hint=nearest_hint(name, known))
