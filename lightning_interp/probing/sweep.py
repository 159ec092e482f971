"""One sweep of forward passes over a probe set, for everything that is measured on it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.data.labels import LabelBank
from lightning_interp.data.loading import ProbeBatch, Reading, ShardSampler, probe_batches, readable
from lightning_interp.data.probe import ProbeSet
from lightning_interp.functional.upsampling import Grid
from lightning_interp.probing.layers import LayerInfo, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, Stopped, module_device, run
from lightning_interp.probing.session import probing
from lightning_interp.probing.sums import Sums

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ProbeImages:
    """Which images are probed and how they are read: what measurements of one sweep have in common.

    Args:
        probe: The probe set.
        indices: Its images, in order.
        reading: How they are read.
        labelled: Whether labels are read with them; an image whose labels are bad is as bad as its pixels, then.
    """

    probe: ProbeSet
    indices: tuple[int, ...]
    reading: Reading
    labelled: bool = True

    def same(self, other: "ProbeImages") -> bool:
        """Whether both give the network the same batches, so that one forward pass does for both."""
        own, its = (
            (each.indices, each.labelled, each.reading.batch_size, each.reading.on_bad_image, each.probe.normalize)
            for each in (self, other)
        )
        return own == its and (self.probe is other.probe or self.probe.fingerprint() == other.probe.fingerprint())


@dataclass(frozen=True)
class Task:
    """What a study is given: a network, the images, and where the values of its layers lie on them.

    Args:
        module: The network, unwrapped.
        forward: How to call it on prepared images; None for the module itself.
        ranks: The processes that share the images.
        device: Where the maps come out.
        probe: The probe set.
        labels: Its encoded labels; None where the engine has no bank.
        infos: Shapes of the layers' maps, by name.
        grids: By layer, the place of its values on the masks, or on the images: as the method says.
        reading: How the images are read.
    """

    module: nn.Module
    forward: Forward | None
    ranks: Ranks
    device: torch.device
    probe: ProbeSet
    labels: LabelBank | None
    infos: Mapping[str, LayerInfo]
    grids: Mapping[str, Grid]
    reading: Reading

    @property
    def bank(self) -> LabelBank:
        """The encoded labels, of an engine that has a bank."""
        assert self.labels is not None, "the engine has no bank of labels; give it one: self.bank = LabelBank(...)"
        return self.labels

    @property
    def byte_budget(self) -> int:
        """Bytes that a layer may keep."""
        return self.reading.byte_budget // max(len(self.infos), 1)


class Study(ABC):
    """One measurement of a sweep: what it takes of the maps, in steps between which the processes agree.

    Args:
        task: What to measure.

    Attributes:
        sums: What all processes add up, once, when the sweep is over.
        totals: Once frozen, what they added up to.
        kept: Once settled, the images that could be read, on all processes together.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sums = Sums(task.ranks)
        self.totals: Mapping[str, Tensor] = {}
        self.kept: list[int] = []

    def start(self, num_images: int) -> None:  # noqa: B027 - a study may have nothing to make room for
        """Make room for so many images. No collective."""

    @abstractmethod
    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Take in a batch, ``{layer: (n, U, h, w) float32}``. No collective."""

    def settle(self, kept: Sequence[int]) -> None:
        """Find what all images decide together, now that it is known which could be read; collective."""
        self.kept = list(kept)

    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Count from what was kept of these batches; the layers whose maps must be seen again. No collective."""
        return []

    def update_again(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:  # noqa: B027 - few look twice
        """Take in a batch of the layers that :meth:`tally` named. No collective."""

    def freeze(self) -> None:
        """Sum over the processes; collective."""
        self.totals = self.sums.reduced()

    @abstractmethod
    def found(self) -> Mapping[str, Any]:
        """What was found, by layer, once frozen. No collective."""


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
        kept = readable(images.indices, dict(skipped))
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

    @property
    def banks(self) -> list[LabelBank]:
        """Where labels go, those first whose masks are of the size that the loader encodes."""
        banks = [study.task.labels for study in self.studies if study.task.labels is not None]
        return [*dict.fromkeys(banks)]

    def collect(self) -> None:
        """First sweep."""
        for study in self.studies:
            study.start(len(self.images.indices))
        layers = [name for study in self.studies for name in study.task.infos]
        self._run(_First(self), self.shard, layers, self.images.reading)

    def tally(self) -> None:
        """Count, with a second sweep for those who need it."""
        again = [(study, study.tally(self.batches)) for study in self.studies]
        layers = [name for _, names in again for name in names]
        if layers:
            self._done = 0
            seen = [index for batch in self.batches for index in batch]
            # What the first sweep has read is in the totals: the second cannot leave it out.
            strictly = replace(self.images.reading, on_bad_image="raise")
            self._run(_Second([study for study, names in again if names]), seen, layers, strictly)

    def _run(self, into: Any, indices: Sequence[int], layers: Sequence[str], reading: Reading) -> None:
        banks = self.banks
        source = banks[0].encoder if banks else self.images.probe
        pin = module_device(self.module).type == "cuda"
        batches = probe_batches(source, indices, reading, known=_KnownToAll(banks), pin_memory=pin)
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
        for bank in self.sweep.banks:
            if bank.encoder.mask_size == self.sweep.banks[0].encoder.mask_size:
                for index, regions in zip(batch.indices, batch.regions, strict=True):
                    if regions is not None:
                        bank.put(index, regions)
            bank.ensure(batch.indices)
        for study in self.sweep.studies:
            study.update(batch, maps)


class _KnownToAll:
    """Images whose labels need not be read: every bank that the loader encodes for has them."""

    def __init__(self, banks: Sequence[LabelBank]) -> None:
        self.banks = [bank for bank in banks if bank.encoder.mask_size == banks[0].encoder.mask_size]

    def __contains__(self, index: object) -> bool:
        return all(index in bank for bank in self.banks)


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
