"""One way of placing patterns, one pattern, one landmark, one image at a time."""

import math
import statistics

from tests.reference.part_location import correlation, r_squared


def judged(score, shown, top, replace):
    """Images by falling score where there is one; those without the landmark replaced or only dropped."""
    ranked = sorted((i for i, s in enumerate(score) if s > 0), key=lambda i: (-score[i], i))
    return [i for i in ranked if shown[i]][:top] if replace else [i for i in ranked[:top] if shown[i]]


def place_scores(points, score, landmarks, size, top, replace=True):
    """``(instability, correlation, r2)``, means over patterns; ``points[v][i]``, ``landmarks[k][i]`` are (x, y)."""
    rows = []
    for places, own in zip(points, score, strict=True):
        steady, moves = [], []
        for landmark in landmarks:
            images = judged(own, [place is not None for place in landmark], top, replace)
            here, there = [places[i] for i in images], [landmark[i] for i in images]
            gaps = [math.dist(p, q) / math.hypot(*size) for p, q in zip(here, there, strict=True)]
            steady.append(statistics.stdev(gaps))
            moves.append((correlation(here, there), r_squared(here, there)))
        rows.append((statistics.mean(steady), *max(moves)))
    return tuple(statistics.mean(column) for column in zip(*rows, strict=True))


def purity(points, score, boxes, top):
    """Mean over patterns of the share of their images in the box they are in most; ``boxes[k][i]``, x and y ranges."""
    best = []
    for places, own in zip(points, score, strict=True):
        shares = []
        for part in boxes:
            images = judged(own, [True] * len(own), top, True)
            inside = [
                part[i][0] <= places[i][0] <= part[i][1] and part[i][2] <= places[i][1] <= part[i][3] for i in images
            ]
            shares.append(statistics.mean(inside))
        best.append(max(shares))
    return statistics.mean(best)
