import math

import pytest
import torch

from lightning_interp.functional.spatial_compactness import spatial_compactness
from tests.functional.test_filter_losses import sparse_maps


def slow(x, gain, offset):
    total = 0.0
    batch, filters, height, width = x.shape
    for f in range(filters):
        std = x[:, f].std(correction=0).item()
        for b in range(batch):
            psi = {
                (i, j): 1 / (1 + math.exp(-gain * x[b, f, i, j].item() / std - offset))
                for i in range(height)
                for j in range(width)
            }
            mass = sum(psi.values())
            row = sum(p * i for (i, _), p in psi.items()) / mass
            column = sum(p * j for (_, j), p in psi.items()) / mass
            total += sum(p * math.dist(at, (row, column)) for at, p in psi.items()) / mass
    return total / batch / math.hypot(height, width)


@pytest.mark.parametrize("options", [(3.0, -6.0), (1.0, 0.0)])
@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (2, 3, 3, 5)])
def test_equal_to_loops(shape, options):
    x = sparse_maps(*shape)
    assert spatial_compactness(x, *options).item() == pytest.approx(slow(x, *options), rel=1e-12)


def test_two_cells_by_hand():
    """Both of weight 1/2, their centre in between: half a cell from each, on a diagonal of sqrt 5."""
    assert spatial_compactness(torch.zeros(1, 1, 1, 2)).item() == pytest.approx(0.5 / math.sqrt(5))


def test_one_blob_is_better_than_two_and_anywhere_alike():
    middle, corner, two = torch.zeros(3, 1, 1, 9, 9, dtype=torch.float64)
    middle[0, 0, 4, 4] = corner[0, 0, 1, 7] = two[0, 0, 1, 1] = two[0, 0, 7, 7] = 1.0
    values = [spatial_compactness(x).item() for x in (middle, corner, two)]
    assert values[0] < values[1] < 0.15 < 0.3 < values[2]


def test_descent_moves_towards_the_own_blob_and_not_to_the_middle():
    """With the authors' constants, for maps before the nonlinearity, a ReLU's zeros decide where the centre is."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 1, 7], x[0, 0, 4, 4] = 5.0, 1.0
    x.requires_grad_()
    (ours,) = torch.autograd.grad(spatial_compactness(x), x)
    (theirs,) = torch.autograd.grad(spatial_compactness(x, 1.0, 0.0), x)
    assert ours[0, 0, 1, 7] < 0 < ours[0, 0, 4, 4]
    assert theirs[0, 0, 4, 4] < 0


def test_scale_does_not_matter_and_cannot_be_gained_from():
    x = sparse_maps(4, 3, 5, 5).requires_grad_()
    loss = spatial_compactness(x)
    torch.testing.assert_close(spatial_compactness(x * torch.tensor([1e-2, 1.0, 1e3])[:, None, None]), loss)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.abs().max() > 1e-3
    assert (gradient * x).sum().abs().item() < 1e-9


def test_gradient_by_finite_differences():
    assert torch.autograd.gradcheck(spatial_compactness, sparse_maps(2, 2, 3, 3).requires_grad_())


def test_degenerate_maps():
    x = torch.zeros(2, 2, 3, 3, requires_grad=True)
    spatial_compactness(x).backward()
    assert x.grad.isfinite().all()
    for bad in (math.nan, math.inf):
        x = sparse_maps(3, 2, 4, 4)
        x[1, 1, 2, 2] = bad
        assert spatial_compactness(x).isnan()
    with pytest.raises(ValueError, match="1 x 1"):
        spatial_compactness(torch.rand(2, 3, 1, 1))
    half = sparse_maps(3, 2, 4, 4).bfloat16()
    assert spatial_compactness(half) == spatial_compactness(half.float())
