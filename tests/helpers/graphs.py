"""Small explanatory graphs, made by hand: every field filled, every field of another size."""

import dataclasses

import torch

from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.callback import ExplanatoryGraph
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.patterns import Inference, LayerPatterns, PatternLayer
from lightning_interp.methods.graph.result import GraphResult
from tests.helpers.parts import SpotProbe

LAYERS = ("features.12", "features.8", "features.4")
IMAGE_SIZE = (64, 96)
FILTERS = ((0, 0, 2, 2), (0, 1, 1, 3, 3, 3), (1, 1, 2, 2, 2, 4, 5, 5))
STRIDES = (16, 8, 4)

TRAINED = ("features.5", "features.2")
"""Layers of ``tests.helpers.lightning.make_module``."""


def make_explanation(probe=None, layers=TRAINED, graph=None, kind=ExplanatoryGraph, **options):
    """A callback for small trainings; ``graph`` are options of the graph."""
    learning = {"patterns": 2, "parents": 3, "candidates": 6, "iterations": 4} | (graph or {})
    probe = SpotProbe(12, side=24) if probe is None else probe
    return kind(probe, layers, options=GraphOptions(**learning), **{"batch_size": 5} | options)


def toy_graph(layers=3, images=6, parents=2, poses=0, learnt=True, seed=0):
    """The first of three layers of 4, 6 and 8 patterns, images of 64 x 96 pixels; a fixed graph by seed.

    In every layer some filters have no pattern and an infinite scale; the last pattern below the top lacks its last
    parent. The patterns move as one, each image by its own step; the last image is mirrored, the last pattern of each
    layer silent on the first image.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for row in range(layers):
        made.append(_layer(row, len(made[-1]) if made else 0, parents, poses, generator))
    steps = torch.randn(images, 2, generator=generator, dtype=torch.float64) * 6
    found = {each.layer: _patterns(each, steps, generator) for each in made}
    return GraphResult(
        layers=tuple(made),
        image_size=IMAGE_SIZE,
        learnt_from=Inference(torch.arange(images) * 2, torch.arange(images) == images - 1, found) if learnt else None,
        settings={"options": {"iterations": 20, "tau": 0.1}},
        seconds=1.5,
        meta={"epoch": 3, "category": "bird"},
    )


def _layer(row, above, parents, poses, generator):
    def uniform(low, high, *shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * (high - low) + low

    filters, (height, width), stride = torch.tensor(FILTERS[row]), IMAGE_SIZE, STRIDES[row]
    scale = uniform(1, 2, 7)
    scale[~torch.isin(torch.arange(7), filters)] = torch.inf
    chosen = torch.stack([torch.randperm(max(above, parents), generator=generator)[:parents] for _ in filters])
    if above:
        chosen[-1, -1:] = -1
    else:
        chosen = torch.full_like(chosen, -1)
    weight = uniform(1, 2, *chosen.shape) * (chosen >= 0)
    return PatternLayer(
        layer=LAYERS[row],
        filter=filters,
        position=uniform(0.1, 0.9, len(filters), 2) * torch.tensor([width, height]),
        width=uniform(6, 12, len(filters)),
        spread=uniform(3, 6, len(filters)),
        score=uniform(0.5, 2, len(filters)),
        parents=chosen,
        weight=weight / weight.sum(1, keepdim=True).clamp(min=1e-300),
        sway=uniform(-1, 1, len(filters), 2, poses),
        scale=scale,
        grid=Grid(Axis.cells(height // stride, height), Axis.cells(width // stride, width)),
    )


def _patterns(layer, steps, generator):
    expected = layer.position + steps[:, None]
    noise = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    axes = (layer.grid.columns, layer.grid.rows)
    units = [
        ((expected + noise)[..., i] - axis.first).div(axis.step).round().clamp(0, axis.length - 1) * axis.step
        + axis.first
        for i, axis in enumerate(axes)
    ]
    score = torch.rand(expected.shape[:2], generator=generator) + 0.1
    score[0, -1] = 0
    return LayerPatterns(torch.stack(units, 2).float(), score, expected.float())


def assert_same_graph(one, two, where="graph"):
    """Equal in every field, arrays bit for bit and of the same type."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, where
        assert one.shape == two.shape, where
        assert one.numpy().tobytes() == two.numpy().tobytes(), where
    elif dataclasses.is_dataclass(one):
        assert type(one) is type(two), where
        for field in dataclasses.fields(one):
            assert_same_graph(getattr(one, field.name), getattr(two, field.name), f"{where}.{field.name}")
    elif isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            assert_same_graph(one[key], two[key], f"{where}[{key!r}]")
    elif isinstance(one, tuple):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same_graph(a, b, f"{where}[{i}]")
    else:
        assert one == two, where
