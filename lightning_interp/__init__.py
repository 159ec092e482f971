"""Watch what a CNN learns while PyTorch Lightning trains it.

Add a callback to the ``Trainer`` (:class:`NetworkDissection`), or dissect a finished network
(:func:`dissect`); the probe sets are in :mod:`lightning_interp.data`.
"""

from lightning_interp.callbacks.dissection import NetworkDissection
from lightning_interp.data import (
    Broden,
    Concept,
    Labels,
    PetProbe,
    ProbeItem,
    ProbeSet,
    RenderedFaces,
    SegmentationFolder,
    VOCProbe,
)
from lightning_interp.dissect import dissect
from lightning_interp.errors import DatasetError, InterpError, LayerError, MissingExtraError, ProbeError
from lightning_interp.logging.files import load_result, save_result
from lightning_interp.results import DissectionResult, LayerDissection
from lightning_interp.schedule import Every

__version__ = "0.1.0"

__all__ = [
    "Broden",
    "Concept",
    "DatasetError",
    "DissectionResult",
    "Every",
    "InterpError",
    "Labels",
    "LayerDissection",
    "LayerError",
    "MissingExtraError",
    "NetworkDissection",
    "PetProbe",
    "ProbeError",
    "ProbeItem",
    "ProbeSet",
    "RenderedFaces",
    "SegmentationFolder",
    "VOCProbe",
    "dissect",
    "load_result",
    "save_result",
]
