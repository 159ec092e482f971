"""Inference: the top layer first, then down; mirror images; foreign maps."""

import dataclasses

import pytest
import torch

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.maths.infer import infer, join
from lightning_interp.methods.graph.maths.layer import side
from lightning_interp.methods.graph.maths.learn import learn_graph
from lightning_interp.methods.graph.options import GraphOptions
from tests.helpers.graph_maps import blobs, grid_of, layer, noise
from tests.helpers.graphs import assert_same_graph
from tests.methods.graph.reference import graphs as reference

TOP, LOW = grid_of(4, 5, 16), grid_of(8, 10, 8)


def learnt(**options):
    layers = [
        layer("up", noise(6, 3, 4, 5, 1, torch.float64), TOP),
        layer("down", noise(6, 4, 8, 10, 2, torch.float64), LOW),
    ]
    options = {"patterns": 2, "parents": 3, "iterations": 4, "pose": 0} | options
    return learn_graph(layers, GraphOptions(**options)), layers


def taken_by_brute_force(own, maps, shift, width, level, background):
    """Points in pixels and scores of a layer's patterns, two a filter."""
    size, grid = side(own.grid), own.grid
    filters = own.filter[::2]
    response = maps[:, filters].clamp(min=0) / own.scale[filters][:, None, None]
    shape = len(filters), 2
    cell, score = reference.take(
        response.numpy(),
        *(torch.tensor(axis.anchors, dtype=torch.float64).numpy() / size for axis in (grid.columns, grid.rows)),
        (own.position / size).view(*shape, 2).numpy(),
        width.view(shape).clamp(max=0.1).numpy(),
        shift.view(len(maps), *shape, 2).numpy(),
        level.view(len(maps), *shape).numpy(),
        background / (grid.rows.length * grid.columns.length),
    )
    cell = torch.tensor(cell).flatten(1)
    x, y = (torch.tensor(axis.anchors) for axis in (grid.columns, grid.rows))
    return torch.stack([x[cell % len(x)], y[cell // len(x)]], 2), torch.tensor(score).flatten(1)


def test_both_layers_equal_brute_force():
    graph, layers = learnt()
    found = infer(graph, layers, torch.arange(6))
    up, down = graph.layers
    still = torch.zeros(6, len(up), 2, dtype=torch.float64)
    point, score = taken_by_brute_force(up, layers[0].maps, still, up.width / side(TOP), still[..., 0], 0.1)
    assert torch.equal(found["up"].point, point.float())
    torch.testing.assert_close(found["up"].score.double(), score, rtol=1e-5, atol=1e-6)
    # (1.2) of the paper for the second: harmonic mean of the variances, weighted mean of the displacements.
    size = side(LOW)
    moved = (point - up.position)[:, down.parents] / size
    delta = (moved * down.weight[..., None]).sum(2)
    spread = (up.spread / size)[down.parents]
    width = (spread**-2).mean(1) ** -0.5
    away = ((moved - delta[:, :, None]) ** 2).sum(3) / (2 * 3 * spread**2)
    level = (width**2).log() - (spread**2).log().mean(1) - away.sum(2)
    point, score = taken_by_brute_force(down, layers[1].maps, delta, width, level, 0.1)
    assert torch.equal(found["down"].point, point.float())
    torch.testing.assert_close(found["down"].score.double(), score, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["down"].expected, (down.position + delta * size).float())


def test_images_apart_and_joined_are_images_together():
    graph, layers = learnt(pose=1)
    whole = infer(graph, layers, torch.arange(6))
    parts = []
    for rows in ([4, 1], [5], [0, 2, 3]):
        own = [each._replace(maps=each.maps[rows]) for each in layers]
        parts.append(infer(graph, own, torch.tensor(rows), byte_budget=20_000))
    joined = join(parts)
    assert joined.images.tolist() == list(range(6))
    for name in ("up", "down"):
        assert torch.equal(joined[name].point, whole[name].point)
        torch.testing.assert_close(joined[name].score, whole[name].score)
    assert infer(graph, [each._replace(maps=each.maps[:0]) for each in layers], torch.arange(0))["up"].point.shape == (
        (0, len(graph["up"]), 2)
    )


def test_the_width_of_the_search_is_that_of_learning_if_so_asked():
    graph, layers = learnt(sigma=0.4)
    narrow = infer(graph, layers, torch.arange(6))["up"]
    options = graph.settings["options"] | {"deformation": None}
    wide = infer(dataclasses.replace(graph, settings={"options": options}), layers, torch.arange(6))["up"]
    away = [(each.point - each.expected).norm(dim=2).mean() for each in (narrow, wide)]
    assert away[0] < 0.7 * away[1]


def mirrored_maps(turned, grid):
    """A part at the left, of turned images at the right; the maps and those of the mirror images."""
    places = torch.tensor([20.0, 40.0], dtype=torch.float64).repeat(len(turned), 2, 1, 1)
    places[:, 1, :, 1] = 12.0
    straight = blobs(places, grid, 6)
    maps = torch.where(turned[:, None, None, None], straight.flip(3), straight)
    return maps, maps.flip(3)


def test_the_likelier_of_an_image_and_its_mirror_image_is_taken():
    turned = torch.tensor([False, True, False, False, True, False, False])
    maps, mirrored = mirrored_maps(turned, LOW)
    layers = [layer("up", maps, LOW, mirrored)]
    graph = learn_graph(
        layers, GraphOptions(patterns=1, flips=True, pose=0, sigma=0.15, deformation=None, background=0, iterations=8)
    )
    found = infer(graph, layers, torch.arange(7))
    # Which of the two counts as straight is a matter of the start.
    assert torch.equal(found.mirrored, turned) or torch.equal(found.mirrored, ~turned)
    assert (found["up"].point == found["up"].point[:1]).all()
    # Within a unit of where they were learnt to be.
    assert (found["up"].point - graph["up"].position).abs().max() < 8
    without = infer(graph, [layer("up", maps, LOW)], torch.arange(7))
    assert not without.mirrored.any()
    assert not (without["up"].point == without["up"].point[:1]).all()


def test_foreign_maps_are_refused():
    graph, layers = learnt()
    with pytest.raises(
        DatasetError, match=r"maps of the layers \['down', 'up'\], but the graph is of \['up', 'down'\]"
    ):
        infer(graph, layers[::-1], torch.arange(6))
    for maps in (noise(6, 5, 4, 5), noise(6, 3, 5, 5)):
        with pytest.raises(DatasetError, match=r"layer 'up': maps .* learnt from \(3, 4, 5\).*another network"):
            infer(graph, [layers[0]._replace(maps=maps), layers[1]], torch.arange(6))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_maps_that_are_not_finite_are_refused(value):
    graph, layers = learnt()
    for field in ("maps", "mirrored"):
        spoilt = layers[1].maps.clone()
        spoilt[2, 3, 1, 1] = value
        with pytest.raises(DatasetError, match="layer 'down' gives NaN or infinite activations"):
            infer(graph, [layers[0], layers[1]._replace(**{field: spoilt})], torch.arange(6))


def test_joined_inferences_are_whole():
    graph, layers = learnt()
    whole = infer(graph, layers, torch.arange(6))
    assert_same_graph(join([whole]), whole)
