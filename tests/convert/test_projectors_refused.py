"""Projectors that llama.cpp would compute otherwise are refused by the name of what does not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as CLASSES

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.projectors.conversion import plan_projector, projector_of
from hubquant.errors import NotSupportedYet
from tests.convert.test_projectors import MODELS, write_preprocessor
from tests.support.multimodal import describe

TURNED = {"rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gemma3", {"seeing": {"hidden_act": "relu"}}, "hidden_act 'relu'"),
    ("gemma3", {"seeing": {"image_size": [56, 70]}}, "image_size"),
    ("gemma4", {"seeing": {"num_key_value_heads": 1}}, "num_key_value_heads 1"),
    ("gemma4", {"seeing": {"rope_parameters": {"rope_type": "axial", "rope_theta": 10.0}}}, "rope_theta 10.0"),
    ("glm4v", {"seeing": {"spatial_merge_size": 4}}, "spatial_merge_size 4"),
    ("llama4", {"seeing": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}}, "rope_theta 100.0"),
    ("llava", {"whole": {"multimodal_projector_bias": False}}, "multimodal_projector_bias false"),
    ("llava", {"whole": {"vision_feature_select_strategy": "full"}}, "vision_feature_select_strategy 'full'"),
    ("llava_next", {"whole": {"vision_feature_layer": [-1, -2]}}, "vision_feature_layer [-1, -2]"),
    ("pixtral", {"seeing": TURNED}, "rope_theta 100.0"),
    ("pixtral", {"whole": {"vision_feature_layer": -2}}, "vision_feature_layer -2"),
    ("pixtral", {"whole": {"vision_feature_select_strategy": "default"}}, "vision_feature_select_strategy default"),
    ("pixtral", {"whole": {"projector_hidden_act": "silu"}}, "projector_hidden_act 'silu'"),
    ("mistral3", {"rms_norm_eps": 1e-6}, "rms_norm_eps 1e-06"),
    ("internvl", {"seeing": {"norm_type": "rms_norm"}}, "norm_type rms_norm"),
    ("internvl", {"seeing": {"use_qk_norm": True}}, "norm_type layer_norm with use_qk_norm"),
    ("janus", {"seeing": {"depth": 3}}, "depth 3"),
    ("hunyuan_vl", {"seeing": {"hidden_act": "silu"}}, "hidden_act silu"),
    ("hunyuan_vl", {"seeing": {"interpolate_mode": "bicubic"}}, "interpolate_mode bicubic"),
    ("hunyuan_vl", {"seeing": {"num_key_value_heads": 1}}, "num_key_value_heads 1"),
    ("hunyuan_vl", {"seeing": {"spatial_merge_size": 4}}, "spatial_merge_size 4"),
    ("kimi_k25", {"seeing": {"merge_kernel_size": [2, 4]}}, "merge_kernel_size [2, 4]"),
    ("kimi_k25", {"seeing": {"pos_emb_width": 16}}, "pos_emb_height, pos_emb_width [8, 16]"),
    ("kimi_k25", {"seeing": {"merge_type": "sd2"}}, "merge_type sd2"),
    ("kimi_k25", {"seeing": TURNED}, "rope_theta 100.0"),
    ("kimi_k25", {"whole": {"projection_layer_norm_eps": 1e-6}}, "projector_ln_eps 1e-06"),
    ("lfm2_vl", {"whole": {"projector_bias": False}}, "projector_bias false"),
    ("minicpm_v", {"whole": {"merger_times": 2}}, "merger_times 2"),
    ("minicpm_v", {"whole": {"downsample_mode": "2x"}}, "downsample_mode 2x"),
    ("minicpm_v", {"seeing": {"window_kernel_size": [4, 4]}}, "window_kernel_size [4, 4]"),
    ("minicpm_v", {"seeing": {"image_size": 224}}, "16 x 16 places"),
    ("paddleocr_vl", {"seeing": {"spatial_merge_size": 4}}, "spatial_merge_size 4"),
    ("paddleocr_vl", {"seeing": TURNED}, "rope_theta 100.0"),
    ("qwen2_vl", {"seeing": {"spatial_merge_size": 4}}, "spatial_merge_size 4"),
    ("qwen2_5_vl", {"seeing": {"fullatt_block_indexes": [1, 2]}}, "fullatt_block_indexes"),
    ("qwen2_5_vl", {"seeing": {"window_size": 56}}, "window_size 56"),
    ("qwen3_vl", {"seeing": {"temporal_patch_size": 4}}, "temporal_patch_size 4"),
    ("qwen3_vl", {"seeing": TURNED}, "rope_theta 100.0"),
]
"""Settings that llama.cpp does not compute."""


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_llama_cpp_does_not_compute(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    families, settings, _, _ = MODELS[name]
    parts = {part: settings.get(part, {}) | changes.get(part, {}) for part in ("seeing", "whole")}
    described = describe(*families, **(settings | changes | parts))
    config = described.to_dict() | {"architectures": [CLASSES[families[0]]]}
    projector = projector_of(config)
    assert projector is not None
    write_preprocessor(tmp_path)
    with pytest.raises(NotSupportedYet, match=re.escape(message)):
        plan_projector(projector, config, tmp_path, Checkpoint({}, {}, tmp_path))


@pytest.mark.parametrize(
    ("name", "processor"),
    [("smolvlm", {"max_image_size": {"longest_edge": 224}}), ("lfm2_vl", {"max_image_tokens": 512})],
)
def test_a_processor_that_llama_cpp_does_not_have(name: str, processor: dict[str, Any], tmp_path: Path) -> None:
    families, settings, _, _ = MODELS[name]
    config = describe(*families, **settings).to_dict() | {"architectures": [CLASSES[families[0]]]}
    projector = projector_of(config)
    assert projector is not None
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    with pytest.raises(NotSupportedYet, match=next(iter(processor))):
        plan_projector(projector, config, tmp_path, Checkpoint({}, {}, tmp_path))
