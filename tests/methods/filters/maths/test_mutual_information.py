import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.methods.filters.maths.mutual_information import mutual_information
from tests.methods.filters.maths.test_filter_losses import sparse_maps
from tests.methods.filters.reference.filter_gradient import information_loss


def test_by_hand():
    """n = 2, tau = 1: one map with a peak of 1 and one of zeros."""
    x = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    x[0, 0, 0, 0] = 1.0
    x.requires_grad_()
    loss = mutual_information(x, tau=4.0, relative=False)
    loss.backward()
    assert loss.item() == pytest.approx(-0.0719963, abs=5e-8)
    assert x.grad[0].flatten().tolist() == pytest.approx([-0.1666, 0.0712, 0.0712, 0.0712], abs=5e-5)
    assert x.grad[1].flatten().tolist() == pytest.approx([0.1256, -0.0070, -0.0070, -0.0070], abs=5e-5)


@pytest.mark.parametrize("shape", [(5, 1, 3, 3), (4, 1, 2, 5)])
@pytest.mark.parametrize("tau", [0.5, 20.0])
def test_gradient_is_minus_the_printed_equation_4(shape, tau):
    x = sparse_maps(*shape).requires_grad_()
    loss = mutual_information(x, tau, relative=False)
    loss.backward()
    expected, printed = information_loss(x.detach()[:, 0].numpy(), tau / (shape[2] * shape[3]))
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(x.grad[:, 0], -torch.from_numpy(printed), atol=1e-10, rtol=0)
    assert x.grad.abs().max() > 1e-4


def test_filters_add_up():
    x = sparse_maps(4, 3, 3, 3)
    parts = [mutual_information(x[:, f : f + 1], 9.0, relative=False) for f in range(3)]
    torch.testing.assert_close(mutual_information(x, 9.0, relative=False), sum(parts))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.1, 1e3))
def test_bounds(seed, batch, tau):
    """0 <= MI <= log B, and log of the number of templates."""
    loss = mutual_information(sparse_maps(batch, 1, 2, 3, seed=seed), tau).item()
    assert -min(math.log(batch), math.log(7)) - 1e-9 <= loss <= 1e-9


def test_one_place_an_image_tells_most_of_the_template():
    """Maps with one sharp peak, each elsewhere, come near log 8 = 2.08; copies of one map tell nothing."""
    x = torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3)
    assert mutual_information(x[:8], 1e4).item() < -1.7
    assert mutual_information(x[:1].expand(8, 1, 3, 3), 1e4).item() == pytest.approx(0, abs=1e-9)


def test_relative_to_the_largest_activation():
    x = sparse_maps(5, 2, 3, 3).requires_grad_()
    one, ten = mutual_information(x), mutual_information(10 * x)
    torch.testing.assert_close(one, ten)
    assert one < -0.1
    # Not detached: growing gains nothing.
    (gradient,) = torch.autograd.grad(one, x)
    assert (gradient * x).sum().abs().item() < 1e-9
    absolute = mutual_information(x, relative=False)
    assert not torch.allclose(absolute, mutual_information(10 * x, relative=False))


@pytest.mark.parametrize("relative", [False, True])
def test_degenerate_maps(relative):
    x = torch.zeros(3, 2, 4, 4, requires_grad=True)
    loss = mutual_information(x, relative=relative)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert x.grad.isfinite().all()
    for bad in (math.nan, math.inf):
        x = sparse_maps(3, 2, 4, 4)
        x[1, 1, 2, 2] = bad
        assert mutual_information(x, relative=relative).isnan()
    large = (1e4 * sparse_maps(3, 2, 4, 4, dtype=torch.float32)).requires_grad_()
    mutual_information(large, relative=relative).backward()
    assert large.grad.isfinite().all()


def test_half_precision_and_autocast():
    x = sparse_maps(4, 2, 4, 4, dtype=torch.float32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mutual_information(x)
    assert loss.dtype == torch.float32
    assert loss == mutual_information(x.float())


def test_what_is_refused():
    with pytest.raises(ValueError, match="1 x 1"):
        mutual_information(torch.rand(2, 3, 1, 1))
    for tau in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tau"):
            mutual_information(torch.rand(2, 3, 2, 2), tau)
