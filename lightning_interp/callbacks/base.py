"""What every probing callback shares: when to probe, with which weights, on which processes, and where to write."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from lightning_interp._lightning import Callback, LightningModule, Trainer, rank_zero_info, rank_zero_warn
from lightning_interp.callbacks.training import (
    SHARDED,
    acts,
    back_on_device,
    base_names,
    is_first,
    is_trial,
    monitors,
    quiet,
    validated,
    validates,
    validations,
)
from lightning_interp.errors import ProbeError, ResponseError
from lightning_interp.logging.artifacts import Artifact, CustomScalars, Scalars, safe_tag
from lightning_interp.logging.guard import Guard
from lightning_interp.logging.loggers import shows, write
from lightning_interp.logging.tensorboard import outlive
from lightning_interp.probing.engine import SweepEngine, measure_together
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.session import same_random_state
from lightning_interp.schedule import Every

Result = TypeVar("Result")

Output = tuple[type[Artifact], Callable[[], Artifact]]
Charts = dict[str, tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class _Moment:
    """When a probe is made: in which hook of which epoch, None before the first and after the last, at which step."""

    hook: str
    epoch: int | None
    step: int

    @property
    def folder(self) -> str:
        """Where its files go."""
        if self.epoch is None:
            return "end" if self.hook == "on_fit_end" else "start"
        return f"epoch_{self.epoch:04d}"


class ProbeCallback(Callback, Generic[Result]):
    """Probes the network during training and publishes what it found.

    Runs at the end of the first validation of an epoch, else at the end of the training epoch if there is no
    validation. Training is bit-identical with and without it. A subclass says what to probe and what to publish.

    Callbacks with engines that probe the same images at the same moment share one sweep of forward passes: the first
    of them makes it for those after it in the trainer's list, up to any other callback that does something at that
    moment, for it might change the network. Each finds what it would find alone; only the wall time is that of all.

    Args:
        name: First part of every tag and the name of the folder; two callbacks need two names.
        schedule: When to probe.
        on_error: What a failing figure, logger or file does: ``"warn"`` once and go on, or ``"raise"``. A probe
            that fails always raises, on every process alike; layers that say nothing are a warning.
        timeout: Seconds to wait for another process before giving up.

    Attributes:
        engine: What probes, if it can share its sweeps; None for a callback that overrides :meth:`probe`.
        at_end_only: Whether it probes after the training alone, from ``on_fit_end``.
    """

    engine: SweepEngine[Result] | None = None
    at_end_only = False

    def __init__(
        self, name: str, schedule: Every, on_error: Literal["warn", "raise"] = "warn", timeout: float = 600.0
    ) -> None:
        if safe_tag(name) != name or "/" in name:
            raise ValueError(f"name {name!r} must be made of letters, digits and _ . - only")
        if not isinstance(schedule, Every):
            raise TypeError(f"schedule is {schedule!r}; give one, such as Every(n_epochs=2)")
        if timeout <= 0:
            raise ValueError(f"timeout must be positive, got {timeout}")
        self.name, self.schedule, self.timeout = name, schedule, timeout
        self._guard = Guard(name, on_error)
        self._ranks = Ranks()
        self._active = True
        self.reset()

    def reset(self) -> None:
        """Forget every probe: a new training begins."""
        self.last_epoch: int | None = None
        self.result: Result | None = None
        self._values: dict[str, float] = {}
        self._laid_out = False
        self._together: list[ProbeCallback[Any]] = []
        self._waiting: tuple[_Moment, Result] | None = None

    @abstractmethod
    def prepare(self, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Check what can be checked before the first epoch; raises on every process alike."""

    def probe(
        self,
        module: LightningModule,
        forward: Callable[[Tensor], Any],
        ranks: Ranks,
        should_stop: Callable[[], bool],
        meta: Mapping[str, Any],
    ) -> Result | None:
        """Probe once: the same result on every process, or None if it was stopped."""
        assert self.engine is not None
        return self.engine(module, ranks=ranks, forward=forward, should_stop=should_stop, meta=meta)

    def follow_up(self, result: Result, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Do what else needs the network as it was probed; on every process, but no collective."""

    @abstractmethod
    def scalars(self, result: Result) -> dict[str, float]:
        """Every score by tag, always the same tags; called once a probe, on every process."""

    @abstractmethod
    def artifacts(self, result: Result) -> Iterable[Output]:
        """Kind and maker of every figure and table, in order; a maker is called for each logger that shows it."""

    @abstractmethod
    def charts(self, result: Result) -> tuple[str, Charts]:
        """Heading and charts for TensorBoard's custom scalars: by title, kind and tags."""

    @abstractmethod
    def save(self, result: Result, folder: Path) -> None:
        """Write the result's files; rank zero only."""

    @abstractmethod
    def finish(self, result: Result, folder: Path) -> None:
        """Write what sums up the whole fit; rank zero only."""

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
        kind = base_names(trainer.strategy) & SHARDED
        if kind:
            raise ProbeError(f"{self.name}: {kind.pop()} shards the weights; probing it is not supported")
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector
        self._together = [c for c in callbacks if isinstance(c, ProbeCallback)]
        twins = [c for c in self._together if c.name == self.name and c is not self]
        if twins:
            raise ProbeError(f"two callbacks are named '{self.name}'; give one of them another name=")
        # After training, the averaged weights are the network's.
        averaging = [c for c in callbacks if "WeightAveraging" in base_names(c) and not self.at_end_only]
        if averaging and self in callbacks and callbacks.index(self) > callbacks.index(averaging[0]):
            rank_zero_warn(
                f"{self.name}: listed after {type(averaging[0]).__name__}, so it probes the raw weights while "
                f"checkpoints hold the averaged ones; list {type(self).__name__} before it"
            )
        elif averaging and stage == "fit" and not trainer.enable_validation:
            rank_zero_warn(
                f"{self.name}: without validation, {type(averaging[0]).__name__} leaves the raw weights to be probed, "
                "while checkpoints hold the averaged ones"
            )
        times = self.schedule.n_epochs * validations(trainer)
        if times > 1 and any(monitors(c, f"{self.name}/") for c in callbacks):
            rank_zero_warn(
                f"{self.name}: EarlyStopping sees the last score again in validations that are not probed; "
                f"multiply its patience by {times}"
            )

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
        self._ranks = Ranks.connect(timedelta(seconds=self.timeout))
        error: Exception | None = None
        try:
            with same_random_state(), quiet(pl_module):
                self.prepare(pl_module, validated(trainer, pl_module))
        except Exception as caught:
            error = caught
        self._ranks.agree(error)
        self._outlive(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe before training; ``self.log`` would date it to the first epoch's end, so loggers get it directly.

        A training that is taken up again has no scores, for Lightning does not keep them; who monitors one asks for it
        at the end of an epoch that may not be probed.
        """
        if self._active:
            trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in self._values.items()})
        if self._wants(trainer, "on_train_start"):
            self._run(trainer, pl_module, _Moment("on_train_start", None, trainer.global_step))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe where ModelCheckpoint and EarlyStopping will read the scores in the same epoch."""
        if not self._wants(trainer, "on_validation_epoch_end"):
            return
        now = _Moment("on_validation_epoch_end", trainer.current_epoch, trainer.global_step)
        if trainer.state.fn == "validate":
            before = self.state_dict()
            self._run(trainer, pl_module, now)
            # A validation alone is no part of the training's history.
            self.load_state_dict(before)
        else:
            self._run(trainer, pl_module, now)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe here if there is no validation."""
        if self._wants(trainer, "on_train_epoch_end"):
            self._run(trainer, pl_module, _Moment("on_train_epoch_end", trainer.current_epoch, trainer.global_step))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum up, if anything was probed."""
        folder = self._folder(trainer)
        if self.result is not None and trainer.is_global_zero and not is_trial(trainer):
            with same_random_state(), self._guard("report"):
                self.finish(self.result, folder)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the other processes."""
        self._ranks.close()
        self._ranks = Ranks()
        self._waiting = None

    def _wants(self, trainer: Trainer, hook: str) -> bool:
        """Whether this callback probes in a hook that runs now."""
        if not self._active or hook == "on_fit_end":
            return False
        if hook == "on_train_start":
            return self.schedule.at_start and is_first(trainer) and not is_trial(trainer)
        if hook == "on_train_epoch_end":
            return not validates(trainer) and self._due(trainer)
        return not trainer.sanity_checking and (trainer.state.fn == "validate" or self._due(trainer))

    def _due(self, trainer: Trainer) -> bool:
        most = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        return self.schedule.due(trainer.current_epoch, self.last_epoch, most)

    def _find(self, trainer: Trainer, pl_module: LightningModule, now: "_Moment") -> "Result | ResponseError | None":
        """The result of this moment: from a sweep that another callback made, or from one that this one makes."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting[0] == now:
            return waiting[1]
        group = [self, *self._sharing(trainer, now.hook)]
        metas = [{"epoch": now.epoch, "global_step": now.step, "name": each.name} for each in group]
        forward = validated(trainer, pl_module)
        with quiet(pl_module):
            if len(group) == 1:
                found = self._alone(trainer, pl_module, forward, metas[0])
            else:
                found = measure_together(
                    [each.engine for each in group if each.engine is not None],
                    pl_module,
                    self._ranks,
                    metas,
                    forward=forward,
                    should_stop=lambda: trainer.received_sigterm,
                )
            if found is None:
                return None
            for each, result in zip(group, found, strict=True):
                if not isinstance(result, ResponseError):
                    each.follow_up(result, pl_module, forward)
        own: Result | ResponseError = found[0]
        for other, result in zip(group[1:], found[1:], strict=True):
            other._waiting = now, result
        return own

    def _alone(self, trainer: Trainer, pl_module: LightningModule, *how: Any) -> "list[Result | ResponseError] | None":
        forward, meta = how
        try:
            result = self.probe(pl_module, forward, self._ranks, lambda: trainer.received_sigterm, meta)
        except ResponseError as error:
            return [error]
        return None if result is None else [result]

    def _sharing(self, trainer: Trainer, hook: str) -> "list[ProbeCallback[Any]]":
        """The callbacks that probe the same images after this one in the same hook, the network being the same."""
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector
        if self.engine is None or self not in callbacks:
            return []
        found = []
        for other in callbacks[callbacks.index(self) + 1 :]:
            if isinstance(other, ProbeCallback):
                images = other.engine and other.engine.images
                if images and other._wants(trainer, hook) and self.engine.images.same(images):
                    found.append(other)
            elif acts(other, hook):
                break
        return found

    def probe_at_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe after training, from ``on_fit_end``: scores go to the loggers directly, files to the folder ``end``."""
        with back_on_device(trainer, pl_module):
            self._run(trainer, pl_module, _Moment("on_fit_end", None, trainer.global_step))

    def _run(self, trainer: Trainer, pl_module: LightningModule, now: "_Moment") -> None:
        result, epoch = self._find(trainer, pl_module, now), now.epoch
        if result is None:
            return
        if isinstance(result, ResponseError):
            # It may come of training, which is the user's affair; an observer does not end it.
            rank_zero_warn(f"{self.name}: {result}; there is nothing to show of it")
            return
        self.result = result
        values = {safe_tag(f"{self.name}/{key}"): value for key, value in self.scalars(result).items()}
        if epoch is None:
            self._write_all(trainer, [(Scalars, lambda: Scalars(values))])
        else:
            self.last_epoch, self._values = epoch, values
            # Equal on every process already; a maximum keeps them so, and Lightning from asking for a reduction.
            pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max", batch_size=1)
        self._publish(trainer, result, "validate" if trainer.state.fn == "validate" else now.folder)

    def _publish(self, trainer: Trainer, result: Result, folder: str) -> None:
        root = self._folder(trainer)
        if is_trial(trainer) or not trainer.is_global_zero:
            return
        with same_random_state():
            with self._guard("files"):
                self.save(result, root / folder)
            self._write_all(trainer, self._layout())
            self._write_all(trainer, self.artifacts(result))

    def _layout(self) -> Iterator[Output]:
        if not self._laid_out:
            self._laid_out = True
            # TensorBoard shows one layout a run: each callback writes those before it again.
            found = dict(c.charts(c.result) for c in self._together if c.result is not None)
            yield CustomScalars, lambda: CustomScalars(found)

    def _folder(self, trainer: Trainer) -> Path:
        # trainer.log_dir is a collective call: every process must come here.
        return Path(trainer.log_dir or trainer.default_root_dir) / "interp" / self.name

    def _write_all(self, trainer: Trainer, artifacts: Iterable[Output]) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        self._outlive(trainer)
        with self._guard("figures"):
            for kind, make in artifacts:
                for logger in (logger for logger in trainer.loggers if shows(logger, kind)):
                    # A figure is empty after it was written, so each logger gets its own.
                    with self._guard(kind.__name__.lower()):
                        write(logger, make(), trainer.global_step)

    def _outlive(self, trainer: Trainer) -> None:
        if self._guard.warns and trainer.is_global_zero:
            for logger in trainer.loggers:
                outlive(logger)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts only: anything else makes the checkpoint unresumable."""
        return {"last_epoch": self.last_epoch, "values": dict(self._values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was written."""
        self.last_epoch, self._values = state_dict["last_epoch"], dict(state_dict.get("values", {}))
