"""What asks a network about images, as they are and changed: batch by batch, with sums that meet once."""

import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.data.loading import (
    BAD_IMAGE_ERRORS,
    ProbeBatch,
    ShardSampler,
    checked_image,
    probe_batches,
    readable,
    scaled,
)
from lightning_interp.probing.engine import Engine, R
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, Stopped
from lightning_interp.probing.session import probing
from lightning_interp.probing.sums import Sums
from lightning_interp.probing.sweep import Progress
from lightning_interp.probing.view import Network, View

# Numbers of the images that were asked about: by them, rows of several processes are put in order.
_IMAGES = "images asked about"


class AskEngine(Engine[R]):
    """Asks a network about the images of a probe set: as they are, changed, or by its gradients.

    One pass: :meth:`begin`; :meth:`ask` for each batch; on rank zero :meth:`ask_aside`; and, once the sums of all
    processes have met, :meth:`result`.

    Attributes:
        left_out: Images found to be unreadable when the engine was made, which are not among :attr:`indices`.
    """

    left_out: Sequence[tuple[int, str]] = ()

    @abstractmethod
    def begin(self, ranks: Ranks) -> Sums:
        """The sums of one probe, the same on every process; no collective.

        Sums reduced by rows have one row an image, in the order in which they are asked about; :meth:`result` gets them
        in the order of the images.
        """

    @abstractmethod
    def ask(self, view: Any, sums: Any) -> None:
        """Ask about a batch, and add to the sums; no collective.

        Args:
            view: A :meth:`view` of the batch.
            sums: What :meth:`begin` made.
        """

    def ask_aside(self, views: Callable[[Sequence[int]], Iterator[Any]], sums: Any) -> None:
        """Ask, on rank zero alone, about a few images more, such as are shown.

        Args:
            views: Gives the :meth:`view` of each batch of some images.
            sums: What :meth:`begin` made.
        """

    @abstractmethod
    def result(self, sums: Any, totals: Mapping[str, Tensor], **about: Any) -> R:
        """What the sums of all processes say; no collective.

        Args:
            sums: What :meth:`begin` made.
            totals: By name, over all processes.
            **about: What every result says of itself: ``num_images``, ``settings``, ``seconds``, ``meta``.
        """

    def view(self, network: Network, indices: Sequence[int], images: Tensor) -> View:
        """Some images ``(B, C, H, W)``, float in [0, 1] and on the network's device, as :meth:`ask` sees them."""
        return View(network, indices, images, self.read)

    def meet(self, view: Any) -> None:
        """Check what one image tells of a network, and note what must be known of it; no collective."""
        _ = view.outputs

    def describe(self, module: nn.Module, forward: Forward | None = None) -> None:
        """Ask about one image; cheap, no collective.

        Raises:
            DatasetError: If the image cannot be read, or the network does not give one row of outputs an image.
        """
        network = self.network(module, forward)
        with probing(module):
            index, image = self.first()
            self.meet(self.view(network, [index], scaled(image[None]).to(network.device)))
        self._described = weakref.ref(module)

    def network(self, module: nn.Module, forward: Forward | None = None) -> Network:
        """A network as it is asked about this probe set."""
        return Network(module, forward, self.probe.normalize, self.reading.batch_size)

    def read(self, index: int) -> Tensor | None:
        """An image ``(C, H, W)``, float in [0, 1]; None for one that cannot be read and is to be skipped."""
        try:
            return scaled(checked_image(self.probe, index))
        except BAD_IMAGE_ERRORS:
            if self.reading.on_bad_image == "raise":
                raise
            return None

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
        """Ask once; a collective call, as of every engine."""
        start = time.perf_counter()
        ranks = ranks or Ranks()
        under_way = _Asking(self, self.network(module, forward), ranks, progress, should_stop)
        with probing(module):
            # Between two steps of DDP each process has batch statistics of its own; rank zero's are saved.
            ranks.agree(None)
            ranks.share(module.buffers())
            notes = ranks.together(lambda _: under_way.run())
            if any(stopped for _, stopped in notes):
                return None
            skipped = [*self.left_out, *(image for bad, _ in notes for image in bad)]
            kept = readable(self.chosen, dict(skipped))
            totals = under_way.totals()
            result, error = None, None
            try:
                settings = self.settings() | {"num_skipped": len(skipped)}
                about = {"num_images": len(kept), "settings": settings, "meta": dict(meta or {})}
                result = self.result(under_way.sums, totals, seconds=time.perf_counter() - start, **about)
                if ranks.rank == 0:
                    self.say_skipped(skipped, len(kept))
            except Exception as failure:  # A warning made an error, say: the others must not wait.
                error = failure
            ranks.agree(error)
        return result


class _Asking:
    """One pass under way on this process."""

    sums: Sums

    def __init__(
        self,
        engine: AskEngine[Any],
        network: Network,
        ranks: Ranks,
        progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.engine, self.network, self.ranks = engine, network, ranks
        self.progress, self.should_stop = progress, should_stop
        self.skipped: list[tuple[int, str]] = []

    def run(self) -> tuple[list[tuple[int, str]], bool]:
        """Ask about everything; the images that could not be read, and whether it was stopped."""
        engine = self.engine
        engine.describe_once(self.network.module, self.network.forward)
        # In here, for sums made in inference mode could not be added to, and to make them may ask for images.
        self.sums = engine.begin(self.ranks)
        self.sums.add(_IMAGES, torch.empty(0, dtype=torch.int64), by="rows")
        try:
            for view in self._views(self._own()):
                engine.ask(view, self.sums)
                self.sums.append(_IMAGES, torch.tensor(view.indices))
        except Stopped:
            return self.skipped, True
        if self.ranks.rank == 0:
            here = replace(engine.reading, num_workers=0)
            engine.ask_aside(lambda indices: self._views(probe_batches(engine.probe, indices, here)), self.sums)
        return self.skipped, False

    def _own(self) -> Iterator[ProbeBatch]:
        """The batches of this process."""
        shard = ShardSampler(self.engine.chosen, self.ranks.rank, self.ranks.world)
        done = 0
        for batch in probe_batches(self.engine.probe, shard.indices, self.engine.reading):
            if self.should_stop is not None and self.should_stop():
                raise Stopped
            yield batch
            self.skipped += batch.skipped
            done += len(batch.indices) + len(batch.skipped)
            if self.progress is not None:
                self.progress(done, len(shard))

    def _views(self, batches: Iterable[ProbeBatch]) -> Iterator[View]:
        for batch in batches:
            if batch.indices:
                images = scaled(batch.images[: len(batch.indices)]).to(self.network.device)
                yield self.engine.view(self.network, batch.indices, images)

    def totals(self) -> dict[str, Tensor]:
        """Everything over all processes, rows in the order of the images; a collective call."""
        totals = self.sums.reduced()
        order = totals.pop(_IMAGES).argsort()
        return {name: total[order] if self.sums.by_rows(name) else total for name, total in totals.items()}
