"""What measures a network again and again on one probe set: its images, its layers, and sweeps shared with others."""

import time
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from lightning_interp._options import check_options, keyword_options, show_options
from lightning_interp.data.labels import LabelBank
from lightning_interp.data.loading import BAD_IMAGE_ERRORS, Reading, checked_image
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError, LayerError, ResponseError
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.probing.layers import LayerInfo, describe_layers, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, prepare, statistics_device
from lightning_interp.probing.session import probing
from lightning_interp.probing.sweep import ProbeImages, Progress, Study, Task, sweep

R = TypeVar("R")

# GiB of one layer's maps for one batch.
LARGEST_BATCH = 8
# Units that a warning names.
_NAMED = 8

READING_OPTIONS = keyword_options(Reading)


class Engine(ABC, Generic[R]):
    """Measures a network on one probe set, again and again; what does not change in between is kept.

    Args:
        probe: The probe set.
        **reading: How it is read: :class:`~lightning_interp.data.loading.Reading`.

    Attributes:
        reading: How it is read.
        indices: The images.
        limit: Probe only the first so many of them (a trial run); None for all.

    Raises:
        DatasetError: If the probe set is empty or none.
        TypeError: If an option is unknown.
        ValueError: If an option is out of range.
    """

    READING: ClassVar[Reading] = Reading()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            # The same options, with the defaults that this method has for them.
            defaults = asdict(cls.READING)
            show_options(cls.__init__, {name: p.replace(default=defaults[name]) for name, p in READING_OPTIONS.items()})

    def __init__(self, probe: ProbeSet, **reading: Any) -> None:
        if not isinstance(probe, ProbeSet):
            raise DatasetError(
                f"probe must be a ProbeSet, got {type(probe).__name__}; subclass ProbeSet for your own data"
            )
        if not len(probe):
            raise DatasetError("the probe set is empty")
        check_options(type(self).__name__, reading, keyword_options(type(self)))
        self.probe = probe
        self.reading = self.READING.but(type(self).__name__, **reading)
        self.indices = self.reading.spread(range(len(probe)))
        self.limit: int | None = None
        self._warned: set[str] = set()
        self._described: weakref.ref[nn.Module] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Launchers pickle callbacks, between two fits too; a weak reference does not travel.
        return self.__dict__ | {"_described": None}

    @property
    def chosen(self) -> tuple[int, ...]:
        """The images of the next probe: all, or the first few in a trial run."""
        return tuple(self.indices[: self.limit])

    @abstractmethod
    def describe(self, module: nn.Module, forward: Forward | None = None) -> Any:
        """Check what can be checked with one image, before the first epoch; cheap, no collective."""

    def describe_once(self, module: nn.Module, forward: Forward | None) -> None:
        """Describe a network, unless it is the one that was described last."""
        if self._described is None or self._described() is not module:
            self.describe(module, forward)

    @abstractmethod
    def __call__(
        self,
        module: nn.Module,
        *,
        ranks: Ranks | None = None,
        forward: Forward | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> R | None:
        """Measure once; a collective call.

        Args:
            module: The network, unwrapped.
            ranks: The processes that share the probe set; this one alone by default.
            forward: How to call the network on prepared images.
            progress: Called with images done and images in all, of this process.
            should_stop: Asked before each batch; if any process says yes, all stop.
            meta: Kept in the result.

        Returns:
            The result, equal on every process; None if it was stopped.

        Raises:
            ProbeError: If a process of several failed; a single process raises the error itself.
        """

    def once(self, module: nn.Module, *, progress: Progress | None = None) -> R:
        """Measure a network outside of training."""
        result = self(module, progress=progress)
        assert result is not None  # only should_stop stops it
        return result

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, JSON-able."""
        return {
            "probe": self.probe.fingerprint(),
            "probe_kind": type(self.probe).__name__,
            "batch_size": self.reading.batch_size,
        }

    def say_once(self, subject: str, text: str) -> None:
        """Warn of something, however often it is found, once."""
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(text, stacklevel=4)

    def say_skipped(self, skipped: Sequence[tuple[int, str]], num_images: int) -> None:
        """Warn of images left out, once."""
        if skipped:
            index, reason = min(skipped)
            images = f"{len(skipped)} of {num_images + len(skipped)} images of the probe set"
            self.say_once("", f"left out: {images}; the first, image {index}: {reason}")

    def say_nonfinite(self, layer: str, units: Sequence[int], num_units: int, what: str = "units") -> None:
        """Warn of units that cannot be scored, once a layer."""
        if len(units):
            more = ", ..." if len(units) > _NAMED else ""
            self.say_once(
                f"layer {layer}",
                f"layer '{layer}': {len(units)} of {num_units} {what} gave NaN or infinite activations "
                f"({', '.join(map(str, units[:_NAMED]))}{more}): not scored",
            )

    def example(self) -> Tensor:
        """``(C, H, W)``: the first image that can be read, as :meth:`first`."""
        return self.first()[1]

    def first(self) -> tuple[int, Tensor]:
        """The first image that can be read: its number, and ``(C, H, W)``.

        Raises:
            DatasetError: If there is none, or one cannot be read and none is to be skipped.
        """
        for index in self.indices:
            try:
                return index, checked_image(self.probe, index)
            except BAD_IMAGE_ERRORS:
                if self.reading.on_bad_image == "raise":
                    raise
        raise DatasetError("no image of the probe set can be read")


# So that an engine without options of its own shows them, too.
show_options(Engine.__init__, READING_OPTIONS)


class SweepEngine(Engine[R]):
    """Measures layers of a network, in sweeps that it can share with other engines.

    Args:
        probe: The probe set.
        layers: Module paths, globs or ``"auto"``.
        **reading: How it is read.

    Attributes:
        bank: Encoded labels of the probe set, where a method needs some; a subclass makes it.
        infos: Shapes of the layers, once :meth:`describe` has run.
        grids: By layer, where its values lie, once :meth:`describe` has run.
    """

    bank: LabelBank | None = None

    def __init__(self, probe: ProbeSet, layers: Sequence[str] = ("auto",), **reading: Any) -> None:
        super().__init__(probe, **reading)
        self.layers = layers
        self.infos: dict[str, LayerInfo] = {}
        self.grids: dict[str, Grid] = {}

    @property
    def images(self) -> ProbeImages:
        """What is probed, and how it is read."""
        return ProbeImages(self.probe, self.chosen, self.reading, self.bank is not None)

    def place(self, module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int]) -> Grid:
        """Where the values of a layer lie, on images of that ``(C, H, W)`` or their masks; equal cells by default."""
        return Grid(*(Axis.cells(n, pixels) for n, pixels in zip((info.height, info.width), shape[1:], strict=True)))

    @abstractmethod
    def study(self, task: Task) -> Study:
        """One measurement, to take part in a sweep."""

    @abstractmethod
    def result(self, study: Any, **about: Any) -> R:
        """What a finished study of :meth:`study` has found; no collective.

        Args:
            study: The study.
            **about: What every result says of itself: ``num_images``, ``settings``, ``seconds``, ``meta``.

        Raises:
            ResponseError: If there is nothing to measure in what the layers respond with.
        """

    def notices(self, result: R) -> None:
        """Warn of what a user should hear of a result; rank zero only."""

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
            image = self.example()[None]
            infos = describe_layers(module, self.layers, prepare(image, module, self.probe.normalize), forward)
            for info in infos.values():
                self._check_size(info)
            channels, height, width = image.shape[1:]
            self.grids = {
                name: self.place(module, layer, infos[name], (channels, height, width))
                for name, layer in resolve_layers(module, list(infos)).items()
            }
        self.infos, self._described = infos, weakref.ref(module)
        return infos

    def task(self, module: nn.Module, ranks: Ranks, forward: Forward | None) -> Task:
        """What a study of this network is given; the layers are described anew if it is not the last one."""
        self.describe_once(module, forward)
        return Task(
            module=module,
            forward=forward,
            ranks=ranks,
            device=statistics_device(module),
            probe=self.probe,
            labels=self.bank,
            infos=dict(self.infos),
            grids=dict(self.grids),
            reading=self.reading,
        )

    def _check_size(self, info: LayerInfo) -> None:
        """Refuse maps of which one batch alone would fill the memory, before they are made."""
        size = self.reading.batch_size * info.units * info.height * info.width * 4 / 2**30
        if size > LARGEST_BATCH:
            raise LayerError(
                f"layer '{info.name}' gives {size:.1f} GiB of activations a batch of {self.reading.batch_size} images, "
                f"more than {LARGEST_BATCH} GiB; lower batch_size or choose a later layer"
            )

    def __call__(
        self,
        module: nn.Module,
        *,
        ranks: Ranks | None = None,
        forward: Forward | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> R | None:
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
        studies: list[Study] = []
        error: Exception | None = None
        try:
            studies = [engine.study(engine.task(module, ranks, forward)) for engine in engines]
        except Exception as failure:  # A layer that only this process cannot describe: the others must not wait.
            error = failure
        ranks.agree(error)
        skipped = sweep(
            studies, engines[0].images, module, ranks, forward=forward, progress=progress, should_stop=should_stop
        )
        if skipped is None:
            return None
        seconds = time.perf_counter() - start
        found: list[Any] = []
        try:
            for engine, study, meta in zip(engines, studies, metas, strict=True):
                found.append(_result(engine, study, skipped, seconds, ranks, meta))
        except Exception as failure:  # Labels that cannot be read again, say: the others must not wait.
            error = failure
        ranks.agree(error)
        return found


def _result(
    engine: SweepEngine[Any],
    study: Study,
    skipped: Sequence[tuple[int, str]],
    seconds: float,
    ranks: Ranks,
    meta: Mapping[str, Any],
) -> Any:
    settings = engine.settings() | {"num_skipped": len(skipped)}
    try:
        result = engine.result(study, num_images=len(study.kept), settings=settings, seconds=seconds, meta=dict(meta))
    except ResponseError as error:
        return error
    if ranks.rank == 0:
        engine.say_skipped(skipped, len(study.kept))
        engine.notices(result)
    return result
