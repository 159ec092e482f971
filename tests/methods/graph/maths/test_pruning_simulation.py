"""The simulated user takes out what is beside the part in more than half of the labelled images, and nothing else."""

import torch

from lightning_interp.methods.graph.maths.and_or import learn_part
from lightning_interp.methods.graph.maths.pruning_simulation import off_part, patterns_off_part, prune_part
from tests.helpers.graphs import toy_graph
from tests.methods.graph.maths.test_and_or import SIZE, label, planted

BOXES = {0: (0.0, 0.0, 10.0, 10.0), 2: (20.0, 20.0, 30.0, 30.0)}


def test_more_than_half_by_hand():
    inside, outside = ((5.0, 5.0), (25.0, 25.0)), ((15.0, 5.0), (25.0, 40.0))
    points = torch.zeros(3, 5, 2)
    for column, (first, last) in enumerate(
        [inside, outside, (inside[0], outside[1]), outside, (outside[0], outside[1])]
    ):
        points[0, column], points[2, column] = torch.tensor(first), torch.tensor(last)
    scores = torch.ones(3, 5)
    # The fourth is never found; the fifth only where it is outside.
    scores[:, 3] = scores[2, 4] = 0
    assert off_part(points, scores, BOXES).tolist() == [False, True, False, False, True]


def test_names_are_those_that_the_graph_prunes():
    graph = toy_graph(parents=2)
    everywhere = {0: (-1e3, -1e3, 1e3, 1e3), 1: (-1e3, -1e3, 1e3, 1e3)}
    nowhere = {0: (-9.0, -9.0, -8.0, -8.0), 1: (-9.0, -9.0, -8.0, -8.0)}
    assert patterns_off_part(graph, graph.learnt_from, everywhere) == []
    names = patterns_off_part(graph, graph.learnt_from, nowhere)
    assert set(graph.prune(names).pruned) == set(names) == {name for each in graph.layers for name in each.names()}
    assert patterns_off_part(graph.prune(names), graph.learnt_from, nowhere) == []


def test_a_part_keeps_the_patterns_on_it():
    latent, centre, _ = planted(good=6, noise=0)
    labels = {i: label(centre[i]) for i in range(4)}
    part = learn_part(latent, labels, SIZE)
    boxes = {row: own.box for row, own in labels.items()}
    kept = prune_part(part, latent, boxes).templates[0]
    off = off_part(latent.points, latent.scores, boxes)
    assert 0 < off.sum() < 6
    assert kept.pattern.tolist() == [row for row in part.templates[0].pattern.tolist() if not off[row]]
    assert len(kept.offset) == len(kept.variance) == len(kept.pattern)
    far = {row: (200.0, 200.0, 210.0, 210.0) for row in boxes}
    assert prune_part(part, latent, far).templates[0] is part.templates[0]
