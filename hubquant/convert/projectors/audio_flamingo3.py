"""Audio Flamingo 3: Whisper's encoder, of whose states two become one embedding."""

from hubquant.convert.projectors import vision, whisper
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.gguf_file.metadata import Metadata


def _metadata(model: Multimodal) -> Metadata:
    vision.check_gelu(model)
    vision.check_projector_bias(model)
    return whisper.metadata(model, "musicflamingo")


AUDIO_FLAMINGO3 = Projector(
    classes=("AudioFlamingo3ForConditionalGeneration",),
    metadata=_metadata,
    dimensions=whisper.dimensions,
    outside=lambda _: (
        *whisper.OUTSIDE,
        weight("multi_modal_projector.linear_1", "n_out", "n_embd", "mm.a.mlp.1", bias=True),
        weight("multi_modal_projector.linear_2", "n_out", "n_out", "mm.a.mlp.2", bias=True),
    ),
    layer=whisper.LAYER,
    layers=whisper.LAYERS,
    encoder="a",
    renames=(vision.TOWER,),
)
