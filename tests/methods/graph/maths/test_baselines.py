"""Baselines: a part that moves is found wherever it is, noise gives nothing above chance."""

import math

import pytest
import torch
from torch import nn

from lightning_interp.functional.peaks import cell_points, find_peaks
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.maths.baselines import FoundParts, PatchDetectors, gradient_parts, learn_patches
from lightning_interp.methods.graph.maths.evaluation import evaluate_points

GRID = Grid(Axis.cells(8, 64), Axis.cells(8, 64))


def noise_maps(seed, images=24, channels=12):
    """Channels that are correlated, and of different means and scales, as those of a network."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=torch.Generator().manual_seed(99))
    maps = torch.randn(images, channels, 8, 8, generator=generator)
    return torch.einsum("dc,nchw->ndhw", mixing, maps) + torch.arange(channels)[:, None, None]


def planted_maps(seed, images=24):
    """A column of its own at a cell of each image, and the cells."""
    generator = torch.Generator().manual_seed(seed)
    maps = noise_maps(seed, images)
    cells = torch.randint(0, 64, (images,), generator=generator)
    column = 4 * torch.randn(12, generator=torch.Generator().manual_seed(7))
    maps.flatten(2)[torch.arange(images), :, cells] += column
    return maps, cells


def test_patches_find_a_moving_part():
    maps, cells = planted_maps(0)
    detectors = learn_patches(maps, noise_maps(1, 40), number=3)
    found = detectors.detect(maps, GRID)
    assert found.point.shape == (24, len(detectors.weight), 2)
    right = (found.point[:, 0] == cell_points(GRID)[cells]).all(1)
    assert right.double().mean() >= 0.9
    # On images that it never saw, it fires on the part alone.
    new, there = planted_maps(2)
    again = detectors.detect(new, GRID)
    assert (again.point[:, 0] == cell_points(GRID)[there]).all(1).double().mean() >= 0.9
    assert (again.score[:, 0] > 0).double().mean() >= 0.9
    assert detectors.discriminativeness[0] > 0.8
    row = evaluate_points(again.point[..., :1, :], again.score[:, :1], cell_points(GRID)[there][:, None], GRID)
    assert row.correlation > 0.9


def test_patches_of_noise_are_not_above_chance():
    maps = noise_maps(3)
    detectors = learn_patches(maps, noise_maps(1, 40))
    # What recurs by chance is as frequent among the negatives, but for those it was chosen by.
    assert len(detectors.weight) < 10 or detectors.discriminativeness.mean() < 0.8
    landmarks = torch.rand(24, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 64
    found = learn_patches(planted_maps(0)[0], noise_maps(1, 40)).detect(maps, GRID)
    row = evaluate_points(found.point, found.score, landmarks, GRID)
    assert abs(row.correlation - row.correlation_chance) < 0.2


def test_detectors_fire_by_their_bias_and_in_standard_deviations_of_negatives():
    maps, _ = planted_maps(0)
    negatives = noise_maps(1, 40)
    detectors = learn_patches(maps, negatives, number=2)
    response = torch.einsum("vc,nchw->vnhw", detectors.weight, negatives).flatten(1)
    assert response.std(1) == pytest.approx(torch.ones(2).numpy(), abs=0.1)
    assert ((response + detectors.bias[:, None]) > 0).double().mean() < 0.005


def test_patches_by_seed():
    maps, _ = planted_maps(0)
    one, two, other = (learn_patches(maps, noise_maps(1, 40), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert one.weight.shape != other.weight.shape or not torch.equal(one.weight, other.weight)


def test_no_patch_that_recurs():
    """Images of the mean negative: nothing fires, and an evaluation of nothing is undefined."""
    negatives = noise_maps(1, 40)
    empty = learn_patches(negatives.mean((0, 2, 3))[:, None, None].expand(6, 12, 8, 8), negatives)
    assert empty.weight.shape == (0, 12)
    found = empty.detect(noise_maps(3), GRID)
    row = evaluate_points(found.point, found.score, torch.rand(24, 1, 2).double() * 64, GRID)
    assert row.scored == 0
    assert math.isnan(row.instability)


@pytest.mark.parametrize(("maps", "negatives"), [((3, 4), (5, 4)), ((6, 4), (1, 4)), ((6, 4), (6, 5))])
def test_too_few_images(maps, negatives):
    with pytest.raises(ValueError, match="with the same channels"):
        learn_patches(torch.zeros(*maps, 8, 8), torch.zeros(*negatives, 8, 8))


def test_detections_are_the_first_largest_response():
    detectors = PatchDetectors(torch.tensor([[1.0, -1.0]]), torch.tensor([-0.5]), *torch.ones(2, 1))
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 2, 5], maps[0, 1, 4, 4] = 2, 3
    found = detectors.detect(maps, GRID)
    # Cells of 8 pixels: centre of column 5 at 43.5, of row 2 at 19.5.
    torch.testing.assert_close(found, FoundParts(torch.tensor([[[43.5, 19.5]]]).double(), torch.tensor([[1.5]])))


def texture_images(seed, images=20):
    """Faint noise with a patch of stripes, and the patch's centre."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.05 * torch.randn(images, 3, 48, 48, generator=generator)
    corner = torch.randint(2, 38, (images, 2), generator=generator)
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(8, 8)
    for picture, (x, y) in zip(pictures, corner.tolist(), strict=True):
        picture[:, y : y + 8, x : x + 8] += stripes
    return pictures, corner.double() + 3.5


class Stripes(nn.Module):
    """Channel 0 answers stripes, 1 nothing, 2 a mean that the images do not have."""

    def forward(self, x):
        kernel = torch.zeros(3, 3, 5, 5)
        kernel[0] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
        kernel[2] = 1.0
        return nn.functional.conv2d(x, kernel, padding=2) - torch.tensor([20.0, 0, 20])[:, None, None]


def test_gradients_find_a_moving_texture():
    images, centres = texture_images(0)
    found = gradient_parts(Stripes(), images, torch.tensor([2, 0]))
    assert found.point.shape == (20, 2, 2)
    assert (found.point[:, 1] - centres).norm(dim=1).max() < 4
    row = evaluate_points(found.point, found.score, centres[:, None], Grid(Axis.cells(48, 48), Axis.cells(48, 48)))
    assert row.correlation > 0.95
    # A channel that never fires has no gradient, thus no place.
    assert row.scored == 1
    assert found.point[:, 0].isnan().all()
    assert (found.score[:, 0] == 0).all()


def test_gradients_are_those_of_the_summed_channel():
    """Beside differences: one pixel at a time on an image of 6 x 6."""
    generator = torch.Generator().manual_seed(2)
    net = nn.Conv2d(3, 2, 3).double()
    with torch.no_grad():
        for each in net.parameters():
            each.copy_(torch.randn(each.shape, generator=generator))
    image = torch.randn(1, 3, 6, 6, dtype=torch.float64, generator=generator)
    found = gradient_parts(net, image, torch.tensor([1]))
    slope = torch.zeros(3, 6, 6, dtype=torch.float64)
    for at in torch.cartesian_prod(torch.arange(3), torch.arange(6), torch.arange(6)).tolist():
        nudge = torch.zeros_like(image)
        nudge[(0, *at)] = 1e-6
        up, down = (net(image + sign * nudge)[0, 1].clamp(min=0).sum().item() for sign in (1, -1))
        slope[tuple(at)] = (up - down) / 2e-6
    # A Gaussian of 4 / 224 of 6 pixels reaches no other pixel.
    place = int(slope.norm(dim=0).flatten().argmax())
    assert found.point[0, 0].tolist() == [place % 6, place // 6]
    assert found.score.item() == pytest.approx(net(image)[0, 1].clamp(min=0).max().item())


def test_gradients_of_noise_are_not_above_chance():
    images = torch.randn(30, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    net = nn.Conv2d(3, 20, 5, stride=2)
    landmarks = torch.rand(30, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 24
    found = gradient_parts(net, images, torch.arange(20))
    row = evaluate_points(found.point, found.score, landmarks, Grid(Axis.cells(12, 24), Axis.cells(12, 24)))
    assert abs(row.correlation - row.correlation_chance) < 0.15
    assert net.weight.grad is None


def test_planted_maps_are_not_trivial():
    """No single channel finds the planted column."""
    maps, cells = planted_maps(0)
    hits = (find_peaks(maps).cell == cells[:, None]).double().mean(0)
    assert hits.max() < 0.9
