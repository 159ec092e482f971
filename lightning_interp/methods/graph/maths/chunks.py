"""The E-step and the search for units, in pieces that fit a budget of memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_interp.methods.graph.maths.mixture import Moments, Patterns, Taken, Units, explain, take

BYTE_BUDGET = 2**26
"""Bytes for intermediate values, by default; larger pieces are slower on CPUs, for they leave the caches."""


def _pieces(maps: Tensor, numbers: int, byte_budget: int) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of filters, the latter slowest, with so many numbers an image and filter at most."""
    images, filters = maps.shape[:2]
    most = max(byte_budget // (numbers * maps.element_size()), 1)
    rows = max(min(images, most), 1)
    columns = max(most // rows, 1)
    for first in range(0, filters, columns):
        for image in range(0, images, rows):
            yield slice(image, image + rows), slice(first, first + columns)


def explain_all(maps: Tensor, patterns: Patterns, units: Units, tau: float, byte_budget: int = BYTE_BUDGET) -> Moments:
    """As :func:`~lightning_interp.methods.graph.maths.mixture.explain`, piece by piece."""
    shape = patterns.level.shape
    mass, second = maps.new_empty(shape), maps.new_empty(shape)
    first = maps.new_empty(*shape, 2)
    likelihood = torch.zeros(len(maps), dtype=torch.float64, device=maps.device)
    height, width = maps.shape[2:]
    numbers = 6 * shape[2] * (height + width) + 4 * height * width
    for images, filters in _pieces(maps, numbers, byte_budget):
        found = explain(maps[images, filters], patterns.filters(filters).images(images), units, tau)
        mass[images, filters], first[images, filters], second[images, filters] = found[:3]
        likelihood[images] += found.likelihood
    return Moments(mass, first, second, likelihood)


def take_all(
    maps: Tensor, patterns: Patterns, units: Units, background: float, byte_budget: int = BYTE_BUDGET
) -> Taken:
    """As :func:`~lightning_interp.methods.graph.maths.mixture.take`, piece by piece."""
    shape = patterns.level.shape
    cell = torch.empty(shape, dtype=torch.int64, device=maps.device)
    score = maps.new_empty(shape)
    numbers = 2 * shape[2] * maps.shape[2] * maps.shape[3]
    for images, filters in _pieces(maps, numbers, byte_budget):
        found = take(maps[images, filters], patterns.filters(filters).images(images), units, background)
        cell[images, filters], score[images, filters] = found
    return Taken(cell, score)
