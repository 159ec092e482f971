"""What part patterns are compared with: mid-level patches (Singh et al. 2012) and gradient maps (Simon et al. 2014).

Both give a point and a score for each part and image, to be evaluated as patterns are
(:func:`~lightning_interp.methods.graph.maths.evaluation.evaluate_points`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.peaks import find_peaks, peak_points
from lightning_interp.functional.upsampling import Axis, Grid

_MEMBERS = 5
"""Patches that a detector is trained on, m; Singh et al., section 3."""

_RANKED = 10
"""Detections that purity is taken of, r > m; section 4."""

_ROUNDS = 4
"""Exchanges of the two halves; section 3.1: they converge in four to five."""

_FALSE_SHARE = 1e-3
"""Share of negative patches on which a detector may fire."""

_SHRINKAGE = 0.1
"""Share of the mean variance in the covariance of negatives, for there may be fewer patches than channels."""

_SMOOTHING = 4 / 224
"""Width of the Gaussian over gradient maps, by the side of the image."""

_BATCH = 16
"""Images at a time."""


class FoundParts(NamedTuple):
    """Where V parts are in N images.

    Attributes:
        point: ``(N, V, 2)`` float64, x and y in pixels; NaN where there is none.
        score: ``(N, V)`` float32, how strong each is.
    """

    point: Tensor
    score: Tensor


class PatchDetectors(NamedTuple):
    """Linear detectors of patches, best first.

    Attributes:
        weight: ``(V, C)`` float32.
        bias: ``(V,)`` float32; a detector fires where weight times column plus bias is above 0.
        purity: ``(V,)`` float32, mean score of the ten best detections in the half that it was not trained on.
        discriminativeness: ``(V,)`` float32, firings there over those there and on the negatives of that half, each
            counted as a share of patches.
    """

    weight: Tensor
    bias: Tensor
    purity: Tensor
    discriminativeness: Tensor

    def detect(self, maps: Tensor, grid: Grid) -> FoundParts:
        """The best patch of each detector on every image.

        Args:
            maps: ``(N, C, h, w)`` floating point, of the layer that they were learnt from.
            grid: The maps' place on the image.
        """
        peaks = find_peaks(torch.einsum("vc,nchw->nvhw", self.weight, maps.float()) + self.bias[:, None, None])
        return FoundParts(peak_points(peaks.cell, grid), peaks.value)


def learn_patches(
    maps: Tensor, negatives: Tensor, *, number: int = 100, per_image: int = 20, seed: int = 0
) -> PatchDetectors:
    """Mid-level discriminative patches of Singh, Gupta and Efros (ECCV 2012, Algorithm 1).

    As in the paper: discovery images and negatives are halved; patches of one half are clustered by k-means, into a
    quarter as many clusters, of which those of fewer than three are dropped; a linear detector of each cluster against
    the negatives of its half is run on the other half, where its five best detections become the cluster, and the
    halves change roles, four times; detectors that fire on fewer than two patches are dropped; the rest are ranked by
    purity and discriminativeness.

    Simplified: a patch is a column of one layer's map, at the one scale of its receptive field, in place of HOG at
    seven; the detector is the linear discriminant by the covariance of the negatives (Hariharan, Malik and Ramanan,
    ECCV 2012) in place of a SVM with mined hard negatives, fires where at most one of a thousand negatives would, and
    is scored in standard deviations of the negatives; it finds one patch an image at most; purity is divided by its
    largest value before the two are added, for the scores have no margin of 1 here.

    Args:
        maps: ``(N, C, h, w)`` floating point, maps of the discovery images; N at least 4.
        negatives: ``(N', C, h', w')``, maps of images without the object; N' at least 2.
        number: Detectors, at most; fewer, or none, where fewer patches recur.
        per_image: Patches of each image that are clustered.
        seed: For halves, patches and clusters.

    Raises:
        ValueError: If there are too few images, or the channels differ.
    """
    if len(maps) < 4 or len(negatives) < 2 or maps.shape[1] != negatives.shape[1]:
        shapes = f"maps of shape {tuple(maps.shape)}, negatives of {tuple(negatives.shape)}"
        raise ValueError(f"{shapes}; give 4 images and 2 negatives or more, with the same channels")
    generator = torch.Generator().manual_seed(seed)
    halves = _halves(maps, generator)
    worlds = [_World.of(each.flatten(0, 1)) for each in _halves(negatives, generator)]
    drawn = torch.rand(halves[0].shape[:2], generator=generator).argsort(1)[:, :per_image, None]
    patches = halves[0].gather(1, drawn.expand(-1, -1, maps.shape[1])).flatten(0, 1)
    weight, bias = worlds[0].train(_cluster_means(patches, worlds[0], generator))
    for turn in range(1, _ROUNDS + 1):
        half = halves[turn % 2]
        score, columns = _detections(weight, bias, half, _MEMBERS)
        fires = (score > 0)[..., None]
        means = torch.where(fires, columns, 0.0).sum(1) / fires.sum(1).clamp(min=1)
        weight, bias = worlds[turn % 2].train(means[fires.sum((1, 2)) >= 2])
    half, world = halves[(_ROUNDS + 1) % 2], worlds[(_ROUNDS + 1) % 2]
    purity = _detections(weight, bias, half, _RANKED)[0].mean(1)
    own, other = (((each @ weight.T + bias) > 0).float().mean(0) for each in (half.flatten(0, 1), world.columns))
    share = own / (own + other).clamp(min=1e-12)
    best = (purity / purity.abs().amax(0, keepdim=True) + share if len(share) else share).argsort(descending=True)
    best = best[:number]
    return PatchDetectors(weight[best], bias[best], purity[best], share[best])


class _World(NamedTuple):
    """Negatives of a half: ``(P, C)`` columns, their mean, and the lower Cholesky factor of their covariance."""

    columns: Tensor
    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, columns: Tensor) -> "_World":
        mean = columns.mean(0)
        centred = columns - mean
        covariance = (centred.T @ centred).double() / len(columns)
        ridge = _SHRINKAGE * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(len(mean), dtype=torch.float64)
        return cls(columns, mean, torch.linalg.cholesky(covariance + ridge).float())

    def white(self, columns: Tensor) -> Tensor:
        """Columns ``(..., C)`` in which negatives have no mean and no correlation."""
        white: Tensor = torch.linalg.solve_triangular(self.factor, (columns - self.mean).T, upper=False)
        return white.T

    def train(self, positive: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``(K, C)`` and biases of the detectors of mean columns ``(K, C)``."""
        direction = torch.nn.functional.normalize(self.white(positive), dim=1)
        weight = torch.linalg.solve_triangular(self.factor.T, direction.T, upper=True).T
        response = self.columns @ weight.T
        # Not 1 already, for the shrinkage.
        scale = (response - response.mean(0)).square().mean(0).sqrt().clamp(min=1e-12)
        allowed = int(_FALSE_SHARE * len(response)) + 1
        return weight / scale[:, None], -response.topk(allowed, dim=0).values[-1] / scale


def _halves(maps: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Two halves of the images, each ``(n, h * w, C)`` float32."""
    order = torch.randperm(len(maps), generator=generator)
    return [maps[rows].float().flatten(2).transpose(1, 2).contiguous() for rows in order.tensor_split(2)]


def _cluster_means(patches: Tensor, world: _World, generator: torch.Generator) -> Tensor:
    """Means ``(K, C)`` of clusters of three patches or more, by k-means of directions among the negatives."""
    directions = torch.nn.functional.normalize(world.white(patches), dim=1)
    centres = directions[torch.randperm(len(patches), generator=generator)[: max(len(patches) // 4, 1)]]
    for _ in range(10):
        own = (directions @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, own, directions)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, torch.nn.functional.normalize(sums, dim=1), centres)
    number = torch.bincount(own, minlength=len(centres))[:, None]
    means = torch.zeros_like(centres).index_add_(0, own, patches) / number
    return means[number[:, 0] >= 3]


def _detections(weight: Tensor, bias: Tensor, half: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Scores ``(K, m)`` of each detector's best patches, one an image, best first, and their columns ``(K, m, C)``."""
    score, cell = (half @ weight.T + bias).max(1)
    best = score.topk(min(number, len(half)), dim=0)
    return best.values.T, half[best.indices, cell.gather(0, best.indices)].transpose(0, 1)


def gradient_parts(forward: Callable[[Tensor], Tensor], images: Tensor, channels: Tensor) -> FoundParts:
    """Part detector discovery of Simon, Rodner and Denzler (ACCV 2014, section 3): channels by their gradient maps.

    As in the paper: each channel of a layer is a part detector; its gradient map is the derivative of the sum of its
    rectified activations by the pixels of the image, as a norm over colours; the part is where that map is largest,
    and is hidden where the map is zero.

    Simplified: the place is the maximum of the map after a Gaussian of 4 pixels of 224, as the authors' code has among
    others, in place of the main component of a mixture of two Gaussians; channels are not chosen by annotated parts.
    The score, which the paper has not, is the channel's largest activation.

    Args:
        forward: ``(B, 3, H, W)`` images to the layer's ``(B, C, h, w)`` maps, before or after ReLU, image by image
            (batch normalisation in evaluation mode).
        images: ``(N, 3, H, W)`` floating point, as the network takes them.
        channels: ``(V,)`` int64, those to be taken; each costs a backward pass an image.
    """
    height, width = images.shape[2:]
    points, scores = [], []
    for start in range(0, len(images), _BATCH):
        pixels = images[start : start + _BATCH].detach().clone().requires_grad_()
        with torch.enable_grad():
            maps = forward(pixels)[:, channels].clamp(min=0)
            strength = [
                torch.autograd.grad(each.sum(), pixels, retain_graph=True)[0].norm(dim=1) for each in maps.unbind(1)
            ]
        peaks = find_peaks(_smooth(torch.stack(strength, 1), _SMOOTHING * math.sqrt(height * width)))
        points.append(peak_points(peaks.cell, Grid(Axis.cells(height, height), Axis.cells(width, width))))
        scores.append(maps.detach().amax((2, 3)).float())
    return FoundParts(torch.cat(points), torch.cat(scores))


def _smooth(maps: Tensor, width: float) -> Tensor:
    """Maps ``(B, V, H, W)`` after a Gaussian of a standard deviation in pixels, cut at three of them."""
    reach = math.ceil(3 * width)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2).to(maps)
    flat = maps.flatten(0, 1)[:, None]
    flat = torch.nn.functional.conv2d(flat, kernel[None, None, :, None], padding=(reach, 0))
    return torch.nn.functional.conv2d(flat, kernel[None, None, None], padding=(0, reach)).view_as(maps)
