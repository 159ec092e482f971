"""Probe sets: images with label planes, image-level labels, and what else is known of them."""

from lightning_interp.data.adapters import PetProbe, VOCProbe
from lightning_interp.data.animal_part import AnimalPart
from lightning_interp.data.broden import Broden
from lightning_interp.data.celeba import CelebA, CelebAMaskHQ
from lightning_interp.data.cub200_parts import CUB200Parts
from lightning_interp.data.face_parts import FacesWithParts
from lightning_interp.data.faces import RenderedFaces
from lightning_interp.data.files import write_manifest
from lightning_interp.data.folder import SegmentationFolder
from lightning_interp.data.group_csv import GroupCSV
from lightning_interp.data.group_sampler import GroupBalancedSampler
from lightning_interp.data.part_landmarks import part_landmarks
from lightning_interp.data.part_regions import LandmarkRegions, PartRegions
from lightning_interp.data.probe import Concept, Labels, ProbeItem, ProbeSet
from lightning_interp.data.recolour import Recoloured, recolour
from lightning_interp.data.render import render
from lightning_interp.data.sampler import ShardSampler
from lightning_interp.data.voc_parts import VOCParts

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
