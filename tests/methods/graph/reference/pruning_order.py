"""What speaks against a pattern, one pattern and one image after the other."""

import math


def share_above(value, values):
    if math.isnan(value):
        return math.nan
    value, others = round(value, 6), [round(other, 6) for other in values if not math.isnan(other)]
    ahead = sum(other > value for other in others) + (sum(other == value for other in others) - 1) / 2
    return ahead / max(len(others) - 1, 1)


def travel_and_agreement(patterns, row):
    heard = [i for i in range(len(patterns.point)) if patterns.score[i, row] > 0]
    if not heard:
        return math.nan, math.nan
    tracks = []
    for points in (patterns.point, patterns.expected):
        track = [points[i, row].double().tolist() for i in heard]
        centre = [sum(point[axis] for point in track) / len(track) for axis in (0, 1)]
        tracks.append([(x - centre[0], y - centre[1]) for x, y in track])
    own, expected = (math.sqrt(sum(x * x + y * y for x, y in track) / len(heard)) for track in tracks)
    together = sum(a * c + b * d for (a, b), (c, d) in zip(*tracks, strict=True)) / len(heard)
    return own, together / (own * expected) if min(own, expected) > 1e-3 else math.nan


def doubts(graph, layer):
    """``(margin, travel, agreement, doubt)`` of every pattern of a layer, with the positions it was learnt from."""
    height, width = graph.image_size
    motion = [travel_and_agreement(graph.learnt_from[layer.layer], row) for row in range(len(layer))]
    scores = layer.score.tolist()
    found = []
    for (x, y), (travel, agreement), score in zip(layer.position.tolist(), motion, scores, strict=True):
        margin = min(x / width, y / height, (width - 1 - x) / width, (height - 1 - y) / height)
        shares = [
            share_above(score, scores),
            share_above(agreement, [each for _, each in motion]),
            share_above(travel, [each for each, _ in motion]),
        ]
        known = [share for share in shares if not math.isnan(share)]
        found.append((margin, travel, agreement, sum(known) / len(known)))
    return found
