import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.reduction import Reduction
from lightning_interp.methods.filters.maths.filter_losses import label_conditioned
from lightning_interp.methods.filters.maths.filter_templates import filter_templates
from tests.methods.filters.reference.filter_gradient import matlab_gradient


def sparse_maps(*shape, seed=0, dtype=torch.float64):
    """Maps after a ReLU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).relu()


def loss_and_gradient(x, *args, **kwargs):
    x = x.detach().clone().requires_grad_()
    found = label_conditioned(x, *args, **kwargs)
    found.loss.backward()
    return found, x.grad


class Ranks:
    """Threads that reduce with one another, for processes."""

    def __init__(self, world):
        self.world, self.slots, self.barrier = world, [None] * world, Barrier(world, timeout=20)

    def reduction(self, rank):
        return Reduction(lambda v: self._all(rank, v).sum(0), lambda v: self._all(rank, v).amax(0))

    def _all(self, rank, values):
        assert not values.requires_grad
        self.slots[rank] = values.clone()
        self.barrier.wait()
        everyone = torch.stack(self.slots)
        self.barrier.wait()
        return everyone

    def run(self, fn, *parts):
        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(lambda rank: fn(*(p[rank] for p in parts), self.reduction(rank)), range(self.world)))


# --- against the released code


@pytest.mark.parametrize("centre", ["argmax", "centroid"])
@pytest.mark.parametrize("shape", [(6, 4, 5, 5), (5, 3, 4, 6)])
def test_gradient_of_the_released_code_for_one_label(shape, centre):
    x, member = sparse_maps(*shape), torch.arange(shape[0]) % 2 == 0
    assignment = torch.zeros(shape[1], dtype=torch.int64)
    expected = matlab_gradient(x.numpy(), member[:, None].numpy(), 1, assignment, centre, [1.0], [1.0])
    _, gradient = loss_and_gradient(x, member[:, None], assignment, centre=centre, released=True)
    units = shape[0] * shape[2] * shape[3]
    np.testing.assert_allclose(units * gradient.numpy(), expected, atol=1e-12, rtol=0)
    _, gradient = loss_and_gradient(x.float(), member[:, None], assignment, centre=centre, released=True)
    np.testing.assert_allclose(units * gradient.numpy(), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("multilabel", [False, True])
def test_gradient_of_the_released_code_for_several_classes(multilabel):
    x, labels = sparse_maps(8, 6, 4, 4), torch.tensor([0, 1, 2, 0, 0, 1, 2, 1])
    member = torch.nn.functional.one_hot(labels, 3).bool()
    if multilabel:
        member[0, 2] = member[3, 1] = True
    assignment, density = torch.tensor([0, 1, 2, 2, 0, 1]), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    weights = (0.5 / density).numpy(), (0.5 / (1 - density)).numpy()
    expected = matlab_gradient(x.numpy(), member.numpy(), 3, assignment, "argmax", *weights)
    given_labels = member if multilabel else labels
    found, gradient = loss_and_gradient(x, given_labels, assignment, density, released=True)
    np.testing.assert_allclose(8 * 16 * gradient.numpy(), expected, atol=1e-12, rtol=0)
    # The loss is linear in x, but for what is constant.
    assert found.loss.item() == pytest.approx((gradient * x).sum().item(), abs=1e-12)


def test_the_weights_by_hand():
    """s = (1, .5, 0) and log Z = .4 give (8.128, 1.631, .1), of mean 1 (2.4733, .4963, .0304)."""
    # The code's template on 5 x 5 cells is 1 at the centre and 0 beside it, so that with the centre at the first cell
    # s is a 25th of that cell, and with another filter's centre at the second cell the energy is a 25th of the second:
    # .5 log((exp(1.2) + 2.2255 * 3 - exp(1.2) - 1 + 1) / 3) = .4.
    x = torch.zeros(3, 2, 5, 5, dtype=torch.float64)
    x[:, 0, 0, 0] = 25 * torch.tensor([1, 0.5, 0], dtype=torch.float64)
    x[:, 0, 0, 1] = 25 * torch.tensor([0.6, math.log(3 * math.exp(0.8) - math.exp(1.2) - 1) / 2, 0])
    x[:, 1, 0, 1] = 1.0
    _, gradient = loss_and_gradient(x, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0]), released=True)
    assert (-75 * gradient[:, 0, 0, 0]).tolist() == pytest.approx([2.4733, 0.4963, 0.0304], abs=5e-5)


# --- this project's own weights


def slow_weights(x, member, a=0.5):
    """u of one filter's images, scaled, paired with the next filter of the same image and clamped."""
    scaled = x / x.amax((0, 2, 3), keepdim=True).clamp(min=1e-30)
    templates = filter_templates(x)
    s = (scaled * templates).mean((2, 3))
    log_z = a * (((scaled * templates.flip(1)).mean((2, 3)) / a).exp().mean(0)).log()
    u = ((s / a).exp() * (s - log_z + a).clamp(min=0)).where(member, 0.0)
    return u / (u.sum(0) / member.sum(0))


def test_towards_the_template_and_away_from_others():
    """The gradient: -u template on images of the class, +v everywhere on the others."""
    x, labels, assignment = (
        sparse_maps(6, 4, 5, 5, seed=1),
        torch.tensor([0, 1, 0, 1, 1, 0]),
        torch.tensor([0, 0, 1, 1]),
    )
    _, gradient = loss_and_gradient(x, labels, assignment)
    member = labels[:, None] == assignment
    u = slow_weights(x, member)
    expected = -u[..., None, None] * filter_templates(x) / (6 * 25)
    positive = member[..., None, None].expand_as(x)
    torch.testing.assert_close(gradient[positive], expected[positive])
    outside = gradient[~positive].view(-1, 25)
    assert (outside > 0).all()
    assert (outside == outside[:, :1]).all()
    # Weights of mean 1 on either side.
    torch.testing.assert_close((gradient.amax((2, 3)) * ~member).sum(0) / 3, torch.full((4,), 1 / 150).double())


def test_weights_do_not_depend_on_the_scale_of_activations():
    x, labels, assignment = sparse_maps(16, 4, 7, 7), torch.arange(16) % 2, torch.arange(4) % 2
    _, one = loss_and_gradient(x, labels, assignment)
    for scale in (1e-3, 50.0, torch.tensor([1.0, 10.0, 0.1, 1e4])[:, None, None]):
        _, other = loss_and_gradient(x * scale, labels, assignment)
        torch.testing.assert_close(other, one)
    _, released = loss_and_gradient(x, labels, assignment, released=True)
    _, scaled = loss_and_gradient(200 * x, labels, assignment, released=True)
    assert not torch.allclose(released, scaled, rtol=0.5)


def test_dense_maps_have_weights_below_zero_that_are_clamped():
    """One large and even map, and small ones: in the released code it is pushed away from its template."""
    x = sparse_maps(8, 2, 7, 7)
    x[0] = 3.0
    labels, assignment = torch.zeros(8, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    released, pushed = loss_and_gradient(x, labels, assignment, released=True)
    clamped, ours = loss_and_gradient(x, labels, assignment)
    assert released.negative_share == 1 / 8
    assert clamped.negative_share == 1 / 8
    # At the centre of its template, where that is 1, a gradient above 0 makes it smaller.
    assert (pushed[0, :, 0, 0] > 1e-6).all()
    assert (ours[0] == 0).all()
    assert (ours[1:].flatten(2).amin(2) < 0).all()


def test_effective_number_of_images_at_any_scale():
    """In the released code few images carry the gradient once activations are large."""

    def effective(x, **kwargs):
        _, gradient = loss_and_gradient(x, labels, assignment, **kwargs)
        weight = gradient.abs().amax((2, 3))
        return (weight.sum(0) ** 2 / weight.square().sum(0)).mean()

    x = sparse_maps(32, 8, 14, 14)
    labels, assignment = torch.zeros(32, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)
    assert effective(200 * x, released=True) < 3
    assert effective(200 * x) > 25


# --- sums over processes


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4]), st.booleans())
def test_any_equal_split_over_processes(seed, world, weighed):
    x, generator = sparse_maps(12, 5, 3, 4, seed=seed), torch.Generator().manual_seed(seed)
    labels, assignment = torch.randint(3, (12,), generator=generator), torch.randint(3, (5,), generator=generator)
    density = torch.tensor([0.2, 0.5, 0.3]) if weighed else None
    whole, expected = loss_and_gradient(x, labels, assignment, density)

    def part(x, labels, reduction):
        return loss_and_gradient(x, labels, assignment, density, reduction=reduction)

    parts = Ranks(world).run(part, x.chunk(world), labels.chunk(world))
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]) / world, expected)
    torch.testing.assert_close(torch.stack([found.loss for found, _ in parts]).mean(), whole.loss)
    for found, _ in parts:
        torch.testing.assert_close(found[1:], whole[1:])


def test_a_process_without_a_positive_image():
    """In float32, as in training: half of the batch lacks the class, the other half has nothing else."""
    x, labels = sparse_maps(8, 3, 5, 5, dtype=torch.float32), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assignment = torch.ones(3, dtype=torch.int64)
    whole, expected = loss_and_gradient(x, labels, assignment)
    calls = []

    def part(x, labels, reduction):
        calls.append(reduction)
        return loss_and_gradient(x, labels, assignment, reduction=reduction)

    parts = Ranks(2).run(part, x.chunk(2), labels.chunk(2))
    torch.testing.assert_close(torch.cat([g for _, g in parts]) / 2, expected, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(sum(f.loss for f, _ in parts) / 2, whole.loss, atol=1e-7, rtol=1e-6)
    alone, _ = loss_and_gradient(x[:4], labels[:4], assignment)
    assert alone.loss == 0
    assert parts[0][0].loss != 0


def test_activations_that_are_not_finite_are_known_to_all_processes():
    x, labels, assignment = sparse_maps(4, 2, 3, 3), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1])
    x[0, 0, 0, 0] = math.nan

    def part(x, labels, reduction):
        return label_conditioned(x, labels, assignment, reduction=reduction)

    assert all(found.loss.isnan() for found in Ranks(2).run(part, x.chunk(2), labels.chunk(2)))


# --- degenerate inputs


def test_diagnostics():
    x = torch.zeros(2, 3, 2, 2)
    x[0, 0, 0, 1], x[1, 0, 1, 1], x[1, 2, 0, 0] = 2.0, 4.0, 6.0
    found = label_conditioned(x, torch.tensor([0, 1]), torch.tensor([0, 1, 2]))
    assert found.dead.tolist() == [False, True, False]
    assert found.mean_peak == 2
    assert found.positives.tolist() == [1, 1, 0]
    assert found.negative_share == 0


def test_a_filter_without_an_image_of_its_class_adds_nothing():
    x, labels = sparse_maps(4, 3, 3, 3), torch.tensor([0, 1, 1, 0])
    _, gradient = loss_and_gradient(x, labels, torch.tensor([0, 2, 1]), torch.tensor([0.5, 0.5, 0.0]))
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, [0, 2]] != 0).any((0, 2, 3)).all()


def test_one_class_only_still_has_the_first_term():
    x = sparse_maps(4, 2, 3, 3)
    _, gradient = loss_and_gradient(x, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0]), torch.tensor([1.0]))
    u = slow_weights(x, torch.ones(4, 2, dtype=torch.bool))
    torch.testing.assert_close(gradient, -0.5 * u[..., None, None] * filter_templates(x) / 36)


@pytest.mark.parametrize("centre", ["argmax", "centroid"])
def test_maps_of_zeros(centre):
    x, labels = torch.zeros(3, 2, 4, 4), torch.tensor([0, 1, 0])
    found, gradient = loss_and_gradient(x, labels, torch.tensor([0, 1]), centre=centre)
    assert found.loss == 0
    assert gradient.isfinite().all()
    assert found.dead.all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("assignment", [[0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 2, 1]])
@pytest.mark.parametrize("centre", ["argmax", "centroid"])
def test_activations_that_are_not_finite_are_not_hidden(bad, assignment, centre):
    """Nor where the filter they are of adds nothing."""
    x = sparse_maps(4, 3, 3, 3)
    x[2, 1, 1, 1] = bad
    found = label_conditioned(x, torch.tensor([0, 0, 1, 1]), torch.tensor(assignment), centre=centre)
    assert found.loss.isnan()


@pytest.mark.parametrize("released", [False, True])
def test_large_activations_do_not_overflow(released):
    """Weights of energies of 200 over 1/2, in float32 as in float64, where exp does not overflow yet."""
    x = torch.zeros(8, 4, 5, 5, dtype=torch.float64)
    x[:, :, 1, 2] = 5000 - 10 * sparse_maps(8, 4)
    labels, assignment = torch.arange(8) % 2, torch.arange(4) % 2
    _, expected = loss_and_gradient(x, labels, assignment, released=released)
    found, gradient = loss_and_gradient(x.float(), labels, assignment, released=released)
    assert found.loss.isfinite()
    torch.testing.assert_close(gradient, expected.float(), rtol=1e-3, atol=1e-6)


def test_a_batch_of_one_and_half_precision():
    x = sparse_maps(1, 3, 4, 4, dtype=torch.float32)
    labels, assignment = torch.tensor([1]), torch.tensor([0, 1, 1])
    expected, gradient = loss_and_gradient(x.bfloat16().float(), labels, assignment)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, half = loss_and_gradient(x.bfloat16(), labels, assignment)
    assert found.loss.dtype == torch.float32
    assert found.loss == expected.loss
    torch.testing.assert_close(half, gradient.bfloat16())


def test_one_graph_when_compiled():
    x, labels, assignment = sparse_maps(4, 4, 3, 3, dtype=torch.float32), torch.arange(4) % 2, torch.arange(4) % 2
    compiled = torch.compile(label_conditioned, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, labels, assignment).loss, label_conditioned(x, labels, assignment).loss)


@pytest.mark.parametrize(
    ("x", "labels", "assignment", "message"),
    [
        (torch.rand(2, 3, 1, 1), torch.zeros(2).long(), torch.zeros(3).long(), r"\(2, 3, 1, 1\) are 1 x 1"),
        (torch.rand(2, 3), torch.zeros(2).long(), torch.zeros(3).long(), r"got \(2, 3\)"),
        (torch.rand(0, 3, 2, 2), torch.zeros(0).long(), torch.zeros(3).long(), r"got \(0, 3, 2, 2\)"),
        (torch.ones(2, 3, 2, 2).long(), torch.zeros(2).long(), torch.zeros(3).long(), "of torch.int64"),
        (torch.rand(2, 3, 2, 2), torch.zeros(2).long(), torch.zeros(4).long(), r"assignment of shape \(4,\)"),
        (torch.rand(2, 3, 2, 2), torch.zeros(3).long(), torch.zeros(3).long(), "labels must be"),
        (torch.rand(2, 3, 2, 2), torch.zeros(2), torch.zeros(3).long(), "labels must be"),
        (torch.rand(2, 3, 2, 2), torch.zeros(2, 1), torch.zeros(3).long(), "labels must be"),
    ],
)
def test_what_does_not_fit_is_refused(x, labels, assignment, message):
    with pytest.raises(ValueError, match=message):
        label_conditioned(x, labels, assignment)
