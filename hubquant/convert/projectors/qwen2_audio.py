"""Qwen2-Audio: Whisper's encoder, of whose states two become one embedding."""

from hubquant.convert.projectors import whisper
from hubquant.convert.projectors.projector import Projector
from hubquant.convert.projectors.vision import TOWER, weight

QWEN2_AUDIO = Projector(
    classes=("Qwen2AudioForConditionalGeneration",),
    metadata=lambda model: whisper.metadata(model, "qwen2a"),
    dimensions=whisper.dimensions,
    outside=lambda _: (
        *whisper.OUTSIDE,
        weight("multi_modal_projector.linear", "n_out", "n_embd", "mm.a.fc", bias=True),
    ),
    layer=whisper.LAYER,
    layers=whisper.LAYERS,
    encoder="a",
    renames=(TOWER,),
)
