"""Empirical receptive fields by occlusion (Zhou et al., ICLR 2015): where in the image a unit really looks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp._options import passes_on
from lightning_interp.data.loading import Reading, check_least, checked_image
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import LayerError
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.probing.layers import LayerInfo, describe_layers, resolve_layers
from lightning_interp.probing.receptive import receptive_field
from lightning_interp.probing.runner import Forward, prepare
from lightning_interp.probing.session import probing
from lightning_interp.probing.tap import tap


@dataclass(frozen=True)
class OcclusionFields:
    """Empirical receptive fields of units of one layer.

    Args:
        layer: Its name.
        units: U channel numbers.
        maps: ``(U, H, W)`` float32, mean absolute change of the unit's peak when the pixel is occluded, in units of its
            activation. Pixel ``(H // 2, W // 2)`` is the centre of the peak's theoretical field (the middle pixel
            ``start + size // 2``, or that of the map's cell where there is no such field); NaN where fewer than half
            of the images reach.
        contrasts: Maximum of each field over that of the same changes, shuffled over the occluder's places in every
            image, where a pixel that an image does not reach counts as no change: about 1 for a unit that looks nowhere
            in particular, at most about ``images`` for one that always looks at one place; NaN without any change.
        images: How many images each field was averaged over.
        theoretical: Height and width of the theoretical field in pixels; None where it has none.
    """

    layer: str
    units: tuple[int, ...]
    maps: Tensor
    contrasts: tuple[float, ...]
    images: tuple[int, ...]
    theoretical: tuple[int, int] | None

    @property
    def sizes(self) -> tuple[float, ...]:
        """Side of each unit's field in pixels; see :func:`field_size`."""
        return tuple(map(field_size, self.maps))


def field_size(field: Tensor) -> float:
    """Side in pixels of the square as large as the area where a field is above half of its maximum.

    This is the project's own rule. An occluder of p pixels spreads each change over p pixels, so that fields are
    measured exactly with p = 1 and come out no smaller than about p.

    Args:
        field: ``(H, W)``; NaN counts as no change.

    Returns:
        The side; 0 for a field without any change.
    """
    values = field.nan_to_num(nan=0.0)
    return math.sqrt(int((values > values.max() / 2).sum()))


@passes_on(Reading, only=("batch_size",))
def occlusion_fields(
    module: nn.Module,
    layer: str,
    probe: ProbeSet,
    top: Mapping[int, Sequence[int]],
    *,
    patch: int = 11,
    stride: int = 3,
    seed: int = 0,
    forward: Forward | None = None,
    **reading: Any,
) -> OcclusionFields:
    """Empirical receptive fields of chosen units, at the resolution of the image.

    After Zhou et al., "Object detectors emerge in deep scene CNNs", ICLR 2015, section 3.2: each top image of a unit is
    fed again with a small patch of random pixels at every position of a grid; how much the unit's value at its peak
    changes makes a discrepancy map, which is centred on the peak; the maps of the images are averaged. Of this
    project: a pixel has the mean over the patches that cover it, and random pixels are uniform, by channel, between
    the smallest and the largest value of the prepared image.

    An image of 224 pixels takes 5,184 forward passes at the published patch and stride, which all units share that
    have it among their top images.

    Args:
        module: The network, unwrapped; left as it was.
        layer: Name of the layer.
        probe: The images.
        top: By unit, indices of its top images, such as a row of ``LayerDissection.top.index``; -1 is no image.
        patch: Side of an occluder in pixels of the image.
        stride: Step between occluders in pixels, at most ``patch``, so that every pixel is occluded.
        seed: Of the random pixels and of the shuffling.
        forward: How to call the network on prepared images; ``module`` itself by default.
        **reading: ``batch_size``, images a forward pass, one of which is not occluded.

    Raises:
        LayerError: If the layer is unknown, gives no maps, lacks a unit or gives values that are not finite.
        ValueError: If there is no unit or no image of one, a batch is below 2, or patch and stride do not fit each
            other or the image.
    """
    chosen = {unit: [int(index) for index in own if index >= 0] for unit, own in top.items()}
    if not chosen or not all(chosen.values()):
        raise ValueError("top must have at least one unit, and at least one image of each")
    rows = Reading().but("occlusion_fields", **reading).batch_size
    check_least(batch_size=(rows, 2))
    layers = resolve_layers(module, [layer])
    generator = torch.Generator().manual_seed(seed)
    occluders = _Occluders(module, module if forward is None else forward, layers, patch, stride, rows, generator)
    with probing(module):
        example = prepare(checked_image(probe, next(iter(chosen.values()))[0])[None], module, probe.normalize)
        (info,) = describe_layers(module, [layer], example, forward).values()
        if missing := [unit for unit in chosen if not 0 <= unit < info.units]:
            raise LayerError(f"layer '{info.name}' has {info.units} units; there is no {missing[0]}")
        grid, theoretical = _geometry(module, layers[info.name], info, example)
        maps, contrasts = _averaged(occluders, probe, chosen, grid)
    return OcclusionFields(info.name, tuple(chosen), maps, contrasts, tuple(map(len, chosen.values())), theoretical)


def _averaged(
    occluders: "_Occluders", probe: ProbeSet, chosen: Mapping[int, Sequence[int]], grid: Grid
) -> tuple[Tensor, tuple[float, ...]]:
    """Mean discrepancy maps of every unit, ``(U, H, W)``, and their contrasts."""
    maps: dict[int, list[Tensor]] = {unit: [] for unit in chosen}
    chance: dict[int, list[Tensor]] = {unit: [] for unit in chosen}
    for index in sorted({index for own in chosen.values() for index in own}):
        units = [unit for unit, own in chosen.items() if index in own]
        image = prepare(checked_image(probe, index)[None], occluders.module, probe.normalize)
        for unit, found, shuffled, peak in zip(units, *occluders(image, units), strict=True):
            maps[unit].append(_centred(found, grid, *peak))
            chance[unit].append(_centred(shuffled, grid, *peak))
    stacked = [(torch.stack(maps[unit]), torch.stack(chance[unit])) for unit in chosen]
    contrasts = tuple(float(found.nansum(0).max() / shuffled.nansum(0).max()) for found, shuffled in stacked)
    return torch.stack([_mean(found) for found, _ in stacked]), contrasts


def _mean(maps: Tensor) -> Tensor:
    """``(H, W)`` mean of ``(K, H, W)`` over the maps that have a pixel, if they are at least half."""
    # A pixel that a single image reaches would have all of that image's noise.
    return maps.nanmean(0).where(2 * maps.isfinite().sum(0) >= len(maps), torch.nan)


def _geometry(
    module: nn.Module, layer: nn.Module, info: LayerInfo, image: Tensor
) -> tuple[Grid, tuple[int, int] | None]:
    """Where the layer's values lie on the image, and the size of their theoretical field if they have one."""
    lengths, size = (info.height, info.width), (int(image.shape[2]), int(image.shape[3]))
    try:
        fields = [receptive_field(module, layer, info.name, size, image.shape[1], axis) for axis in (0, 1)]
    except LayerError:
        return Grid(*(Axis.cells(length, pixels) for length, pixels in zip(lengths, size, strict=True))), None
    axes = [
        Axis(length, pixels, float(field.start + field.size // 2), float(field.stride))
        for length, pixels, field in zip(lengths, size, fields, strict=True)
    ]
    return Grid(*axes), (fields[0].size, fields[1].size)


@dataclass(frozen=True)
class _Occluders:
    """Feeds images with patches of random pixels; arguments are those of :func:`occlusion_fields`."""

    module: nn.Module
    forward: Forward
    layers: Mapping[str, nn.Module]
    patch: int
    stride: int
    rows: int
    generator: torch.Generator

    def __call__(self, image: Tensor, units: Sequence[int]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """What occlusion changes at each unit's peak.

        Args:
            image: ``(1, C, H, W)``, prepared for the network.
            units: U channel numbers.

        Returns:
            Changes by pixel, ``(U, H, W)`` float32; the same shuffled over the places; row and column of the peaks.
        """
        height, width = int(image.shape[2]), int(image.shape[3])
        places = [(y, x) for y in self._starts(height) for x in self._starts(width)]
        peaks = [_peak(values, unit) for values, unit in zip(self._values(image, units)[0], units, strict=True)]
        rows, columns = (torch.tensor(side) for side in zip(*peaks, strict=True))
        changes = []
        for start in range(0, len(places), self.rows - 1):
            # The image itself comes along, for another batch may take another path and other last bits.
            images = self._occluded(image, places[start : start + self.rows - 1])
            values = self._values(images, units)[:, range(len(units)), rows, columns]
            changes.append((values[1:] - values[0]).abs())
        found = torch.cat(changes)
        shuffled = found[torch.randperm(len(found), generator=self.generator)]
        size = (height, width)
        return self._by_pixel(found, places, size), self._by_pixel(shuffled, places, size), peaks

    def _by_pixel(self, changes: Tensor, places: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
        """``(U, H, W)`` mean of the changes ``(N, U)`` over the patches that cover a pixel."""
        total, cover = torch.zeros(changes.shape[1], *size), torch.zeros(size)
        for (y, x), change in zip(places, changes, strict=True):
            total[:, y : y + self.patch, x : x + self.patch] += change[:, None, None]
            cover[y : y + self.patch, x : x + self.patch] += 1
        return total / cover

    def _starts(self, side: int) -> list[int]:
        """First pixels of the patches along one axis; the last patch ends at the border."""
        if not 1 <= self.stride <= self.patch <= side:
            raise ValueError(f"give 1 <= stride <= patch <= {side}, not stride={self.stride} and patch={self.patch}")
        return sorted({*range(0, side - self.patch, self.stride), side - self.patch})

    def _occluded(self, image: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
        """``(1 + len(places), C, H, W)``: the image, then one with a patch at each place."""
        low, high = (edge.float() for edge in torch.aminmax(image[0].flatten(1), dim=1))
        shape = (len(places), image.shape[1], self.patch, self.patch)
        noise = torch.rand(shape, generator=self.generator).to(image.device)
        noise = low[:, None, None] + (high - low)[:, None, None] * noise
        images = image.repeat(1 + len(places), 1, 1, 1)
        for row, ((y, x), pixels) in enumerate(zip(places, noise.to(image.dtype), strict=True), start=1):
            images[row, :, y : y + self.patch, x : x + self.patch] = pixels
        return images

    def _values(self, images: Tensor, units: Sequence[int]) -> Tensor:
        """``(B, len(units), h, w)`` float32 on the CPU, the maps of the units."""
        with tap(self.layers) as taps:
            self.forward(images)
            (maps,) = taps.collect().values()
        return maps[:, list(units)].cpu()


def _peak(values: Tensor, unit: int) -> tuple[int, int]:
    """Row and column of the first maximum of a map ``(h, w)``."""
    if not values.isfinite().all():
        raise LayerError(f"unit {unit} has values that are not finite")
    row, column = (values == values.max()).nonzero()[0].tolist()
    return row, column


def _centred(change: Tensor, grid: Grid, row: int, column: int) -> Tensor:
    """``(H, W)`` map moved so that the place of a value lies at pixel ``(H // 2, W // 2)``; NaN where nothing was."""
    moved = torch.full_like(change, torch.nan)
    source, target = [], []
    for axis, position in ((grid.rows, row), (grid.columns, column)):
        shift = axis.size // 2 - math.floor(axis.anchors[position] + 0.5)
        source.append(slice(max(-shift, 0), max(axis.size - max(shift, 0), 0)))
        target.append(slice(max(shift, 0), max(axis.size + min(shift, 0), 0)))
    moved[tuple(target)] = change[tuple(source)]
    return moved
