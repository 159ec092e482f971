"""Units of valid patterns, one image and one pattern at a time."""

import math

import torch


def units(layer, point, score, share, among):
    """``(N, C, h, w)`` bool."""
    rows, columns = layer.grid.rows.anchors, layer.grid.columns.anchors
    found = torch.zeros(len(point), len(layer.scale), len(rows), len(columns), dtype=torch.bool)
    for image in range(len(point)):
        order = sorted((v for v in range(len(layer)) if among[v]), key=lambda v: -score[image, v])
        for v in order[: math.ceil(share * len(order))]:
            if score[image, v] > 0:
                x, y = point[image, v].tolist()
                row = min(range(len(rows)), key=lambda i: abs(rows[i] - y))
                column = min(range(len(columns)), key=lambda i: abs(columns[i] - x))
                found[image, layer.filter[v], row, column] = True
    return found
