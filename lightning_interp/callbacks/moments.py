"""What is measured at one moment of a training, once for all callbacks that probe the same images then."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_interp._lightning import LightningModule, Trainer
from lightning_interp.callbacks.training import acts, quiet, validated
from lightning_interp.errors import ResponseError
from lightning_interp.probing.engine import Engine, SweepEngine, measure_together


@dataclass(frozen=True)
class Moment:
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


def find_result(callback: Any, trainer: Trainer, module: LightningModule, now: Moment) -> Any:
    """What a callback finds at this moment: from a sweep that another one made, or from one that is made for it.

    Args:
        callback: A :class:`~lightning_interp.callbacks.base.ProbeCallback`.
        trainer: Its trainer.
        module: The network.
        now: The moment.

    Returns:
        The result; an error where the layers' responses say nothing; None if the probe was stopped.
    """
    waiting, callback.waiting = callback.waiting, None
    if waiting is not None and waiting[0] == now:
        return waiting[1]
    group = [callback, *_sharing(callback, trainer, now.hook)]
    metas = [{"epoch": now.epoch, "global_step": now.step, "name": each.name} for each in group]
    forward = validated(trainer, module)
    with quiet(module):
        found = _measure([each.engine for each in group], callback, trainer, module, forward, metas)
        if found is None:
            return None
        for each, result in zip(group, found, strict=True):
            if not isinstance(result, ResponseError):
                each.follow_up(result, module, forward)
    for other, result in zip(group[1:], found[1:], strict=True):
        other.waiting = now, result
    return found[0]


def _measure(
    engines: list[Engine[Any]],
    callback: Any,
    trainer: Trainer,
    module: LightningModule,
    forward: Callable[[Tensor], Any],
    metas: Sequence[Mapping[str, Any]],
) -> list[Any] | None:
    def stop() -> bool:
        return bool(trainer.received_sigterm)

    sweeps = [engine for engine in engines if isinstance(engine, SweepEngine)]
    if len(engines) > 1:
        return measure_together(sweeps, module, callback.ranks, metas, forward=forward, should_stop=stop)
    try:
        result = engines[0](module, ranks=callback.ranks, forward=forward, should_stop=stop, meta=metas[0])
    except ResponseError as error:
        return [error]
    return None if result is None else [result]


def _sharing(callback: Any, trainer: Trainer, hook: str) -> list[Any]:
    """The callbacks that probe the same images after this one in the same hook, the network being the same."""
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector
    own = callback.engine
    if not isinstance(own, SweepEngine) or callback not in callbacks:
        return []
    found = []
    for other in callbacks[callbacks.index(callback) + 1 :]:
        if other in callback.together:
            engine = other.engine
            if isinstance(engine, SweepEngine) and own.images.same(engine.images) and other.wants(trainer, hook):
                found.append(other)
        elif acts(other, hook):
            break
    return found
