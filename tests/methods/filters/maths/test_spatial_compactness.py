import math

import pytest
import torch

from lightning_interp.methods.filters.maths.spatial_compactness import spatial_compactness
from tests.methods.filters.maths.test_filter_losses import sparse_maps


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
    torch.testing.assert_close(spatial_compactness(x * torch.tensor([0.1, 1.0, 3.0])[:, None, None]), loss)
    torch.testing.assert_close(spatial_compactness(1e3 * x), loss)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.abs().max() > 1e-3
    assert (gradient * x).sum().abs().item() < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_floor_changes_no_bit_for_filters_that_fire(seed, monkeypatch):
    scale = torch.logspace(-1.5, 0.5, 16)[:, None, None]
    x = (scale * sparse_maps(8, 16, 7, 5, seed=seed, dtype=torch.float32)).requires_grad_()
    loss = spatial_compactness(x)
    name = "lightning_interp.methods.filters.maths.spatial_compactness.least_scale"
    monkeypatch.setattr(name, lambda scale: torch.zeros(()))
    without = spatial_compactness(x)
    assert torch.equal(loss, without)
    assert torch.equal(*(torch.autograd.grad(value, x)[0] for value in (loss, without)))


@pytest.mark.parametrize("scale", [1e-5, 1e-9])
def test_a_filter_that_fades_is_not_blown_up_by_one_step(scale):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator) / 5
    weight[0] *= scale
    weight.requires_grad_()
    maps = torch.nn.functional.conv2d(torch.randn(16, 3, 12, 12, generator=generator), weight).relu()
    (gradient,) = torch.autograd.grad(0.1 * spatial_compactness(maps), weight)
    norms = (weight - 0.1 * gradient).flatten(1).norm(dim=1)
    assert norms[0] < 0.1 * norms[1:].min()


def test_gradients_by_finite_differences():
    x = sparse_maps(2, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(spatial_compactness, x)
    assert torch.autograd.gradgradcheck(spatial_compactness, x)


def test_single_precision_loses_six_digits_at_most():
    x = sparse_maps(8, 4, 28, 28)
    found, exact = ((loss, torch.autograd.grad(loss, y)[0]) for y, loss in map(with_loss, (x.float(), x)))
    assert found[0].item() == pytest.approx(exact[0].item(), rel=1e-6)
    assert (found[1] - exact[1]).norm() < 1e-6 * exact[1].norm()


def with_loss(x):
    x = x.clone().requires_grad_()
    return x, spatial_compactness(x)


def test_autocast_changes_nothing():
    x = sparse_maps(3, 2, 4, 4, dtype=torch.float32).requires_grad_()
    loss = spatial_compactness(x)
    with torch.autocast("cpu", torch.bfloat16):
        inside = spatial_compactness(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss)
    assert torch.equal(*(torch.autograd.grad(value, x)[0] for value in (inside, loss)))


def test_a_centre_on_a_cell_has_a_slope_of_any_order():
    """Where nothing fires, the centre of 3 x 3 cells is the middle one."""
    for x in (torch.zeros(1, 1, 3, 3), torch.eye(3)[None, None]):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(spatial_compactness(x), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
        assert gradient.isfinite().all()
        assert second.isfinite().all()


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
