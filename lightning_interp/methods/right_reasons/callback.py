"""Training that is held to the region that should matter."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from lightning_interp._lightning import LightningModule, Trainer, rank_zero_warn
from lightning_interp.callbacks.loss_term import LossTerm, add_to_loss
from lightning_interp.errors import LayerError, ProbeError
from lightning_interp.functional.fills import check_masks
from lightning_interp.methods.right_reasons.context import ContextRandomiser
from lightning_interp.methods.right_reasons.loss import RightReasonsLoss, Task, class_log_probs, outside_region
from lightning_interp.schedule import Ramp

Place = int | str | Callable[[Any], Tensor]
"""Where in a batch something is: a position (tuples), a key (dicts), or a function of the batch."""

_NAME = "right_reasons"


@dataclass
class _Pass:
    """The one forward pass of a training step: what went in, what came out, and how often it happened."""

    images: Tensor | None = None
    output: Any = None
    calls: int = 0


class RightReasons(LossTerm):
    """Repairs a shortcut while training, without a change to the user's module.

    Two means, each with a weight that may grow over the epochs (:class:`~lightning_interp.schedule.Ramp`):

    - a penalty on what pixels outside the causal region do to the answer, added to what ``training_step`` returns
      (:func:`~lightning_interp.methods.right_reasons.loss.right_reasons_penalty`);
    - contexts swapped or filled in the training images, before the network sees them
      (:class:`~lightning_interp.methods.right_reasons.context.ContextRandomiser`).

    While ``trainer.fit`` runs, the module's ``training_step`` is wrapped. In it, hooks on ``layer`` change the images
    on their way in and note the logits on their way out, so that nothing runs twice; the penalty is about the very
    pass, with the same dropout, that the loss came from. ``layer`` must be called once in a training step with
    gradients enabled (calls under ``no_grad`` do not count), and its first argument must be the images. What the step
    itself reads from the batch stays as it was.

    Works with bf16-mixed precision, gradient accumulation and DDP; in float16, small input gradients may vanish. With
    ``weight=0`` and no randomiser, training is bit-identical to one without the callback, and a warning says so. It has
    no state to save: the weights follow from the epoch, the random numbers from seed, epoch, batch and process.

    Scalars, means over the epoch: ``right_reasons/weight``; ``right_reasons/no_region``, the share of images whose
    region is empty, which the penalty passes over; and while the weight is not 0 ``right_reasons/penalty``, before
    weighting.

    Args:
        region: Where the batch has the masks of what should matter, ``(B, H, W)`` bool: a position, a key, or a
            function of the batch (which may find them from landmarks, say).
        task: What the logits mean: ``"binary"``, ``"multilabel"`` or ``"multiclass"``.
        weight: Weight of the penalty; see there for its scale.
        randomiser: The augmentation; None for none.
        context: Where the batch has the masks of what the randomiser may replace; None for all but the region.
        layer: Path of the submodule that turns images into logits; ``""`` for the module's own ``forward``.
        logits: Picks the logits out of what that gives, such as ``lambda out: out[:, 0]`` for the attribute that the
            region belongs to; None if it gives them.
        seed: Seed of the randomiser, at least 0.

    Raises:
        LayerError: If ``layer`` is unknown; at the first training step if it was not called exactly once.
        ProbeError: With manual optimisation, sharded weights, or a second callback of this kind.
        ValueError: At the first training step, if a mask is missing, not bool or not of the images' size, or if the
            logits of a penalty, now or of a later epoch, are no tensor or do not fit ``task``.
    """

    title = _NAME
    by_hand = "RightReasonsLoss and ContextRandomiser"

    def __init__(
        self,
        region: Place,
        task: Task,
        *,
        weight: float | Ramp = 0.0,
        randomiser: ContextRandomiser | None = None,
        context: Place | None = None,
        layer: str = "",
        logits: Callable[[Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        if context is not None and (randomiser is None or context == region):
            what = "is the region, which must stay" if randomiser else "is for a randomiser=, and there is none"
            raise ValueError(f"{_NAME}: context={context!r} {what}")
        self.loss = RightReasonsLoss(weight, task)
        self.region, self.context, self.randomiser = region, context, randomiser
        self.layer, self.logits, self.seed = layer, logits, seed
        self._batch = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector
        if stage == "fit" and any(isinstance(c, RightReasons) and c is not self for c in callbacks):
            raise ProbeError(
                f"{self.title}: only one such callback can wrap a training step; add RightReasonsLoss by hand"
            )
        if stage == "fit":
            self._watched(pl_module)
            if not self.loss.weight.weight and self.randomiser is None:
                rank_zero_warn(f"{self.title}: nothing to do: the weight is 0; give weight=, or a randomiser=")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note which batch it is, for the random numbers."""
        self._batch = batch_idx

    def around(self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], Any], batch: Any) -> Any:
        """The user's step on randomised images, and the penalty on top of its loss."""
        region = _read(batch, self.region, "region")
        with self._watch(pl_module, self._prepare(trainer, batch, region)) as seen:
            output = step()
        if output is None:
            return None
        if seen.calls != 1 or seen.images is None:
            raise LayerError(
                f"{_NAME}: {self.layer or 'forward'!r} was called {seen.calls} times with gradients in training_step, "
                "not once; give layer= the submodule that turns images into logits, uncompiled"
            )
        weight = self.loss.weight.at(trainer.current_epoch)
        region = region.to(seen.images.device)
        scalars: dict[str, Any] = {"weight": weight, "no_region": 1 - region.flatten(1).any(dim=1).float().mean()}
        if self.loss.weight.weight:
            # Also where they are not used yet, so that a mistake shows before the weight is above 0.
            logits = self._logits(seen.output)
        if weight:
            penalty = self.loss.penalty(logits, seen.images, region)
            scalars["penalty"] = penalty.detach()
            output = add_to_loss(output, weight * penalty)
        if not trainer.barebones:
            tags = {f"{_NAME}/{name}": value for name, value in scalars.items()}
            pl_module.log_dict(tags, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(region))
        return output

    def _logits(self, output: Any) -> Tensor:
        """The logits in what the watched module gives."""
        logits = output if self.logits is None else self.logits(output)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"{_NAME}: the logits are a {type(logits).__name__}, not a tensor; pick them out of what "
                f"{self.layer or 'forward'!r} gives with logits="
            )
        try:
            class_log_probs(logits.detach(), self.loss.task)
        except ValueError as error:
            raise ValueError(f"{_NAME}: {error}; pick others with logits=, or change task=") from error
        return logits

    def _prepare(self, trainer: Trainer, batch: Any, region: Tensor) -> Callable[[Tensor], Tensor]:
        """What happens to the images on their way into the network."""
        epoch = trainer.current_epoch

        def prepare(images: Tensor) -> Tensor:
            # Also where nothing is done to them yet, so that a mistake shows before the weight is above 0.
            check_masks(images, region)
            if self.randomiser is not None:
                context = outside_region(region) if self.context is None else _read(batch, self.context, "context")
                numbers = np.random.SeedSequence([self.seed, epoch, self._batch, trainer.global_rank])
                generator = Generator().manual_seed(int(numbers.generate_state(1)[0]))
                images = self.randomiser(images, context.to(images.device), epoch, generator)
            if self.loss.weight.at(epoch) and not images.is_floating_point():
                raise ValueError(f"{_NAME}: images are {images.dtype}; a gradient penalty needs floating-point images")
            if self.loss.weight.at(epoch) and not images.requires_grad:
                # A leaf of its own: the batch's tensor stays as it was.
                images = images.detach().requires_grad_()
            return images

        return prepare

    @contextmanager
    def _watch(self, pl_module: LightningModule, prepare: Callable[[Tensor], Tensor]) -> Iterator[_Pass]:
        """Prepare the images of the watched module and note what it makes of them, while the context lasts."""
        seen = _Pass()

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not torch.is_grad_enabled():
                return None
            if not args or not isinstance(args[0], Tensor):
                raise LayerError(f"{_NAME}: the first argument of {self.layer or 'forward'!r} must be the images")
            return (prepare(args[0]), *args[1:])

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if torch.is_grad_enabled():
                seen.images, seen.output = args[0], output
                seen.calls += 1

        # Only here, for under DDP the training step is itself run through the module's forward.
        watched = self._watched(pl_module)
        handles = [watched.register_forward_pre_hook(before), watched.register_forward_hook(after)]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _watched(self, pl_module: LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self.layer)
        except AttributeError as error:
            raise LayerError(f"{_NAME}: layer={self.layer!r} is no submodule: {error}") from error


def _read(batch: Any, place: Place, name: str) -> Tensor:
    """The masks of a batch."""
    try:
        masks = place(batch) if callable(place) else batch[place]
    except (KeyError, IndexError, TypeError) as error:
        if callable(place):
            raise
        kind = type(batch).__name__
        raise ValueError(f"{_NAME}: {name}={place!r} is not in the batch, a {kind}: {error}") from error
    if not isinstance(masks, Tensor):
        raise ValueError(f"{_NAME}: {name} must be a bool tensor (B, H, W), not {type(masks).__name__}")
    return masks
