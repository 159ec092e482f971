"""The pose of an image: a few numbers that say how all of its patterns are displaced together.

This project's own addition to the explanatory graph: the patterns of the top layer, which have no parents in the paper,
are displaced by Delta_V(I) = A_V z_I, with K numbers z_I an image and 2 x K numbers A_V a pattern (a factor analysis of
displacements whose data are the responsibilities of the E-step). z_I is normal with unit variance, the elements of A_V
with variance s^2 / ridge.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_interp.methods.graph.maths.mixture import Units

Sum = Callable[[Tensor], Tensor]
"""Sum over all processes."""

# Filters that the first guess is made from.
_FILTERS = 256


def first_pose(maps: Tensor, weight: Tensor, units: Units, number: int, total: Sum) -> Tensor:
    """First guess: principal components of the filters' centres of activation, ``(N, K)`` of unit variance.

    Args:
        maps: ``(N, C, h, w)``, F(x).
        weight: ``(N,)`` float64, of each image.
        units: Where the units are.
        number: K.
        total: Sum over processes; each has images of its own.
    """
    maps = maps[:, :_FILTERS].double()
    count = total(weight.sum()[None])
    mass = maps.sum((2, 3))[..., None]
    moments = torch.stack([(maps.sum(2) * units.x.double()).sum(2), (maps.sum(3) * units.y.double()).sum(2)], 2)
    sums = total(torch.einsum("n,nck->ck", weight, torch.cat([moments, mass], 2)))
    centre = sums[:, :2] / sums[:, 2:].clamp(min=1e-300)
    # Weighted by the activation, so that a silent filter says nothing.
    shift = (moments - mass * centre).flatten(1)
    covariance = total((shift * weight[:, None]).T @ shift) / count
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values[-number:].flip(0), vectors[:, -number:].flip(1)
    # Eigenvectors have no sign of their own.
    sign = vectors.gather(0, vectors.abs().argmax(0)[None]).sign()
    pose: Tensor = shift @ (vectors * sign) / values.clamp(min=1e-12).sqrt()
    return pose


def pose_of(mass: Tensor, pull: Tensor, width: Tensor, sway: Tensor) -> Tensor:
    """The likeliest pose of each image, given who explains what: ``(N, K)`` float64.

    Args:
        mass: ``(N, C, P)``, sum_x r_V(x) F(x).
        pull: ``(N, C, P, 2)``, sum_x r_V(x) F(x) (p_x - mu_V).
        width: ``(C, P)``, s_V.
        sway: ``(C, P, 2, K)`` float64, A_V.
    """
    number = sway.shape[3]
    precision = width.double().square().reciprocal()[..., None, None]
    outer = (torch.einsum("cpdk,cpdl->cpkl", sway, sway) * precision).view(-1, number * number)
    scale = (mass.double().flatten(1) @ outer).view(-1, number, number)
    scale = scale + torch.eye(number, dtype=torch.float64, device=scale.device)
    pose: Tensor = torch.linalg.solve(scale, pull.double().flatten(1) @ (sway * precision).reshape(-1, number))
    return pose


def sways(mass: Tensor, pull: Tensor, pose: Tensor, width: Tensor, penalty: float, total: Sum) -> Tensor:
    """M-step of A_V: ``(C, P, 2, K)`` float64.

    Args:
        mass: ``(N, C, P)``, weighted by image, as is
        pull: ``(N, C, P, 2)``.
        pose: ``(N, K)`` float64, z_I.
        width: ``(C, P)``, s_V.
        penalty: Inverse variance of the elements of A_V.
        total: Sum over processes.
    """
    number = pose.shape[1]
    shape = mass.shape[1:]
    outer = (pose[:, :, None] * pose[:, None]).flatten(1)
    scale = total((mass.double().flatten(1).T @ outer).view(*shape, number, number))
    force = total((pull.double().flatten(1).T @ pose).view(*shape, 2, number))
    # A little, for what a pattern that explains nothing is not told either.
    ridge = (penalty * width.double().square()).clamp(min=1e-9)[..., None, None] * torch.eye(number, device=pose.device)
    found: Tensor = torch.linalg.solve(scale + ridge, force.mT)
    return found.mT.contiguous()


def gains(mass: Tensor, pull: Tensor, pose: Tensor, width: Tensor, sway: Tensor) -> Tensor:
    """What the displacement by pose adds to each image's expected log-density, z's prior included: ``(N,)`` float64.

    Args: as :func:`pose_of`, and the pose ``(N, K)`` float64.
    """
    delta = swayed(sway, pose)
    told = (pull.double() * delta).sum(3) - mass.double() * delta.square().sum(3) / 2
    return (told / width.double().square()).sum((1, 2)) - pose.square().sum(1) / 2


def swayed(sway: Tensor, pose: Tensor) -> Tensor:
    """Delta_V(I) = A_V z_I: ``(N, C, P, 2)`` float64."""
    return torch.einsum("nk,cpdk->ncpd", pose, sway)
