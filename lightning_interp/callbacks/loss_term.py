"""Callbacks that add to the loss of a training step, without a change to the user's module."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightning_interp._lightning import Callback, LightningModule, Trainer
from lightning_interp.callbacks.training import SHARDED, base_names
from lightning_interp.errors import ProbeError


class LossTerm(Callback):
    """Wraps the module's ``training_step`` while ``trainer.fit`` runs, so that AMP, accumulation and DDP see one loss.

    Several of them share one wrapper, whichever ends first.

    Attributes:
        title: What messages and tags begin with.
        by_hand: What does the same in a training step with manual optimisation.
    """

    title: ClassVar[str]
    by_hand: ClassVar[str]

    @abstractmethod
    def around(self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], Any], batch: Any) -> Any:
        """Run the step and give what it returned with the term added to its loss (:func:`add_to_loss`)."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ProbeError(
                f"{self.title}: with manual optimisation, training_step returns no loss to add to; call {self.by_hand} "
                "of lightning_interp.losses in training_step"
            )
        if kind := base_names(trainer.strategy) & SHARDED:
            raise ProbeError(f"{self.title}: {kind.pop()} shards the weights; this is not supported there")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap the training step; not earlier, for weight averaging copies the module while it is set up."""
        _terms(trainer, pl_module).append(self)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own training step back."""
        wrapper = vars(pl_module).get("training_step")
        terms = getattr(wrapper, "terms", [])
        if self in terms:
            terms.remove(self)
            if not terms:
                wrapper.undo()  # type: ignore[union-attr]  # what has terms has this

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As at teardown, which Lightning leaves out after an exception."""
        self.teardown(trainer, pl_module, "fit")


def _terms(trainer: Trainer, pl_module: LightningModule) -> list[LossTerm]:
    """The terms of the module's wrapped training step, which is wrapped now if it was not."""
    step = pl_module.training_step
    if hasattr(step, "terms"):
        known: list[LossTerm] = step.terms
        return known
    terms: list[LossTerm] = []
    had_own = "training_step" in vars(pl_module)

    @functools.wraps(step)
    def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
        run: Callable[[], Any] = functools.partial(step, batch, *args, **kwargs)
        for term in terms:
            run = functools.partial(term.around, trainer, pl_module, run, batch)
        return run()

    def undo() -> None:
        if had_own:
            pl_module.training_step = step  # type: ignore[method-assign]
        else:
            del pl_module.training_step

    training_step.terms, training_step.undo = terms, undo  # type: ignore[attr-defined]
    pl_module.training_step = training_step  # type: ignore[method-assign]
    return terms


def add_to_loss(output: Any, term: Tensor) -> Any:
    """What a training step returned, with a term added to its loss."""
    if isinstance(output, Mapping):
        return {**output, "loss": output["loss"] + term}
    return output + term
