"""Part interpretability and purity the slow way: whole maps, one filter, one part, one image at a time."""

import math

import numpy as np
import torch


def thresholds_of(maps, share):
    """``(F,)`` float64 of maps (N, F, h, w): the share of values above it, as numpy's quantile has it."""
    values = maps.double().numpy().swapaxes(0, 1).reshape(maps.shape[1], -1)
    return torch.from_numpy(np.quantile(values, 1 - share, axis=1))


def bilinear_regions(maps, thresholds, size):
    up = torch.nn.functional.interpolate(maps.double(), size=size, mode="bilinear", align_corners=False)
    return up > thresholds[:, None, None]


def iou(a, b):
    return int((a & b).sum()) / int((a | b).sum())


def interpretability(regions, parts, category, filter_category, bar):
    """P_fk as nested lists, NaN for parts that no image of the category shows."""
    rows = []
    for f in range(regions.shape[1]):
        row = []
        for k in range(parts.shape[1]):
            shown = [n for n in range(len(parts)) if category[n] == filter_category[f] and parts[n, k].any()]
            hits = [iou(regions[n, f], parts[n, k]) > bar for n in shown]
            row.append(sum(hits) / len(hits) if hits else math.nan)
        rows.append(row)
    return rows
