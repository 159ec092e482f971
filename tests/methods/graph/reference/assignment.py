"""Units of valid patterns: one image, one filter and one unit at a time."""

import math

import torch


def valid(score, share, among):
    """``(N, V)`` bool."""
    found = torch.zeros(score.shape, dtype=torch.bool)
    for image in range(len(score)):
        order = sorted((v for v in range(score.shape[1]) if among[v]), key=lambda v: -score[image, v])
        for v in order[: math.ceil(share * len(order))]:
            found[image, v] = score[image, v] > 0
    return found


def units(layer, expected, valid, tau):
    """``(N, C, h, w)`` bool."""
    rows, columns = layer.grid.rows, layer.grid.columns
    found = torch.zeros(len(expected), len(layer.scale), rows.length, columns.length, dtype=torch.bool)
    for image, channel, row, column in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        owner, best = None, tau / (rows.size * columns.size)
        for v in (layer.filter == channel).nonzero()[:, 0].tolist():
            x, y = expected[image, v].tolist()
            apart = (columns.anchors[column] - x) ** 2 + (rows.anchors[row] - y) ** 2
            variance = layer.width[v].item() ** 2
            density = math.exp(-apart / (2 * variance)) / (2 * math.pi * variance)
            if density > best:
                owner, best = v, density
        found[image, channel, row, column] = owner is not None and bool(valid[image, owner])
    return found
