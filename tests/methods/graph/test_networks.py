"""Explanatory graphs of the kinds of networks that the paper has: plain, residual, mobile, and a VAE-GAN's encoder."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from lightning_interp import LayerError, RenderedFaces
from lightning_interp.methods.graph.engine import explanatory_graph
from recipes.vae_gan.module import DEVIATION, MEAN, Encoder

IMAGES, PATTERNS, FILTERS, PARENTS = 8, 2, 4, 3


def faces(size, seed=0):
    probe = RenderedFaces(IMAGES, size=size, seed=seed)
    probe.normalize = (MEAN,) * 3, (DEVIATION,) * 3
    return probe


def plain():
    """Blocks of two convolutions and a pooling, as in VGG-16."""
    blocks = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 32)):
        blocks += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        blocks += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(32 * 8 * 8, 2))


# By name: the network, its images' size, layers, sizes of their maps, and by placement where the first unit lies.
NETWORKS = {
    "plain": (plain, 64, ("13", "8", "3"), (16, 32, 64), {"receptive_field": (1.5, 0.5, 0), "cell": (1.5, 0.5, 0)}),
    "residual": (
        partial(resnet18, weights=None),
        64,
        ("layer3", "layer2"),
        (4, 8),
        {"receptive_field": (0, 0), "cell": (7.5, 3.5)},
    ),
    "mobile": (
        partial(mobilenet_v2, weights=None, width_mult=0.35),
        64,
        ("features.14.conv.0", "features.7.conv.0", "features.4.conv.0"),
        (4, 8, 16),
        {"receptive_field": (0, 0, 0), "cell": (7.5, 3.5, 1.5)},
    ),
    "VAE-GAN encoder": (
        partial(Encoder, width=8),
        48,
        ("maps.2", "maps.1", "maps.0"),
        (6, 12, 24),
        {"receptive_field": (3.5, 1.5, 0.5), "cell": (3.5, 1.5, 0.5)},
    ),
}


def learn(network, size, layers, **options):
    settings = {"patterns": PATTERNS, "filters": FILTERS, "parents": PARENTS, "iterations": 4, "candidates": 8}
    return explanatory_graph(network, faces(size), layers, **settings | options)


@pytest.mark.parametrize("placement", ["receptive_field", "cell"])
@pytest.mark.parametrize("name", NETWORKS)
def test_kinds_of_networks(name, placement):
    make, size, names, lengths, firsts = NETWORKS[name]
    torch.manual_seed(0)
    network = make().train()
    graph = learn(network, size, names, upsample=placement)
    assert network.training
    assert graph.names == names
    assert graph.image_size == (size, size)
    above = None
    for layer, length, first in zip(graph.layers, lengths, firsts[placement], strict=True):
        step = size / length
        assert layer.grid.rows.anchors[:2] == pytest.approx((first, first + step))
        assert layer.grid.rows == layer.grid.columns
        assert layer.grid.rows.length == length
        assert len(layer) == FILTERS * PATTERNS
        assert ((layer.position > -0.5) & (layer.position < size - 0.5)).all()
        if above is None:
            assert layer.parents.shape[1] == 0
        else:
            assert layer.parents.shape[1] == PARENTS
            assert ((layer.parents >= 0) & (layer.parents < len(above))).all()
            assert all(len(set(row)) == PARENTS for row in layer.parents.tolist())
            assert torch.allclose(layer.weight.sum(1), torch.ones(len(layer), dtype=torch.float64))
            assert (layer.weight.sort(1).values[:, 0] >= 0).all()
        above = layer
    # The same images are seen as they were learnt from; others have places of their own, at units too.
    again, others = graph.infer(faces(size), network), graph.infer(faces(size, seed=1), network)
    for layer in graph.layers:
        assert torch.equal(again[layer.layer].point, graph.learnt_from[layer.layer].point)
        found = others[layer.layer]
        units = torch.tensor(layer.grid.rows.anchors)
        assert (found.point[..., None] - units).abs().amin(-1).max() < 1e-4
        assert (found.score >= 0).all()
        assert (found.score > 0).any()
    assert any(not torch.equal(others[layer].point, again[layer].point) for layer in names)


class SqueezeExcite(nn.Module):
    """Each value is scaled by what the whole image has."""

    def __init__(self, units):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(units, units, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)


def first_layers():
    torch.manual_seed(0)
    return [nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU()]


GLOBAL = {
    "squeeze and excitation": (SqueezeExcite(8), 16, "layer '2' sees the whole image from every position"),
    "adaptive pooling": (nn.AdaptiveAvgPool2d(4), 4, "layer '2' sees the whole image from every position"),
    "upsampling": (nn.Upsample(scale_factor=2), 32, "layer '2' do not follow one another by whole pixels"),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_where_receptive_fields_say_nothing_cells_do(name):
    layer, length, text = GLOBAL[name]
    network = nn.Sequential(*first_layers(), layer)
    with pytest.raises(LayerError, match=f"{text}.*use upsample='cell'"):
        learn(network, 64, ("2", "1"))
    graph = learn(network, 64, ("2", "1"), upsample="cell")
    assert graph["2"].grid.rows.length == length
    assert graph["2"].grid.rows.anchors[0] == pytest.approx((64 / length - 1) / 2)
    assert graph["1"].grid.rows.anchors[0] == 1.5
