"""Files that a language model sees and hears with, beside its own: llama.cpp's mmproj."""

from hubquant.convert.projectors.audio_flamingo3 import AUDIO_FLAMINGO3
from hubquant.convert.projectors.gemma3 import GEMMA3
from hubquant.convert.projectors.gemma4 import GEMMA4
from hubquant.convert.projectors.gemma4_unified import GEMMA4_UNIFIED
from hubquant.convert.projectors.glm4v import GLM4V, GLM_OCR
from hubquant.convert.projectors.hunyuan_vl import HUNYUAN_VL
from hubquant.convert.projectors.idefics3 import IDEFICS3
from hubquant.convert.projectors.internvl import INTERNVL, INTERNVL_CHAT
from hubquant.convert.projectors.janus import JANUS
from hubquant.convert.projectors.kimi import KIMI_K2_5, KIMI_VL
from hubquant.convert.projectors.lfm2_vl import LFM2_VL
from hubquant.convert.projectors.lighton_ocr import LIGHTON_OCR
from hubquant.convert.projectors.llama4 import LLAMA4
from hubquant.convert.projectors.llava import LLAVA, LLAVA_NEXT
from hubquant.convert.projectors.minicpm_v import MINICPM_V
from hubquant.convert.projectors.paddleocr_vl import PADDLEOCR_VL
from hubquant.convert.projectors.pixtral import PIXTRAL
from hubquant.convert.projectors.projector import Projector
from hubquant.convert.projectors.qwen2_audio import QWEN2_AUDIO
from hubquant.convert.projectors.qwen3_asr import QWEN3_ASR
from hubquant.convert.projectors.qwen3_vl import QWEN3_VL
from hubquant.convert.projectors.qwen_vl import QWEN2_5_VL, QWEN2_VL
from hubquant.convert.projectors.ultravox import ULTRAVOX

PROJECTORS: tuple[Projector, ...] = (
    AUDIO_FLAMINGO3,
    GEMMA3,
    GEMMA4,
    GEMMA4_UNIFIED,
    GLM4V,
    GLM_OCR,
    HUNYUAN_VL,
    IDEFICS3,
    INTERNVL,
    INTERNVL_CHAT,
    JANUS,
    KIMI_K2_5,
    KIMI_VL,
    LFM2_VL,
    LIGHTON_OCR,
    LLAMA4,
    LLAVA,
    LLAVA_NEXT,
    MINICPM_V,
    PADDLEOCR_VL,
    PIXTRAL,
    QWEN2_AUDIO,
    QWEN3_ASR,
    QWEN2_VL,
    QWEN2_5_VL,
    QWEN3_VL,
    ULTRAVOX,
)
CLASSES = tuple(sorted({name for each in PROJECTORS for name in each.classes}))
"""Transformers' names of whole models."""
ELSEWHERE = ULTRAVOX.classes
"""Of these the language model may be in another repository."""
