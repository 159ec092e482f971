"""Batches of a probe set: one fixed size, labels encoded on the way, bad images named or skipped."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

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
class ProbeBatch:
    """Some images of a probe set.

    Args:
        images: ``(B, C, H, W)``, uint8 or float; the rows past ``len(indices)`` repeat the last image, so that
            every batch has the same shape (another shape may take another convolution path and other last bits).
        indices: Positions in the probe set of the rows that count.
        regions: Encoded labels of those rows; None where they are known already.
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


class _Items(Dataset[Loaded]):
    """Reads one image at a time: ``(index, image, regions)``, or ``(index, reason, None)`` for a bad one."""

    def __init__(self, encoder: LabelEncoder, known: Container[int], on_bad_image: BadImage) -> None:
        self.encoder, self.known, self.on_bad_image = encoder, known, on_bad_image

    def __len__(self) -> int:
        return len(self.encoder.probe)

    def __getitem__(self, index: int) -> Loaded:
        try:
            image = checked_image(self.encoder.probe, index)
            return index, image, None if index in self.known else self.encoder(index)
        except BAD_IMAGE_ERRORS as error:
            if self.on_bad_image == "raise":
                raise
            return index, f"{type(error).__name__}: {error}", None


class _Collate:
    """Stacks what could be read, padded to the batch size by repeating the last image."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __call__(self, items: Sequence[Loaded]) -> ProbeBatch:
        good = [(index, image, regions) for index, image, regions in items if isinstance(image, Tensor)]
        skipped = [(index, reason) for index, reason, _ in items if isinstance(reason, str)]
        images = [image for _, image, _ in good]
        kinds = {f"{tuple(image.shape)} {image.dtype}" for image in images}
        if len(kinds) > 1:
            raise DatasetError(f"images of one probe set must have one shape and type; found {sorted(kinds)}")
        if images:
            images += [images[-1]] * (self.batch_size - len(images))
        return ProbeBatch(
            images=torch.stack(images) if images else torch.empty(0),
            indices=[index for index, _, _ in good],
            regions=[regions for _, _, regions in good],
            skipped=skipped,
        )


def probe_batches(
    encoder: LabelEncoder,
    indices: Sequence[int],
    *,
    batch_size: int,
    known: Container[int] = (),
    num_workers: int = 0,
    on_bad_image: BadImage = "raise",
    pin_memory: bool = False,
    timeout: float = 300.0,
) -> Iterator[ProbeBatch]:
    """Read some images of a probe set, in the order given.

    Args:
        encoder: Encodes labels; knows the probe set.
        indices: Images to read.
        batch_size: Rows of every batch, the last one included.
        known: Images whose labels are encoded already.
        num_workers: Loader processes.
        on_bad_image: ``"raise"``, or ``"skip"`` and report.
        pin_memory: Whether to stage batches for copying to a GPU.
        timeout: Seconds to wait for a loader process before giving up.

    Raises:
        RuntimeError: When read, if a loader process is killed or does not answer in time.
    """
    loader: DataLoader[Loaded] = DataLoader(
        _Items(encoder, known, on_bad_image),
        batch_size=batch_size,
        sampler=list(indices),
        num_workers=num_workers,
        collate_fn=_Collate(batch_size),
        pin_memory=pin_memory,
        timeout=timeout if num_workers else 0,
        # Without a generator of its own, a loader draws its seed from the global one and so changes training.
        generator=torch.Generator().manual_seed(0),
    )
    return _received(loader) if num_workers else iter(loader)


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
