"""What every probing callback shares: when to probe, with which weights, on which processes, and what is kept."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from lightning_interp._lightning import Callback, LightningModule, Trainer, rank_zero_info, rank_zero_warn
from lightning_interp.callbacks.moments import Moment, find_result
from lightning_interp.callbacks.publish import Charts, Publisher, Shown
from lightning_interp.callbacks.training import (
    SHARDED,
    back_on_device,
    base_names,
    is_first,
    is_trial,
    quiet,
    validated,
    validates,
    validations,
    warn_of_averaging,
    warn_of_patience,
)
from lightning_interp.errors import ProbeError, ResponseError
from lightning_interp.logging.artifacts import safe_tag
from lightning_interp.probing.engine import Engine
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.session import same_random_state
from lightning_interp.probing.sweep import Progress
from lightning_interp.results.base import LayeredResult, Result
from lightning_interp.schedule import AtEnd, Every

R = TypeVar("R", bound=Result)


class ProbeCallback(Callback, Generic[R]):
    """Probes the network during training and publishes what it found.

    Runs at the end of the first validation of an epoch, else at the end of the training epoch if there is no
    validation. Training is bit-identical with and without it. A subclass names its engine and says what to show.

    Callbacks with engines that probe the same images at the same moment share one sweep of forward passes: the first
    of them makes it for those after it in the trainer's list, up to any other callback that does something at that
    moment, for it might change the network. Each finds what it would find alone; only the wall time is that of all.

    Every score goes to ``callback_metrics``, so that ``ModelCheckpoint`` and ``EarlyStopping`` can monitor it.

    Args:
        engine: What probes.
        name: First part of every tag and the name of the folder; two callbacks need two names.
        schedule: When to probe; ``AtEnd()`` for the end of the training alone.
        scalars: What goes to the loggers: the ``"headline"``, the few scores that a person watches, or ``"all"``. The
            files hold all in any case.
        on_error: What a failing figure, logger or file does: ``"warn"`` once and go on, or ``"raise"``. A probe
            that fails always raises, on every process alike; layers that say nothing are a warning.
        timeout: Seconds to wait for another process before giving up.

    Attributes:
        TITLE: Heading of its charts.
        CHARTS: By title, quantities of a layer that TensorBoard shows in one chart.
        TRIALS: Whether a trial run (``fast_dev_run``) probes; it looks at one batch.
        ALSO_AT_END: Whether it probes at the end of the training whatever the schedule.
        result: What the last probe found.
        history: One entry a probe, oldest first, as a checkpoint can hold it: ``epoch`` (-1 before the first, and after
            the last), ``step``, ``scalars`` by name, and what a method adds.
    """

    TITLE: ClassVar[str] = ""
    CHARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    TRIALS: ClassVar[bool] = True
    ALSO_AT_END: ClassVar[bool] = False

    def __init__(
        self,
        engine: Engine[R],
        *,
        name: str,
        schedule: Every | AtEnd = Every(n_epochs=1, at_start=True),  # noqa: B008 - frozen
        scalars: Literal["headline", "all"] = "headline",
        on_error: Literal["warn", "raise"] = "warn",
        timeout: float = 600.0,
    ) -> None:
        if safe_tag(name) != name or "/" in name:
            raise ValueError(f"name {name!r} must be made of letters, digits and _ . - only")
        if not isinstance(schedule, Every | AtEnd):
            raise TypeError(f"schedule is {schedule!r}; give one, such as Every(n_epochs=2) or AtEnd()")
        if scalars not in ("headline", "all"):
            raise ValueError(f"scalars must be 'headline' or 'all', got {scalars!r}")
        if timeout <= 0:
            raise ValueError(f"timeout must be positive, got {timeout}")
        self.engine, self.name, self.schedule, self.timeout = engine, name, schedule, timeout
        self.sends_all = scalars == "all"
        self._publisher = Publisher(name, on_error)
        self.ranks = Ranks()
        self._active = True
        self.reset()

    def reset(self) -> None:
        """Forget every probe: a new training begins."""
        self.last_epoch: int | None = None
        self.result: R | None = None
        self.history: list[dict[str, Any]] = []
        self._values: dict[str, float] = {}
        self._sent: set[str] = set()
        self._laid_out = False
        self.together: list[ProbeCallback[Any]] = []
        self.waiting: tuple[Moment, R | ResponseError] | None = None

    # What a method may say of itself.

    def prepare(self, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Check what can be checked before the first epoch; raises on every process alike."""
        self.engine.describe(module, forward)

    def follow_up(self, result: R, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Do what else needs the network as it was probed; on every process, but no collective."""

    def scalars(self, result: R) -> dict[str, float]:
        """Every score by tag, always the same tags; called once a probe, on every process, after those before it."""
        return result.scalars()

    def headline(self, result: R, values: Mapping[str, float]) -> dict[str, float]:
        """Those of :meth:`scalars` that a person watches."""
        return result.headline()

    def remembered(self, result: R) -> dict[str, Any]:
        """What else an entry of the history holds: plain numbers, strings, lists, dicts and tensors."""
        return {}

    def news(self, result: R) -> None:
        """Say what is new, once the result is in the history; on every process."""

    def charts(self, result: R) -> Charts:
        """Charts for TensorBoard's custom scalars; tags below the name."""
        layers = result.layers if isinstance(result, LayeredResult) else ()
        return {
            f"{layer}: {title}": ("Multiline", [f"{layer}/{quantity}" for quantity in quantities])
            for layer in layers
            for title, quantities in self.CHARTS.items()
        }

    def shown(self, result: R) -> Iterable[Shown]:
        """Every figure and table, in order; what makes one is called for each logger that shows it."""
        return ()

    def save(self, result: R, folder: Path) -> None:
        """Write the result's files; rank zero only."""
        result.save(folder)

    def lines(self, result: R) -> Iterable[str]:
        """What is said when the training ends."""
        return ()

    def pages(self, result: R, folder: Path) -> None:
        """Write what sums up the whole training; rank zero only."""

    def once(self, module: LightningModule, folder: Path, progress: Progress | None, meta: Mapping[str, Any]) -> R:
        """Probe a network outside of training, and write what is found to a folder."""
        result = self.engine(module, progress=progress, meta={**meta, "name": self.name})
        assert result is not None  # only should_stop stops it
        self.save(result, folder)
        self.pages(result, folder)
        return result

    @property
    def state_key(self) -> str:
        """Differs between callbacks of one class, so that each keeps its own state in the checkpoint."""
        return f"{type(self).__qualname__}{{'name': {self.name!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, warn of what misleads."""
        self._active = not trainer.barebones
        if not self._active:
            rank_zero_info(f"{self.name}: Trainer(barebones=True) logs nothing, so nothing is probed")
            return
        if stage == "fit" and is_first(trainer):
            self.reset()
        # What learns nothing from one batch checks that it could learn from all.
        self.engine.limit = self.engine.reading.batch_size if is_trial(trainer) and self.TRIALS else None
        kind = base_names(trainer.strategy) & SHARDED
        if kind:
            raise ProbeError(f"{self.name}: {kind.pop()} shards the weights; probing it is not supported")
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector
        self.together = [c for c in callbacks if isinstance(c, ProbeCallback)]
        twins = [c for c in self.together if c.name == self.name and c is not self]
        if twins:
            raise ProbeError(f"two callbacks are named '{self.name}'; give one of them another name=")
        if isinstance(self.schedule, Every):
            warn_of_averaging(trainer, self, self.name, stage)
            warn_of_patience(trainer, self.name, self.schedule.n_epochs * validations(trainer))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Meet the other processes and check the layers before anything else runs."""
        self._connect(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As at fit start, for ``trainer.validate`` alone."""
        if trainer.state.fn == "validate":
            self._connect(trainer, pl_module)

    def _connect(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._active:
            return
        self.ranks = Ranks.connect(timedelta(seconds=self.timeout))
        error: Exception | None = None
        try:
            with same_random_state(), quiet(pl_module):
                self.prepare(pl_module, validated(trainer, pl_module))
        except Exception as caught:
            error = caught
        self.ranks.agree(error)
        self._publisher.outlive(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe before training; ``self.log`` would date it to the first epoch's end, so loggers get it directly.

        A training that is taken up again has no scores, for Lightning does not keep them; who monitors one asks for it
        at the end of an epoch that may not be probed.
        """
        if self._active:
            trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in self._values.items()})
        if self.wants(trainer, "on_train_start"):
            self._run(trainer, pl_module, Moment("on_train_start", None, trainer.global_step))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe where ModelCheckpoint and EarlyStopping will read the scores in the same epoch."""
        if not self.wants(trainer, "on_validation_epoch_end"):
            return
        now = Moment("on_validation_epoch_end", trainer.current_epoch, trainer.global_step)
        if trainer.state.fn == "validate":
            before = self.state_dict()
            self._run(trainer, pl_module, now)
            # A validation alone is no part of the training's history.
            self.load_state_dict(before)
        else:
            self._run(trainer, pl_module, now)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe here if there is no validation."""
        if self.wants(trainer, "on_train_epoch_end"):
            self._run(trainer, pl_module, Moment("on_train_epoch_end", trainer.current_epoch, trainer.global_step))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the trained network, if asked to, and sum up, if anything was probed."""
        if self.wants(trainer, "on_fit_end"):
            with back_on_device(trainer, pl_module):
                self._run(trainer, pl_module, Moment("on_fit_end", None, trainer.global_step))
        folder = self._publisher.folder(trainer)
        if self.result is not None and trainer.is_global_zero and not is_trial(trainer):
            with same_random_state(), self._publisher.guard("report"):
                for line in self.lines(self.result):
                    rank_zero_info(f"{self.name}: {line}")
                self.pages(self.result, folder)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the other processes."""
        self.ranks.close()
        self.ranks = Ranks()
        self.waiting = None
        self.engine.limit = None

    def wants(self, trainer: Trainer, hook: str) -> bool:
        """Whether this callback probes in a hook that runs now."""
        if not self._active or (is_trial(trainer) and not self.TRIALS):
            return False
        if hook == "on_fit_end":
            trained = trainer.global_step > 0
            return trained and (self.ALSO_AT_END or isinstance(self.schedule, AtEnd))
        if not isinstance(self.schedule, Every):
            return False
        if trainer.state.fn == "validate":
            return hook == "on_validation_epoch_end"
        if hook == "on_train_start":
            return self.schedule.at_start and is_first(trainer) and not is_trial(trainer)
        if hook == "on_train_epoch_end" and validates(trainer):
            return False
        most = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        due = self.schedule.due(trainer.current_epoch, self.last_epoch, most)
        return not trainer.sanity_checking and due

    def _run(self, trainer: Trainer, pl_module: LightningModule, now: Moment) -> None:
        result, epoch = find_result(self, trainer, pl_module, now), now.epoch
        if result is None:
            return
        if isinstance(result, ResponseError):
            # It may come of training, which is the user's affair; an observer does not end it.
            rank_zero_warn(f"{self.name}: {result}; there is nothing to show of it")
            return
        self.result = result
        found = self.note(result)
        self._log(trainer, pl_module, found, self.headline(result, found) | {"seconds": result.seconds}, epoch)
        self._publish(trainer, result, "validate" if trainer.state.fn == "validate" else now.folder)

    def note(self, result: R) -> dict[str, float]:
        """Enter a result into the history, and say what is new in it; its scores."""
        found = self.scalars(result)
        epoch, step = result.meta["epoch"], result.meta.get("global_step")
        entry = {"epoch": -1 if epoch is None else epoch, "step": step, "scalars": found}
        self.history.append(entry | self.remembered(result))
        self.news(result)
        return found

    def _log(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        found: Mapping[str, float],
        chosen: Mapping[str, float],
        epoch: int | None,
    ) -> None:
        """Every score to where it can be monitored, the headline to the loggers too."""
        values = self._tagged({**found, **chosen})
        # What trainer.validate() gives back is what is logged.
        everything = self.sends_all or trainer.state.fn == "validate"
        self._sent = {*found, *chosen} if everything else {*chosen}
        sent = values if everything else self._tagged(chosen)
        if epoch is None:
            # Lightning takes no scores here. Those of the trained network are there for who reads them after the fit.
            self._publisher.scalars(trainer, sent)
            if trainer.global_step > 0:
                trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in values.items()})
            return
        self.last_epoch, self._values = epoch, values
        for logged in (True, False):
            few = {tag: value for tag, value in values.items() if (tag in sent) is logged}
            # Equal on every process already; a maximum keeps them so, and Lightning from asking for a reduction.
            pl_module.log_dict(
                few,
                logger=None if logged else False,
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                reduce_fx="max",
                batch_size=1,
            )

    def _tagged(self, values: Mapping[str, float]) -> dict[str, float]:
        return {safe_tag(f"{self.name}/{key}"): value for key, value in values.items()}

    def _publish(self, trainer: Trainer, result: R, folder: str) -> None:
        root = self._publisher.folder(trainer)
        if is_trial(trainer) or not trainer.is_global_zero:
            return
        with same_random_state():
            with self._publisher.guard("files"):
                self.save(result, root / folder)
            with self._publisher.guard("figures"):
                if not self._laid_out:
                    self._laid_out = True
                    # TensorBoard shows one layout a run: each callback writes those before it again.
                    layouts = [c._layout() for c in self.together if c.result is not None]
                    self._publisher.layout(trainer, dict(layouts))
                self._publisher.show(trainer, self.shown(result))

    def _layout(self) -> tuple[str, Charts]:
        """Heading and charts, of the scores that are sent to the loggers."""
        assert self.result is not None
        sent = self._sent
        charts: Charts = {
            title: (kind, tuple(f"{self.name}/{tag}" for tag in tags if tag in sent))
            for title, (kind, tags) in self.charts(self.result).items()
            # A band needs its three; of lines, those that are sent.
            if (sent.issuperset(tags) if kind == "Margin" else sent.intersection(tags))
        }
        return f"{self.TITLE or type(self).__name__}: {self.name}", charts

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists, dicts and tensors only: anything else makes the checkpoint unresumable."""
        return {
            "last_epoch": self.last_epoch,
            "values": dict(self._values),
            "history": list(self.history),
            "probe": self.engine.probe.fingerprint(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was written, unless that was with another probe set."""
        own = self.engine.probe.fingerprint()
        if state_dict.get("probe", own) != own:
            rank_zero_warn(f"{self.name}: the checkpoint's history is of another probe set; it starts anew")
            return
        self.last_epoch, self._values = state_dict["last_epoch"], dict(state_dict.get("values", {}))
        self.history = list(state_dict.get("history", []))
