"""What measures a network again and again on one probe set: its images, its layers, and sweeps shared with others."""

import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lightning_interp.data.loading import BAD_IMAGE_ERRORS, BadImage, checked_image
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError, LayerError, ResponseError
from lightning_interp.probing.layers import LayerInfo, describe_layers, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, prepare
from lightning_interp.probing.session import probing
from lightning_interp.probing.sweep import ProbeImages, Progress, Study, sweep

Result = TypeVar("Result")

# GiB of one layer's maps for one batch.
LARGEST_BATCH = 8


class SweepEngine(ABC, Generic[Result]):
    """Measures layers of a network on one probe set, in sweeps that it can share with other engines.

    Args:
        probe: The probe set.
        layers: Module paths, globs or ``"auto"``.
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes.
        max_samples: Use at most so many images, evenly spaced over the set; None for all.
        byte_budget: Bytes that may be spent on keeping surviving activations, over all layers; past it a second
            forward pass is made, with the same result.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read and report how many.
        loader_timeout: Seconds to wait for a loader process before giving up.

    Attributes:
        indices: The images.
        limit: Probe only the first so many of them (a trial run); None for all.
        infos: Shapes of the layers, once :meth:`describe` has run.

    Raises:
        DatasetError: If the probe set is empty or none.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str],
        *,
        batch_size: int,
        num_workers: int,
        max_samples: int | None,
        byte_budget: int,
        on_bad_image: BadImage,
        loader_timeout: float,
    ) -> None:
        if not isinstance(probe, ProbeSet):
            raise DatasetError(
                f"probe must be a ProbeSet, got {type(probe).__name__}; subclass ProbeSet for your own data"
            )
        if not len(probe):
            raise DatasetError("the probe set is empty")
        check_least(batch_size=(batch_size, 1), num_workers=(num_workers, 0), byte_budget=(byte_budget, 0))
        check_least(max_samples=(1 if max_samples is None else max_samples, 1))
        if on_bad_image not in ("raise", "skip"):
            raise ValueError(f"on_bad_image must be 'raise' or 'skip', got {on_bad_image!r}")
        if loader_timeout <= 0:
            raise ValueError(f"loader_timeout must be positive, got {loader_timeout}")
        self.probe, self.layers = probe, layers
        self.batch_size, self.num_workers, self.loader_timeout = batch_size, num_workers, loader_timeout
        self.byte_budget, self.on_bad_image = byte_budget, on_bad_image
        self.indices = _spread(len(probe), max_samples)
        self.limit: int | None = None
        self.infos: dict[str, LayerInfo] = {}
        self._described: weakref.ref[nn.Module] | None = None

    @property
    def images(self) -> ProbeImages:
        """What is probed, and how it is read."""
        return ProbeImages(
            probe=self.probe,
            indices=tuple(self.indices[: self.limit]),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            on_bad_image=self.on_bad_image,
            loader_timeout=self.loader_timeout,
        )

    @abstractmethod
    def place(self, module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int]) -> None:
        """Find where the values of a layer lie on images of that ``(C, H, W)``."""

    @abstractmethod
    def study(self, module: nn.Module, ranks: Ranks, forward: Forward | None) -> Study:
        """One measurement, to take part in a sweep."""

    @abstractmethod
    def result(
        self, study: Any, skipped: Sequence[tuple[int, str]], seconds: float, ranks: Ranks, meta: Mapping[str, Any]
    ) -> Result:
        """What a finished study of :meth:`study` has found; no collective."""

    def describe(self, module: nn.Module, forward: Forward | None = None) -> dict[str, LayerInfo]:
        """Resolve the layers and learn the shapes of their maps from one image; cheap, no collective.

        Args:
            module: The network, unwrapped.
            forward: How to call it on prepared images.

        Raises:
            LayerError: If a layer is unknown, does not run exactly once, or gives no, or too large, maps (B, U, H, W).
            DatasetError: If the first image cannot be read.
        """
        with probing(module):
            image = self._example()[None]
            infos = describe_layers(module, self.layers, prepare(image, module, self.probe.normalize), forward)
            for info in infos.values():
                self._check_size(info)
            channels, height, width = image.shape[1:]
            for name, layer in resolve_layers(module, list(infos)).items():
                self.place(module, layer, infos[name], (channels, height, width))
        self.infos, self._described = infos, weakref.ref(module)
        return infos

    def __getstate__(self) -> dict[str, Any]:
        # Launchers pickle callbacks, between two fits too; a weak reference does not travel.
        return self.__dict__ | {"_described": None}

    def known(self, module: nn.Module, forward: Forward | None = None) -> dict[str, LayerInfo]:
        """As :meth:`describe`, unless this network was described last."""
        if self._described is None or self._described() is not module:
            return self.describe(module, forward)
        return self.infos

    def _check_size(self, info: LayerInfo) -> None:
        """Refuse maps of which one batch alone would fill the memory, before they are made."""
        size = self.batch_size * info.units * info.height * info.width * 4 / 2**30
        if size > LARGEST_BATCH:
            raise LayerError(
                f"layer '{info.name}' gives {size:.1f} GiB of activations a batch of {self.batch_size} images, more "
                f"than {LARGEST_BATCH} GiB; lower batch_size or choose a later layer"
            )

    def _example(self) -> Tensor:
        for index in self.indices:
            try:
                return checked_image(self.probe, index)
            except BAD_IMAGE_ERRORS:
                if self.on_bad_image == "raise":
                    raise
        raise DatasetError("no image of the probe set can be read")

    def __call__(
        self,
        module: nn.Module,
        *,
        ranks: Ranks | None = None,
        forward: Forward | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Result | None:
        """Measure once, in a sweep of its own; a collective call. As :func:`measure_together` for one engine.

        Raises:
            ResponseError: If there is nothing to measure in what the layers respond with.
        """
        found = measure_together(
            [self],
            module,
            ranks or Ranks(),
            [meta or {}],
            forward=forward,
            progress=progress,
            should_stop=should_stop,
        )
        if found is not None and isinstance(found[0], ResponseError):
            raise found[0]
        return None if found is None else found[0]


def measure_together(
    engines: Sequence[SweepEngine[Any]],
    module: nn.Module,
    ranks: Ranks,
    metas: Sequence[Mapping[str, Any]],
    *,
    forward: Forward | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Any] | None:
    """Measure with several engines in one sweep; a collective call. Each finds what it would find alone.

    Args:
        engines: Engines whose :attr:`SweepEngine.images` are the same.
        module: The network, unwrapped.
        ranks: The processes that share the probe set.
        metas: Kept in the results, one an engine.
        forward: How to call the network on prepared images.
        progress: Called with images done and images in all, of this process.
        should_stop: Asked before each batch; if any process says yes, all stop.

    Returns:
        Their results, equal on every process; None if it was stopped. Wall times are those of the whole sweep. In place
        of the result of an engine to which the layers' responses say nothing there is a ``ResponseError``.

    Raises:
        ProbeError: If a process of several failed; a single process raises the error itself.
    """
    start = time.perf_counter()
    # Off, for what is made in inference mode cannot be used freely outside of it.
    with torch.inference_mode(False), torch.no_grad():
        studies = [engine.study(module, ranks, forward) for engine in engines]
        skipped = sweep(
            studies, engines[0].images, module, ranks, forward=forward, progress=progress, should_stop=should_stop
        )
        if skipped is None:
            return None
        seconds = time.perf_counter() - start
        found: list[Any] = []
        error: Exception | None = None
        try:
            for engine, study, meta in zip(engines, studies, metas, strict=True):
                found.append(_result(engine, study, skipped, seconds, ranks, meta))
        except Exception as failure:  # Labels that cannot be read again, say: the others must not wait.
            error = failure
        ranks.agree(error)
        return found


def _result(engine: SweepEngine[Any], *found: Any) -> Any:
    try:
        return engine.result(*found)
    except ResponseError as error:
        return error


def check_least(**numbers: tuple[int, int]) -> None:
    """Raise a ``ValueError`` that names the number which is below its minimum, given as ``(value, minimum)``."""
    for name, (value, minimum) in numbers.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def _spread(length: int, most: int | None) -> list[int]:
    """At most ``most`` indices, evenly spaced: the start of a set sorted by name would be no fair sample."""
    if most is None or most >= length:
        return list(range(length))
    return [i * length // most for i in range(most)]
