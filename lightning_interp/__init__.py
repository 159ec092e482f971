"""Watch what a CNN learns while PyTorch Lightning trains it.

Add callbacks to the ``Trainer``, to watch (:class:`NetworkDissection`, :class:`ContextBias`,
:class:`LocationInstability`, :class:`PartInterpretability`, :class:`ExplanatoryGraph`) or to train otherwise
(:class:`RightReasons`, :class:`InterpretableFilters`), or look at a finished network (:func:`dissect`,
:func:`diagnose`, :func:`measure_parts`, :func:`explanatory_graph`); the probe sets are in :mod:`lightning_interp.data`.
"""

from lightning_interp._moved import keep_old_paths
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
from lightning_interp.errors import (
    DatasetError,
    InterpError,
    LayerError,
    MissingExtraError,
    ProbeError,
    ResponseError,
)
from lightning_interp.methods.bias.callback import ContextBias
from lightning_interp.methods.bias.engine import diagnose
from lightning_interp.methods.bias.files import load_bias, save_bias
from lightning_interp.methods.bias.result import BiasResult
from lightning_interp.methods.dissection.callback import NetworkDissection
from lightning_interp.methods.dissection.engine import dissect
from lightning_interp.methods.dissection.files import load_result, save_result
from lightning_interp.methods.dissection.result import DissectionResult, LayerDissection
from lightning_interp.methods.fields.engine import OcclusionFields, occlusion_fields
from lightning_interp.methods.filters.callback import InterpretableFilters
from lightning_interp.methods.graph.callback import ExplanatoryGraph
from lightning_interp.methods.graph.engine import explanatory_graph
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.patterns import Inference, LayerPatterns, PatternLayer
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.methods.parts.callback import LocationInstability, PartInterpretability
from lightning_interp.methods.parts.engine import measure_parts
from lightning_interp.methods.parts.files import load_parts, save_parts
from lightning_interp.methods.parts.result import LayerParts, PartResult
from lightning_interp.methods.right_reasons.callback import RightReasons
from lightning_interp.results.base import load
from lightning_interp.schedule import AtEnd, Every

__version__ = "0.2.0"

keep_old_paths()

__all__ = [
    "AnimalPart",
    "AtEnd",
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
    "load",
    "load_bias",
    "load_parts",
    "load_result",
    "measure_parts",
    "occlusion_fields",
    "save_bias",
    "save_parts",
    "save_result",
]
