"""Poses and displacements by pose, against least squares written out."""

import numpy as np
import pytest
import torch

from lightning_interp.methods.graph.maths.mixture import Units
from lightning_interp.methods.graph.maths.pose import first_pose, gains, pose_of, swayed, sways
from tests.helpers.graph_maps import blobs, grid_of


def local(values):
    return values


def problem(seed=0, images=6, filters=2, patterns=3, number=2):
    """Masses, pulls, widths, A and z that are consistent with nothing in particular."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    mass = normal(images, filters, patterns).abs()
    pull = normal(images, filters, patterns, 2)
    width = 0.1 + normal(filters, patterns).abs()
    return mass, pull, width, normal(filters, patterns, 2, number), normal(images, number)


def cost(mass, pull, width, sway, pose, penalty):
    """What the M-steps minimise, but for a constant: the expected log-density of positions, z and A."""
    total = (pose**2).sum() / 2 + penalty * (sway**2).sum() / 2
    for i, c, p in np.ndindex(*mass.shape):
        delta = sway[c, p] @ pose[i]
        total += (mass[i, c, p] * delta @ delta - 2 * pull[i, c, p] @ delta) / (2 * width[c, p] ** 2)
    return total


def gradient(function, values):
    values = values.clone().requires_grad_()
    return torch.autograd.grad(function(values), values)[0]


def test_the_pose_is_the_likeliest():
    mass, pull, width, sway, _ = problem()
    pose = pose_of(mass, pull, width, sway)
    slope = gradient(lambda z: cost(mass, pull, width, sway, z, 0.7), pose)
    assert slope.abs().max() < 1e-10
    assert pose.abs().max() > 0.1


def test_the_displacement_by_pose_is_the_likeliest():
    mass, pull, width, _, pose = problem()
    sway = sways(mass, pull, pose, width, 0.7, local)
    slope = gradient(lambda a: cost(mass, pull, width, a, pose, 0.7), sway)
    assert slope.abs().max() < 1e-10
    assert sway.abs().max() > 0.1


def test_what_a_pose_gains_in_each_image():
    mass, pull, width, sway, pose = problem()
    found = gains(mass, pull, pose, width, sway)
    rows = [slice(i, i + 1) for i in range(len(pose))]
    wanted = [-cost(mass[row], pull[row], width, sway, pose[row], 0.0) for row in rows]
    torch.testing.assert_close(found, torch.stack(wanted))
    assert gains(mass, pull, 0 * pose, width, sway).tolist() == [0] * 6


def test_a_pattern_that_explains_nothing_is_not_displaced_without_a_penalty_either():
    mass, pull, width, _, pose = problem()
    mass[:, 1, 2], pull[:, 1, 2] = 0, 0
    sway = sways(mass, pull, pose, width, 0.0, local)
    assert sway[1, 2].tolist() == [[0, 0], [0, 0]]
    assert sway[0].abs().max() > 0.1


def test_an_image_without_activation_has_the_mean_pose():
    mass, pull, width, sway, _ = problem()
    mass[2], pull[2] = 0, 0
    assert pose_of(mass, pull, width, sway)[2].tolist() == [0, 0]
    assert pose_of(mass[:0], pull[:0], width, sway).shape == (0, 2)


def test_displacement_of_two_images_by_hand():
    sway = torch.tensor([[[[1.0, 2.0], [0.0, -1.0]]]], dtype=torch.float64)
    found = swayed(sway, torch.tensor([[1.0, 1.0], [0.0, 3.0]], dtype=torch.float64))
    assert found.flatten(0, 2).tolist() == [[3, -1], [6, -3]]


@pytest.mark.parametrize("number", [1, 2])
def test_the_first_guess_follows_what_moves_together(number):
    images, grid = 30, grid_of(12, 12, 8)
    step = torch.linspace(-20, 20, images, dtype=torch.float64)[torch.randperm(images, generator=torch.Generator())]
    places = torch.full((images, 4, 1, 2), 48.0, dtype=torch.float64)
    places[..., 0] += step[:, None, None]
    maps = blobs(places, grid, 6)
    units = Units(*(torch.tensor(axis.anchors) / 96 for axis in (grid.columns, grid.rows)))
    pose = first_pose(maps, torch.ones(images, dtype=torch.float64), units, number, local)
    assert pose.shape == (images, number)
    assert abs(np.corrcoef(pose[:, 0], step)[0, 1]) > 0.99
    assert pose[:, 0].square().mean().item() == pytest.approx(1, abs=0.05)
    # An image without weight has no say.
    heavy = torch.ones(images + 1, dtype=torch.float64)
    heavy[-1] = 0
    more = first_pose(torch.cat([maps, maps.flip(2)[:1]]), heavy, units, number, local)
    torch.testing.assert_close(more[:-1], pose, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", [0.2, 5.0])
def test_the_first_guess_takes_no_strength_of_a_filter_for_a_place(level):
    images, grid, draw = 40, grid_of(12, 12, 8), torch.Generator().manual_seed(0)
    step = torch.randn(images, generator=draw, dtype=torch.float64).clamp(-2, 2) * 8
    places = torch.full((images, 6, 1, 2), 48.0, dtype=torch.float64)
    places[..., 0] += step[:, None, None]
    strength = 0.5 + torch.rand(images, 6, 1, 1, generator=draw)
    strength[:, :3] *= level
    units = Units(*(torch.tensor(axis.anchors) / 96 for axis in (grid.columns, grid.rows)))
    pose = first_pose(blobs(places, grid, 6) * strength, torch.ones(images, dtype=torch.float64), units, 1, local)
    assert abs(np.corrcoef(pose[:, 0], step)[0, 1]) > 0.95
    assert pose.mean().item() == pytest.approx(0, abs=0.05)
    assert pose.square().mean().item() == pytest.approx(1, abs=0.05)
