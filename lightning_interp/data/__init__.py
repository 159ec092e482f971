"""Probe sets: images with label planes, image-level labels, and what else is known of them."""

from lightning_interp.data.faces.make_up import Recoloured, recolour
from lightning_interp.data.faces.probe import RenderedFaces
from lightning_interp.data.faces.render import render
from lightning_interp.data.group_sampler import GroupBalancedSampler
from lightning_interp.data.landmarks import part_landmarks
from lightning_interp.data.loading import ShardSampler
from lightning_interp.data.probe import Concept, Labels, ProbeItem, ProbeSet
from lightning_interp.data.readers.adapters import PetProbe, VOCProbe
from lightning_interp.data.readers.animal_part import AnimalPart
from lightning_interp.data.readers.broden import Broden
from lightning_interp.data.readers.celeba import CelebA, CelebAMaskHQ
from lightning_interp.data.readers.cub200_parts import CUB200Parts
from lightning_interp.data.readers.face_parts import FacesWithParts
from lightning_interp.data.readers.files import write_manifest
from lightning_interp.data.readers.folder import SegmentationFolder
from lightning_interp.data.readers.group_csv import GroupCSV
from lightning_interp.data.readers.voc_parts import VOCParts
from lightning_interp.data.regions import LandmarkRegions, PartRegions

__all__ = [
    "AnimalPart",
    "Broden",
    "CUB200Parts",
    "CelebA",
    "CelebAMaskHQ",
    "Concept",
    "FacesWithParts",
    "GroupBalancedSampler",
    "GroupCSV",
    "Labels",
    "LandmarkRegions",
    "PartRegions",
    "PetProbe",
    "ProbeItem",
    "ProbeSet",
    "Recoloured",
    "RenderedFaces",
    "SegmentationFolder",
    "ShardSampler",
    "VOCParts",
    "VOCProbe",
    "part_landmarks",
    "recolour",
    "render",
    "write_manifest",
]
