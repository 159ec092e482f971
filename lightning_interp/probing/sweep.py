"""One sweep of forward passes over a probe set, for everything that is measured on it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_interp.data.labels import LabelBank
from lightning_interp.data.loading import BadImage, ProbeBatch, ShardSampler, probe_batches
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, Stopped, module_device, run
from lightning_interp.probing.session import probing

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ProbeImages:
    """Which images are probed and how they are read: what measurements of one sweep have in common.

    Args:
        probe: The probe set.
        indices: Its images, in order.
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read.
        loader_timeout: Seconds to wait for a loader process.
    """

    probe: ProbeSet
    indices: tuple[int, ...]
    batch_size: int
    num_workers: int
    on_bad_image: BadImage
    loader_timeout: float

    def same(self, other: "ProbeImages") -> bool:
        """Whether both give the network the same batches, so that one forward pass does for both."""
        own, its = ((each.indices, each.batch_size, each.on_bad_image, each.probe.normalize) for each in (self, other))
        return own == its and (self.probe is other.probe or self.probe.fingerprint() == other.probe.fingerprint())


class Study(ABC):
    """One measurement of a sweep: what it takes of the maps, in steps between which the processes agree.

    Attributes:
        bank: Encoded labels; the sweep reads those that are missing.
    """

    bank: LabelBank

    @abstractmethod
    def begin(self, num_images: int) -> Sequence[str]:
        """Make room for so many images; the layers to tap. No collective."""

    @abstractmethod
    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Take in a batch, ``{layer: (n, U, h, w) float32}``. No collective."""

    @abstractmethod
    def settle(self, kept: Sequence[int]) -> None:
        """Find what all images decide together, now that it is known which could be read; collective."""

    @abstractmethod
    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Count from what was kept of these batches; the layers whose maps must be seen again. No collective."""

    @abstractmethod
    def update_again(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Take in a batch of the layers that :meth:`tally` named. No collective."""

    @abstractmethod
    def freeze(self) -> None:
        """Sum over the processes; collective."""


def sweep(
    studies: Sequence[Study],
    images: ProbeImages,
    module: nn.Module,
    ranks: Ranks,
    *,
    forward: Forward | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[tuple[int, str]] | None:
    """Forward every image once, and once more where a study could not hold what it needs; a collective call.

    Args:
        studies: What to measure.
        images: Where.
        module: The network, unwrapped.
        ranks: The processes that share the images.
        forward: How to call the network on prepared images.
        progress: Called with images done and images in all, of this process.
        should_stop: Asked before each batch; if any process says yes, all stop.

    Returns:
        Images that could not be read, ``(index, reason)``, of all processes; None if it was stopped.

    Raises:
        ProbeError: If a process of several failed; a single process raises the error itself.
    """
    with probing(module):
        under_way = _Sweep(studies, images, module, ranks, forward, progress, should_stop)
        # Between two steps of DDP each process has batch statistics of its own; rank zero's are saved.
        ranks.agree(None)
        ranks.share(module.buffers())
        error = _error_of(under_way.collect)
        notes = ranks.agree(error, (under_way.skipped, under_way.stopped))
        if any(stopped for _, stopped in notes):
            return None
        skipped = [image for bad, _ in notes for image in bad]
        kept = _readable(images.indices, dict(skipped))
        for study in studies:
            study.settle(kept)
        error = _error_of(under_way.tally)
        if any(ranks.agree(error, under_way.stopped)):
            return None
        for study in studies:
            study.freeze()
    return skipped


def _error_of(step: Callable[[], None]) -> Exception | None:
    try:
        step()
    except Exception as error:
        return error
    return None


def _readable(indices: Sequence[int], skipped: Mapping[int, str]) -> list[int]:
    kept = [index for index in indices if index not in skipped]
    if not kept:
        raise DatasetError(f"no image of the probe set can be read; first: {next(iter(skipped.values()))}")
    return kept


class _Sweep:
    """A sweep under way on this process."""

    def __init__(
        self,
        studies: Sequence[Study],
        images: ProbeImages,
        module: nn.Module,
        ranks: Ranks,
        forward: Forward | None,
        progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.studies, self.images, self.module = studies, images, module
        self.forward, self.progress, self.should_stop = forward, progress, should_stop
        self.shard = list(ShardSampler(images.indices, ranks.rank, ranks.world))
        self.skipped: list[tuple[int, str]] = []
        self.batches: list[list[int]] = []
        self.stopped = False
        self._done = 0

    def collect(self) -> None:
        """First sweep."""
        layers = [name for study in self.studies for name in study.begin(len(self.images.indices))]
        self._run(_First(self), self.shard, layers, self.images.on_bad_image)

    def tally(self) -> None:
        """Count, with a second sweep for those who need it."""
        again = [(study, study.tally(self.batches)) for study in self.studies]
        layers = [name for _, names in again for name in names]
        if layers:
            self._done = 0
            seen = [index for batch in self.batches for index in batch]
            # What the first sweep has read is in the totals: the second cannot leave it out.
            self._run(_Second([study for study, names in again if names]), seen, layers, "raise")

    def _run(self, into: Any, indices: Sequence[int], layers: Sequence[str], on_bad_image: BadImage) -> None:
        bank = self.studies[0].bank
        batches = probe_batches(
            bank.encoder,
            indices,
            batch_size=self.images.batch_size,
            known=bank,
            num_workers=self.images.num_workers,
            on_bad_image=on_bad_image,
            pin_memory=module_device(self.module).type == "cuda",
            timeout=self.images.loader_timeout,
        )
        try:
            run(
                self.module,
                _noting(batches, self.skipped),
                [into],
                layers=resolve_layers(self.module, layers),
                normalize=self.images.probe.normalize,
                forward=self.forward,
                progress=self._report,
                should_stop=self.should_stop,
            )
        except Stopped:
            self.stopped = True

    def _report(self, count: int) -> None:
        self._done += count
        if self.progress is not None:
            self.progress(self._done, len(self.shard))


class _First:
    """Labels to every bank, maps to every study."""

    def __init__(self, sweep: _Sweep) -> None:
        self.sweep = sweep

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        self.sweep.batches.append(batch.indices)
        first = self.sweep.studies[0].bank
        for study in self.sweep.studies:
            if study.bank.encoder.mask_size == first.encoder.mask_size:
                for index, regions in zip(batch.indices, batch.regions, strict=True):
                    if regions is not None:
                        study.bank.put(index, regions)
            study.bank.ensure(batch.indices)
            study.update(batch, maps)


class _Second:
    """Maps seen again, to those who asked for them."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self.studies = studies

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        for study in self.studies:
            study.update_again(batch, maps)


def _noting(batches: Iterable[ProbeBatch], skipped: list[tuple[int, str]]) -> Iterator[ProbeBatch]:
    for batch in batches:
        skipped.extend(batch.skipped)
        yield batch
