"""Histogram of the units' best IoU, binned here so that no logger has to see the values."""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_interp.drawing.figures import Bins
from lightning_interp.methods.dissection.result import LayerDissection

_BINS_PER_UNIT = 100


def iou_histogram(layer: LayerDissection) -> tuple[Bins, Bins]:
    """Best IoU of every scored unit, and the same by chance, over the same bins of width 0.01 from 0.

    The last edge is the first multiple of 0.01 above every value and above the layer's IoU threshold.
    """
    found, chance = (v[~np.isnan(v)] for v in (layer.best_iou, layer.chance_best_iou))
    largest = max([layer.iou_threshold, *found, *chance])
    last = min(math.floor(largest * _BINS_PER_UNIT) + 1, _BINS_PER_UNIT)
    edges = np.arange(last + 1) / _BINS_PER_UNIT
    return _bins(found, edges), _bins(chance, edges)


def _bins(values: NDArray[np.float64], edges: NDArray[np.float64]) -> Bins:
    return Bins(
        counts=np.histogram(values, edges)[0].astype(np.int64),
        edges=edges,
        minimum=float(values.min(initial=1.0)) if len(values) else 0.0,
        maximum=float(values.max(initial=0.0)),
        total=float(values.sum()),
        squares=float((values**2).sum()),
    )
