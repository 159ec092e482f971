import math

import torch

from lightning_interp.probing.health import UnitHealth
from lightning_interp.probing.values import computed


def health_of(*batches):
    metric = UnitHealth(batches[0].shape[1])
    for maps in batches:
        metric.update(maps, maps.amin((2, 3)), maps.amax((2, 3)))
    nonfinite, constant = computed(metric, (batches[0].shape[1],), (batches[0].shape[1],))
    return nonfinite.tolist(), constant.tolist()


def test_counts_every_broken_value_over_batches():
    one, two = torch.rand(2, 4, 2, 2), torch.rand(3, 4, 2, 2)
    one[0, 0, 0, 0] = math.nan
    two[2, 0, 1, 1] = math.inf
    two[0, 1] = -math.inf
    two[1, 3, 0, 1] = math.nan
    assert health_of(one, two) == ([2, 4, 0, 1], [False] * 4)


def test_constant_over_all_batches_only():
    one = torch.zeros(2, 4, 2, 2)
    one[:, 1] = 6.0
    one[0, 3, 0, 0] = -0.0  # equal to 0.0
    two = one.clone()
    two[1, 1, 1, 1] = 5.999
    two[:, 2] = 1.0  # constant within each batch, but not over both
    assert health_of(one, two) == ([0] * 4, [True, False, False, True])


def test_a_broken_unit_is_not_constant():
    maps = torch.full((1, 2, 2, 2), math.nan)
    maps[0, 1] = 0.0
    maps[0, 1, 0, 0] = math.nan
    assert health_of(maps) == ([4, 1], [False, False])


def test_one_unit():
    assert health_of(torch.ones(1, 1, 1, 1)) == ([0], [True])
