"""Watch what a CNN learns while PyTorch Lightning trains it.

Add callbacks to the ``Trainer``, to watch (:class:`NetworkDissection`, :class:`ContextBias`,
:class:`LocationInstability`, :class:`PartInterpretability`, :class:`ExplanatoryGraph`) or to train otherwise
(:class:`RightReasons`, :class:`InterpretableFilters`), or look at a finished network (:func:`dissect`,
:func:`diagnose`, :func:`measure_parts`, :func:`explanatory_graph`); the probe sets are in :mod:`lightning_interp.data`.
"""

from lightning_interp.bias import diagnose
from lightning_interp.bias_results import BiasResult
from lightning_interp.callbacks.context_bias import ContextBias
from lightning_interp.callbacks.dissection import NetworkDissection
from lightning_interp.callbacks.explanatory_graph import ExplanatoryGraph
from lightning_interp.callbacks.interpretable_filters import InterpretableFilters
from lightning_interp.callbacks.location import LocationInstability
from lightning_interp.callbacks.part_interpretability import PartInterpretability
from lightning_interp.callbacks.right_reasons import RightReasons
from lightning_interp.data import (
    AnimalPart,
    Broden,
    CelebA,
    CelebAMaskHQ,
    Concept,
    CUB200Parts,
    FacesWithParts,
    GroupCSV,
    Labels,
    PetProbe,
    ProbeItem,
    ProbeSet,
    RenderedFaces,
    SegmentationFolder,
    VOCParts,
    VOCProbe,
)
from lightning_interp.dissect import dissect
from lightning_interp.errors import (
    DatasetError,
    InterpError,
    LayerError,
    MissingExtraError,
    ProbeError,
    ResponseError,
)
from lightning_interp.graph_engine import explanatory_graph
from lightning_interp.graph_results import GraphResult, Inference, LayerPatterns, PatternLayer
from lightning_interp.graphs.options import GraphOptions
from lightning_interp.logging.bias_files import load_bias, save_bias
from lightning_interp.logging.files import load_result, save_result
from lightning_interp.logging.part_files import load_parts, save_parts
from lightning_interp.part_results import LayerParts, PartResult
from lightning_interp.parts import measure_parts
from lightning_interp.probing.occlusion_fields import OcclusionFields, occlusion_fields
from lightning_interp.results import DissectionResult, LayerDissection
from lightning_interp.schedule import Every

__version__ = "0.1.0"

__all__ = [
    "AnimalPart",
    "BiasResult",
    "Broden",
    "CUB200Parts",
    "CelebA",
    "CelebAMaskHQ",
    "Concept",
    "ContextBias",
    "DatasetError",
    "DissectionResult",
    "Every",
    "ExplanatoryGraph",
    "FacesWithParts",
    "GraphOptions",
    "GraphResult",
    "GroupCSV",
    "Inference",
    "InterpError",
    "InterpretableFilters",
    "Labels",
    "LayerDissection",
    "LayerError",
    "LayerParts",
    "LayerPatterns",
    "LocationInstability",
    "MissingExtraError",
    "NetworkDissection",
    "OcclusionFields",
    "PartInterpretability",
    "PartResult",
    "PatternLayer",
    "PetProbe",
    "ProbeError",
    "ProbeItem",
    "ProbeSet",
    "RenderedFaces",
    "ResponseError",
    "RightReasons",
    "SegmentationFolder",
    "VOCParts",
    "VOCProbe",
    "diagnose",
    "dissect",
    "explanatory_graph",
    "load_bias",
    "load_parts",
    "load_result",
    "measure_parts",
    "occlusion_fields",
    "save_bias",
    "save_parts",
    "save_result",
]
