"""Watch what a CNN learns while PyTorch Lightning trains it.

Add callbacks to the ``Trainer`` (:class:`NetworkDissection`, :class:`ContextBias`, :class:`RightReasons`), or look at
a finished network (:func:`dissect`, :func:`diagnose`); the probe sets are in :mod:`lightning_interp.data`.
"""

from lightning_interp.bias import diagnose
from lightning_interp.bias_results import BiasResult
from lightning_interp.callbacks.context_bias import ContextBias
from lightning_interp.callbacks.dissection import NetworkDissection
from lightning_interp.callbacks.right_reasons import RightReasons
from lightning_interp.data import (
    Broden,
    CelebA,
    CelebAMaskHQ,
    Concept,
    FacesWithParts,
    GroupCSV,
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
from lightning_interp.logging.bias_files import load_bias, save_bias
from lightning_interp.logging.files import load_result, save_result
from lightning_interp.results import DissectionResult, LayerDissection
from lightning_interp.schedule import Every

__version__ = "0.1.0"

__all__ = [
    "BiasResult",
    "Broden",
    "CelebA",
    "CelebAMaskHQ",
    "Concept",
    "ContextBias",
    "DatasetError",
    "DissectionResult",
    "Every",
    "FacesWithParts",
    "GroupCSV",
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
    "RightReasons",
    "SegmentationFolder",
    "VOCProbe",
    "diagnose",
    "dissect",
    "load_bias",
    "load_result",
    "save_bias",
    "save_result",
]
