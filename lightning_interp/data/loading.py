"""Batches of a probe set: one fixed size, labels encoded on the way, bad images named or skipped."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_interp._options import check_options, passes_on, renamed
from lightning_interp.data.labels import LabelEncoder
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError
from lightning_interp.functional.regions import Regions


class ShardSampler(Sampler[int]):
    """Indices ``rank, rank + world, rank + 2 * world, ...``: every image once, on one process.

    ``DistributedSampler`` repeats images until the processes have equally many, so that counts depend on the
    number of processes. This one never does; a process may have fewer images than another, or none.

    Args:
        indices: The images of the whole probe set.
        rank: Number of this process, from 0.
        world: Number of processes.

    Raises:
        ValueError: If ``rank`` is not in [0, world).

    Example:
        >>> [list(ShardSampler(range(5), rank, 3)) for rank in range(3)]
        [[0, 3], [1, 4], [2]]
    """

    def __init__(self, indices: Sequence[int], rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in [0, {world})")
        self.indices = list(indices)[rank::world]

    def __iter__(self) -> Iterator[int]:
        """The indices of this process, in order."""
        return iter(self.indices)

    def __len__(self) -> int:
        """How many images this process has."""
        return len(self.indices)


BadImage = Literal["raise", "skip"]
# What readers raise of files; torchvision's decoders raise RuntimeError. Anything else is a bug, and never skipped.
BAD_IMAGE_ERRORS = (DatasetError, OSError, RuntimeError)
Loaded = tuple[int, Tensor | str, Regions | None]


@dataclass(frozen=True)
class Reading:
    """How a probe set is read: the options that all measurements have in common.

    Args:
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes of the probe.
        max_samples: Use at most so many images, evenly spaced over those that a measurement can use; None for all.
        byte_budget: Bytes that may be spent on keeping activations, over all layers. Most methods that would need more
            make a second forward pass, with the same result.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read and report how many.
        loader_timeout: Seconds to wait for a loader process before giving up.

    Raises:
        ValueError: If a value is out of range, naming it.
    """

    batch_size: int = 64
    num_workers: int = 0
    max_samples: int | None = None
    byte_budget: int = 2**30
    on_bad_image: BadImage = "raise"
    loader_timeout: float = 300.0

    def __post_init__(self) -> None:
        check_least(
            batch_size=(self.batch_size, 1), num_workers=(self.num_workers, 0), byte_budget=(self.byte_budget, 0)
        )
        if self.max_samples is not None:
            check_least(max_samples=(self.max_samples, 1))
        if self.on_bad_image not in ("raise", "skip"):
            raise ValueError(f"on_bad_image must be 'raise' or 'skip', got {self.on_bad_image!r}")
        if not self.loader_timeout > 0:
            raise ValueError(f"loader_timeout must be positive, got {self.loader_timeout}")

    def but(self, owner: str, **options: Any) -> "Reading":
        """The same with some options replaced.

        Args:
            owner: Whose options they are, for the error.
            **options: By name.

        Raises:
            TypeError: If there is no such option, with near names.
            ValueError: If a value is out of range.
        """
        check_options(owner, options, [field.name for field in fields(self)])
        return replace(self, **options)

    def spread(self, indices: Sequence[int]) -> list[int]:
        """At most ``max_samples`` of some images, evenly spaced: the start of a sorted set is no fair sample."""
        count = len(indices)
        most = count if self.max_samples is None else min(self.max_samples, count)
        return [indices[i * count // most] for i in range(most)]


def check_least(**numbers: tuple[int, int]) -> None:
    """Raise a ``ValueError`` that names the number which is below its minimum, given as ``(value, minimum)``."""
    for name, (value, minimum) in numbers.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


@dataclass(frozen=True)
class ProbeBatch:
    """Some images of a probe set.

    Args:
        images: ``(B, C, H, W)``, uint8 or float; the rows past ``len(indices)`` repeat the last image, so that
            every batch has the same shape (another shape may take another convolution path and other last bits).
        indices: Positions in the probe set of the rows that count.
        regions: Encoded labels of those rows; None where they are known already or not asked for.
        skipped: Bad images left out, ``(index, reason)``.
    """

    images: Tensor
    indices: list[int]
    regions: list[Regions | None]
    skipped: list[tuple[int, str]]


def checked_image(probe: ProbeSet, index: int) -> Tensor:
    """Image ``index`` of a probe set.

    Raises:
        DatasetError: If it is not a ``(C, H, W)`` tensor of uint8 or floating point.
    """
    image = probe.image(index)
    if (
        not isinstance(image, Tensor)
        or image.ndim != 3
        or not (image.dtype == torch.uint8 or image.is_floating_point())
    ):
        found = f"{tuple(image.shape)} of {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise DatasetError(
            f"image {index} of {type(probe).__name__} is {found}; expected a (C, H, W) tensor, uint8 or float"
        )
    return image


def scaled(images: Tensor) -> Tensor:
    """Images as floats; uint8 is scaled to [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def readable(indices: Sequence[int], skipped: Mapping[int, str]) -> list[int]:
    """The images that were not skipped, ``{index: reason}``.

    Raises:
        DatasetError: If all were.
    """
    kept = [index for index in indices if index not in skipped]
    if not kept:
        raise DatasetError(f"no image of the probe set can be read; first: {next(iter(skipped.values()))}")
    return kept


class _Items(Dataset[Loaded]):
    """Reads one image at a time: ``(index, image, regions)``, or ``(index, reason, None)`` for a bad one."""

    def __init__(self, source: LabelEncoder | ProbeSet, known: Container[int], on_bad_image: BadImage) -> None:
        self.probe = source if isinstance(source, ProbeSet) else source.probe
        self.encoder = None if isinstance(source, ProbeSet) else source
        self.known, self.on_bad_image = known, on_bad_image

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Loaded:
        try:
            image = checked_image(self.probe, index)
            return index, image, None if self.encoder is None or index in self.known else self.encoder(index)
        except BAD_IMAGE_ERRORS as error:
            if self.on_bad_image == "raise":
                raise
            return index, f"{type(error).__name__}: {error}", None


class _Collate:
    """Stacks what could be read, padded to the batch size by repeating the last image."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, items: Sequence[Loaded]) -> ProbeBatch:
        good = [(index, image, regions) for index, image, regions in items if isinstance(image, Tensor)]
        skipped = [(index, reason) for index, reason, _ in items if isinstance(reason, str)]
        images = [image for _, image, _ in good]
        kinds = {f"{tuple(image.shape)} {image.dtype}" for image in images}
        if len(kinds) > 1:
            raise DatasetError(f"images of one probe set must have one shape and type; found {sorted(kinds)}")
        if images:
            images += [images[-1]] * (self.rows - len(images))
        return ProbeBatch(
            images=torch.stack(images) if images else torch.empty(0),
            indices=[index for index, _, _ in good],
            regions=[regions for _, _, regions in good],
            skipped=skipped,
        )


@passes_on(Reading)
def probe_batches(
    encoder: LabelEncoder | ProbeSet,
    indices: Sequence[int],
    reading: Reading | None = None,
    *,
    known: Container[int] = (),
    pin_memory: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> Iterator[ProbeBatch]:
    """Read some images of a probe set, in the order given.

    Args:
        encoder: What encodes labels and knows the probe set; or the probe set itself, for images alone.
        indices: Images to read.
        reading: How; every batch, the last one included, has the same number of rows. None for the defaults.
        known: Images whose labels are encoded already.
        pin_memory: Whether to stage batches for copying to a GPU.
        timeout: Old name of ``loader_timeout``.
        **options: Those of the reading to replace.

    Raises:
        RuntimeError: When read, if a loader process is killed or does not answer in time.
    """
    wait = renamed("probe_batches", "timeout", "loader_timeout", timeout, None)
    reading = (reading or Reading()).but(
        "probe_batches", **options | ({} if wait is None else {"loader_timeout": wait})
    )
    loader: DataLoader[Loaded] = DataLoader(
        _Items(encoder, known, reading.on_bad_image),
        batch_size=reading.batch_size,
        sampler=list(indices),
        num_workers=reading.num_workers,
        collate_fn=_Collate(reading.batch_size),
        pin_memory=pin_memory,
        timeout=reading.loader_timeout if reading.num_workers else 0,
        # Without a generator of its own, a loader draws its seed from the global one and so changes training.
        generator=torch.Generator().manual_seed(0),
    )
    return _received(loader) if reading.num_workers else iter(loader)


def _received(batches: Iterable[ProbeBatch]) -> Iterator[ProbeBatch]:
    """Batches as they come; where a loader process dies between sending a batch and its being fetched, say so."""
    try:
        yield from batches
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        # What the probe set itself raises in a loader process comes with this in its text.
        if "in DataLoader worker process" in str(error):
            raise
        raise RuntimeError(
            f"a loader process of the probe set exited unexpectedly, while a batch of it was fetched "
            f"({type(error).__name__}: {error}); it may have been killed for want of memory: try num_workers=0"
        ) from error
