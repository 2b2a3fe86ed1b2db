"""Calibration and evaluation text: sources, chat templates, chunks of tokens."""

from hubquant.calibration.chunks import Chunks, build
from hubquant.calibration.overlap import Overlap, overlap
from hubquant.calibration.sources import documents, fingerprint, read_text

__all__ = ["Chunks", "Overlap", "build", "documents", "fingerprint", "overlap", "read_text"]
