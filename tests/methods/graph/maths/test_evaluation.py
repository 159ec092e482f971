"""Figures of a graph: against loops, planted followers and still patterns, mirrored images, silent filters."""

import math
from dataclasses import fields, replace

import pytest
import torch

from lightning_interp.functional.part_overlap import covered_cells
from lightning_interp.functional.peaks import Peaks, cell_points, peak_points
from lightning_interp.methods.graph.maths.evaluation import PlaceScores, evaluate_graph, evaluate_points
from lightning_interp.methods.graph.patterns import Inference, LayerPatterns
from tests.helpers.graphs import IMAGE_SIZE, LAYERS, toy_graph
from tests.methods.graph.reference.graph_evaluation import place_scores, purity

HEIGHT, WIDTH = IMAGE_SIZE
IMAGES = 12


def landmarks_of(seed=1, images=IMAGES, missing=0.2):
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(images, 2, 2, generator=generator, dtype=torch.float64) * torch.tensor([WIDTH, HEIGHT])
    return places.masked_fill((torch.rand(images, 2, 1, generator=generator) < missing), math.nan)


def peaks_of(graph, images=IMAGES, seed=2):
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in graph.layers:
        cells = layer.grid.rows.length * layer.grid.columns.length
        cell = torch.randint(0, cells, (images, 7), generator=generator)
        found[layer.layer] = Peaks(torch.rand(images, 7, generator=generator) + 0.1, cell)
    return found


def lists(points, score, landmarks):
    points = [[tuple(p) for p in column] for column in points.double().transpose(0, 1).tolist()]
    places = [[None if math.isnan(p[0]) else tuple(p) for p in row] for row in landmarks.transpose(0, 1).tolist()]
    return points, score.T.tolist(), places


def unmirrored(points, mirrored):
    """Mirrored back, one number at a time."""
    points = points.clone()
    for image in mirrored.nonzero()[:, 0].tolist():
        for v in range(points.shape[1]):
            points[image, v, 0] = WIDTH - 1 - points[image, v, 0]
    return points


def frozen_loop(points, score):
    """Means over the images where the pattern has a score."""
    held = points.clone()
    for v in range(points.shape[1]):
        held[:, v] = torch.stack([points[i, v] for i in range(len(points)) if score[i, v] > 0]).mean(0)
    return held


@pytest.mark.parametrize("mirror", [False, True])
def test_equals_a_loop(mirror):
    graph, landmarks = toy_graph(layers=2, images=IMAGES), landmarks_of()
    inference = replace(
        graph.learnt_from, mirrored=torch.arange(IMAGES) % 3 == 0 if mirror else torch.zeros(IMAGES).bool()
    )
    peaks = peaks_of(graph)
    found = evaluate_graph(graph, inference, landmarks, peaks)
    assert list(found.layers) == list(LAYERS[:2])
    for layer in graph.layers:
        own, row = inference[layer.layer], found[layer.layer]
        held = frozen_loop(own.point, own.score)
        for name, points in (("patterns", own.point), ("frozen", held), ("expected", own.expected)):
            points = lists(unmirrored(points, inference.mirrored), own.score, landmarks)
            expected = place_scores(*points, (WIDTH, HEIGHT), 100)
            figures = getattr(row, name)
            assert (figures.instability, figures.correlation, figures.r2) == pytest.approx(expected, abs=1e-5), name
            steady = place_scores(*points, (WIDTH, HEIGHT), 20, replace=False)[0]
            assert figures.instability_aaai2018 == pytest.approx(steady, abs=1e-5)
        raw = peaks[layer.layer]
        points = lists(peak_points(raw.cell, layer.grid), raw.value, landmarks)
        expected = place_scores(*points, (WIDTH, HEIGHT), 100)
        assert (row.raw.instability, row.raw.correlation, row.raw.r2) == pytest.approx(expected)
        assert (row.raw.scored, row.patterns.scored) == (7, len(layer))


def test_purity_equals_a_loop():
    graph, landmarks = toy_graph(images=IMAGES), landmarks_of(missing=0)
    generator = torch.Generator().manual_seed(3)
    boxes, masks = [[], []], torch.zeros(IMAGES, 2, HEIGHT, WIDTH, dtype=torch.bool)
    for part in range(2):
        for image in range(IMAGES):
            left, top = (int(torch.randint(0, n - 32, (), generator=generator)) for n in (WIDTH, HEIGHT))
            # Cells lie at half pixels, of which masks take the next whole one.
            boxes[part].append((left - 1, left + 31, top - 1, top + 31))
            masks[image, part, top : top + 32, left : left + 32] = True
    covered = {layer.layer: covered_cells(masks, layer.grid) for layer in graph.layers}
    inference = replace(graph.learnt_from, mirrored=torch.zeros(IMAGES).bool())
    found = evaluate_graph(graph, inference, landmarks, peaks_of(graph), covered)
    for layer in graph.layers:
        own = inference[layer.layer]
        points, score, _ = lists(own.point, own.score, landmarks)
        assert found[layer.layer].patterns.purity == pytest.approx(purity(points, score, boxes, 100))
        assert found[layer.layer].random.purity_area == found[layer.layer].patterns.purity_area
    assert {found[name].patterns.purity for name in LAYERS} != {0.0}


def planted(still=False, mirror=False):
    """A graph of the top layer whose patterns follow the first landmark at offsets of their own, or stay put."""
    graph = toy_graph(layers=1)
    layer = graph.layers[0]
    generator = torch.Generator().manual_seed(4)
    images = 60
    landmarks = 20 + torch.rand(images, 1, 2, generator=generator, dtype=torch.float64) * torch.tensor([50.0, 20.0])
    offset = torch.randn(len(layer), 2, generator=generator, dtype=torch.float64)
    points = landmarks + offset
    points = points[:1].expand_as(points) if still else points
    mirrored = torch.arange(images) % 2 == 0 if mirror else torch.zeros(images).bool()
    points = unmirrored(points, mirrored)  # its own inverse
    score = torch.rand(images, len(layer), generator=generator) + 0.1
    found = LayerPatterns(points.float(), score, layer.position.expand_as(points).float())
    return graph, Inference(torch.arange(images), mirrored, {layer.layer: found}), landmarks


@pytest.mark.parametrize("mirror", [False, True])
def test_followers(mirror):
    graph, inference, landmarks = planted(mirror=mirror)
    row = evaluate_graph(graph, inference, landmarks, peaks_of(graph, 60))[LAYERS[0]]
    assert row.patterns.correlation == pytest.approx(1, abs=1e-5)
    assert row.patterns.r2 == pytest.approx(1, abs=1e-5)
    assert row.patterns.instability < 0.02
    assert (row.patterns.beats_centre, row.patterns.beats_frozen) == (1, 1)
    assert row.patterns.correlation_chance < 0.4
    assert row.frozen.beats_frozen == 0
    assert abs(row.random.correlation) < 0.3
    assert row.random.instability > row.centre.instability > row.patterns.instability
    assert (row.centre.correlation, row.centre.r2) == (0, 0)
    assert row.raw.correlation < 0.5


def test_frozen_patterns_may_know_the_pose():
    """A landmark that is left in one half of the images and right in the others: the mirror alone predicts it."""
    graph, inference, landmarks = planted()
    landmarks[..., 0] = torch.where(torch.arange(60) % 2 == 0, 20.0, WIDTH - 1 - 20.0)[:, None]
    mirrored = torch.arange(60) % 2 == 1
    found = LayerPatterns(torch.full((60, 4, 2), 20.0), torch.ones(60, 4), inference[LAYERS[0]].expected)
    landmarks[..., 1] = 20
    inference = Inference(torch.arange(60), mirrored, {LAYERS[0]: found})
    row = evaluate_graph(graph, inference, landmarks, peaks_of(graph, 60))[LAYERS[0]]
    assert row.frozen.correlation == pytest.approx(1)
    straight = replace(inference, mirrored=torch.zeros(60).bool())
    assert evaluate_graph(graph, straight, landmarks, peaks_of(graph, 60))[LAYERS[0]].frozen.correlation == 0


def test_still_patterns_equal_their_frozen_control():
    graph, inference, landmarks = planted(still=True)
    row = evaluate_graph(graph, inference, landmarks, peaks_of(graph, 60))[LAYERS[0]]
    assert (row.patterns.correlation, row.patterns.r2, row.patterns.beats_frozen) == (0, 0, 0)
    assert row.patterns.instability == pytest.approx(row.frozen.instability, abs=1e-6)


def test_pruned_and_silent_patterns_are_left_out():
    graph, inference, landmarks = planted()
    name = LAYERS[0]
    own = inference[name]
    # The first two patterns wander, and are pruned or never fire; the third wanders where it is silent.
    point, score = own.point.clone(), own.score.clone()
    point[:, :2] = cell_points(graph.layers[0].grid)[torch.randint(0, 24, (60, 2))].float()
    point[5:30, 2], score[5:30, 2], score[:, 1] = 3.0, 0.0, 0.0
    inference = replace(inference, layers={name: replace(own, point=point, score=score)})
    bad = evaluate_graph(graph, inference, landmarks, peaks_of(graph, 60))[name].patterns
    assert (bad.scored, bad.correlation < 0.9) == (3, True)
    cut = replace(graph, edits=((graph.layers[0].names()[0],),))
    good = evaluate_graph(cut, inference, landmarks, peaks_of(graph, 60))[name].patterns
    assert good.scored == 2
    assert good.correlation == pytest.approx(1, abs=1e-5)
    everything = evaluate_graph(
        replace(graph, edits=(tuple(graph.layers[0].names()),)), inference, landmarks, peaks_of(graph, 60)
    )[name]
    assert everything.patterns.scored == 0
    assert math.isnan(everything.patterns.instability)
    assert everything.raw.scored == 7


def test_raw_filters_are_judged_on_the_patterns_images_too():
    graph = toy_graph(layers=1, images=IMAGES)
    name, layer = graph.names[0], graph.layers[0]
    own = graph.learnt_from[name]
    # Two of the first pattern's images do not count.
    silent = own.score.clone()
    silent[:2, 0] = 0
    inference = replace(graph.learnt_from, layers={name: replace(own, score=silent)})
    peaks, landmarks = peaks_of(graph), landmarks_of()
    found = evaluate_graph(graph, inference, landmarks, peaks)[name].raw_same
    counted = (silent > 0)[..., None]
    at_peaks = peak_points(peaks[name].cell, layer.grid)[:, layer.filter].masked_fill(~counted, math.nan)
    alone = evaluate_points(at_peaks, silent, landmarks, layer.grid)
    # Of the patterns held still, not of the peaks.
    assert repr(replace(found, beats_frozen=0.0)) == repr(replace(alone, beats_frozen=0.0))
    assert found.instability != evaluate_graph(graph, inference, landmarks, peaks)[name].raw.instability


def test_scalars():
    graph = toy_graph(images=IMAGES)
    found = evaluate_graph(graph, graph.learnt_from, landmarks_of(), peaks_of(graph))
    layer, all_layers = found[LAYERS[1]].scalars(), found.scalars()
    assert layer["instability"] == found[LAYERS[1]].patterns.instability
    assert layer["instability_aaai2018_frozen"] == found[LAYERS[1]].frozen.instability_aaai2018
    assert layer["correlation_chance_raw"] == found[LAYERS[1]].raw.correlation_chance
    assert {"instability_raw", "instability_centre", "correlation_raw", "beats_frozen", "r2_expected"} <= set(layer)
    assert len(layer) == 7 * len(fields(PlaceScores))
    assert all_layers[f"{LAYERS[2]}/r2_random"] == found[LAYERS[2]].random.r2
    # Without boxes there is no purity.
    assert all(math.isnan(value) for name, value in layer.items() if name.startswith("purity"))


def test_the_same_whatever_the_order_of_images():
    graph, landmarks = toy_graph(layers=1, images=IMAGES), landmarks_of()
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    inference = graph.learnt_from
    layers = {
        name: LayerPatterns(own.point[order], own.score[order], own.expected[order])
        for name, own in inference.layers.items()
    }
    turned = Inference(inference.images[order], inference.mirrored[order], layers)
    peaks = peaks_of(graph)
    one = evaluate_graph(graph, inference, landmarks, peaks)
    two = evaluate_graph(
        graph, turned, landmarks[order], {n: Peaks(p.value[order], p.cell[order]) for n, p in peaks.items()}
    )
    for row in ("raw", "patterns", "frozen", "expected", "centre"):
        same = getattr(two[LAYERS[0]], row).instability
        assert same == pytest.approx(getattr(one[LAYERS[0]], row).instability), row


def test_sizes_must_agree():
    graph = toy_graph(images=IMAGES)
    with pytest.raises(ValueError, match="12 peaks, 11 landmarks"):
        evaluate_graph(graph, graph.learnt_from, landmarks_of()[1:], peaks_of(graph))


def test_points_of_anything():
    """A perfect part, a wandering one and one that never fires."""
    graph, _, landmarks = planted()
    generator = torch.Generator().manual_seed(0)
    wander = torch.rand(60, 1, 2, generator=generator, dtype=torch.float64) * torch.tensor([90.0, 60.0])
    points = torch.cat([landmarks, wander, landmarks], 1)
    score = torch.ones(60, 3)
    score[:, 2] = -1
    grid = graph.layers[0].grid
    row = evaluate_points(points, score, landmarks, grid)
    alone = [evaluate_points(points[:, i : i + 1], score[:, i : i + 1], landmarks, grid) for i in range(2)]
    assert row.scored == 2
    assert alone[0].instability == 0
    assert alone[0].correlation == pytest.approx(1)
    assert row.correlation == pytest.approx((alone[0].correlation + alone[1].correlation) / 2)
    assert (row.beats_frozen, row.beats_centre) == (0.5, 0.5)
