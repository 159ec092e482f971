import math

import numpy as np
import pytest
import torch

from lightning_interp.methods.filters.maths.group_correlation import group_correlation
from tests.methods.filters.maths.test_filter_losses import sparse_maps


def slow(x, groups):
    similarity = np.corrcoef(x.transpose(0, 1).flatten(1).numpy()) + 1
    total = 0.0
    for k in set(groups.tolist()):
        members = [i for i, g in enumerate(groups.tolist()) if g == k]
        within = sum(similarity[i, j] for i in members for j in members)
        total -= within / sum(similarity[i, j] for i in members for j in range(len(groups)))
    return total


@pytest.mark.parametrize("groups", [[0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [2, 0, 2, 0, 0]])
def test_equal_to_loops_over_numpy_correlations(groups):
    x, groups = sparse_maps(4, 5, 3, 4), torch.tensor(groups)
    assert group_correlation(x, groups).item() == pytest.approx(slow(x, groups), rel=1e-12)


def test_copies_in_one_group_and_opposites_across():
    """S is 2 within and 0 across: -1 for each group; the other way round 2 of the 4."""
    x = torch.tensor([1.0, -1.0, 2.0, -2.0]).view(1, 4, 1, 1) * torch.randn(3, 1, 2, 2)
    assert group_correlation(x, torch.tensor([0, 1, 0, 1])).item() == pytest.approx(-2)
    assert group_correlation(x, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(-1)


def test_gradient_and_scale():
    x, groups = sparse_maps(3, 4, 2, 3).requires_grad_(), torch.tensor([0, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda y: group_correlation(y, groups), x)
    torch.testing.assert_close(group_correlation(7 * x, groups), group_correlation(x, groups))


def test_filters_without_variance_and_nan():
    x, groups = sparse_maps(3, 3, 2, 2), torch.tensor([0, 0, 1])
    x[:, 2] = 0.0
    x.requires_grad_()
    loss = group_correlation(x, groups)
    loss.backward()
    # The dead filter has S = 1 with all three: 1 of 3 in its group.
    pair = 1 + np.corrcoef(x[:, 0].detach().flatten(), x[:, 1].detach().flatten())[0, 1]
    assert loss.item() == pytest.approx(-1 / 3 - (4 + 2 * pair) / (4 + 2 * pair + 2))
    assert x.grad.isfinite().all()
    for bad in (math.nan, math.inf):
        y = sparse_maps(3, 3, 2, 2)
        y[0, 0, 0, 0] = bad
        assert group_correlation(y, groups).isnan()


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_a_filter_that_hardly_varies_has_no_larger_gradient_than_a_hundred_others(noise):
    x, groups = sparse_maps(4, 4, 5, 5), torch.tensor([0, 0, 1, 1])
    x[:, 0] = 0.3 + noise * x[:, 0]
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(group_correlation(x, groups), x)
    assert 0 < gradient[:, 0].abs().max() < 200 * gradient[:, 1:].abs().max()


def test_what_is_refused():
    for bad in (torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 0.0])):
        with pytest.raises(ValueError, match="groups must be"):
            group_correlation(torch.rand(2, 3, 2, 2), bad)
    with pytest.raises(ValueError, match="1 x 1"):
        group_correlation(torch.rand(2, 3, 1, 1), torch.tensor([0, 1, 0]))
