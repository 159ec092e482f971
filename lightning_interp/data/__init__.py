"""Probe sets: images with label planes, image-level labels, and what else is known of them."""

from lightning_interp.data.adapters import PetProbe, VOCProbe
from lightning_interp.data.broden import Broden
from lightning_interp.data.faces import RenderedFaces
from lightning_interp.data.files import write_manifest
from lightning_interp.data.folder import SegmentationFolder
from lightning_interp.data.probe import Concept, Labels, ProbeItem, ProbeSet
from lightning_interp.data.render import render
from lightning_interp.data.sampler import ShardSampler

__all__ = [
    "Broden",
    "Concept",
    "Labels",
    "PetProbe",
    "ProbeItem",
    "ProbeSet",
    "RenderedFaces",
    "SegmentationFolder",
    "ShardSampler",
    "VOCProbe",
    "render",
    "write_manifest",
]
