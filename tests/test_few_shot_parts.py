"""The methods that the benchmark of few-shot parts compares, on a planted part and on a small network."""

from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import few_shot_parts as bench
from lightning_interp import RenderedFaces
from lightning_interp.methods.graph.engine import explanatory_graph
from tests.methods.graph.maths.test_and_or import planted


def test_votes_find_what_a_constant_cannot(monkeypatch):
    monkeypatch.setattr(bench, "SIDE", 140)
    latent, centre, _ = planted(images=30, good=40, noise=200, jitter=4.0)
    methods = {"constant": partial(bench.constant, 30), "raw": partial(bench.raw_votes, latent)}
    methods["graph"] = partial(bench.and_or, latent)
    found = {name: bench.errors(method, centre, 3, draws=3) for name, method in methods.items()}
    assert [len(values) for values in found.values()] == [3, 3, 3]
    assert max(found["graph"] + found["raw"]) < min(found["constant"]) / 5


def test_errors_are_those_of_the_images_without_a_box(monkeypatch):
    monkeypatch.setattr(bench, "SIDE", 100)
    centres = torch.tensor([[10.0, 10.0], [10.0, 10.0], [40.0, 50.0]], dtype=torch.float64)
    asked = []

    def known(labels):
        asked.append(sorted(labels))
        place = centres + torch.tensor([3.0, 4.0])
        # An image with a box must not count.
        place[list(labels)] = 1e6
        return place

    found = bench.errors(known, centres, 2, draws=4)
    torch.testing.assert_close(torch.tensor(found), torch.full((4,), 5 / (100 * 2**0.5)))
    assert len({tuple(rows) for rows in asked}) > 1


def test_raw_peaks_are_the_largest_values_of_the_maps():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
    faces = RenderedFaces(4, size=32)
    graph = explanatory_graph(net, faces, ["3", "1"], patterns=2, parents=3, iterations=3)
    latent = bench.raw_peaks(net, faces, [2, 0], graph)
    mean, std = (torch.tensor(part)[:, None, None] for part in faces.normalize)
    maps = net[:2](((faces.image(0).float() / 255 - mean) / std)[None])[0]
    assert latent.points.shape == (2, 10, 2)
    for number, own in enumerate(maps.detach()):
        row, column = divmod(int(own.argmax()), own.shape[1])
        assert latent.scores[1, 6 + number].item() == pytest.approx(own.max().item(), rel=1e-5)
        if own.max() > own.min():
            rows, columns = graph["1"].grid.rows, graph["1"].grid.columns
            place = [columns.first + column * columns.step, rows.first + row * rows.step]
            assert latent.points[1, 6 + number].tolist() == place
