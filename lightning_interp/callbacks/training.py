"""A training as a callback sees it: its network as validation calls it, and what is to be known of its trainer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_interp._lightning import Callback, LightningModule, Trainer, rank_zero_warn
from lightning_interp.probing.runner import module_device

_LOGGING = ("log", "log_dict")


def validated(trainer: Trainer, pl_module: LightningModule) -> Callable[[Tensor], Any]:
    """The network as validation runs it: the unwrapped module under the trainer's precision."""
    plugin = trainer.precision_plugin

    def forward(images: Tensor) -> Any:
        with plugin.forward_context():
            return pl_module(plugin.convert_input(images))

    return forward


@contextmanager
def quiet(pl_module: LightningModule) -> Iterator[None]:
    """Keep a ``forward`` that logs from logging the probe's images as if they were the user's."""
    modules = [m for m in pl_module.modules() if any(base.__name__ == "LightningModule" for base in type(m).__mro__)]
    kept = [(m, {name: m.__dict__[name] for name in _LOGGING if name in m.__dict__}) for m in modules]
    try:
        for module in modules:
            module.__dict__.update(dict.fromkeys(_LOGGING, lambda *args, **kwargs: None))
        yield
    finally:
        for module, own in kept:
            for name in _LOGGING:
                module.__dict__.pop(name, None)
            module.__dict__.update(own)


@contextmanager
def back_on_device(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Have the network where it was trained: Lightning moves it to the CPU before ``on_fit_end``."""
    before = module_device(pl_module)
    pl_module.to(trainer.strategy.root_device)
    try:
        yield
    finally:
        pl_module.to(before)


SHARDED = {"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"}


def is_trial(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``."""
    return bool(getattr(trainer, "fast_dev_run", False))


def is_first(trainer: Trainer) -> bool:
    """Whether nothing has been trained yet."""
    return trainer.global_step == 0 and trainer.current_epoch == 0


def validates(trainer: Trainer) -> bool:
    """Whether a validation will end; a loader may turn out to be empty."""
    empty = trainer.val_dataloaders is not None and sum(trainer.num_val_batches) == 0
    return trainer.enable_validation and not empty


def base_names(thing: object) -> set[str]:
    """Class names along the base classes: the same class may come from either of Lightning's two packages."""
    return {base.__name__ for base in type(thing).__mro__}


def acts(callback: object, hook: str) -> bool:
    """Whether a callback does something in a hook; by name, for either of Lightning's packages may have its class."""
    method = getattr(callback, hook)
    inherited = getattr(method, "__qualname__", "") == f"Callback.{hook}"
    return not (inherited and method.__module__.endswith("callbacks.callback"))


def monitors(callback: object, prefix: str) -> bool:
    """Whether an ``EarlyStopping`` watches a score with this prefix."""
    monitored = str(getattr(callback, "monitor", "") or "")
    return "EarlyStopping" in base_names(callback) and monitored.startswith(prefix)


def validations(trainer: Trainer) -> int:
    """How many validations there are in an epoch, as far as that is known before it."""
    interval = trainer.val_check_interval
    return round(1 / interval) if isinstance(interval, float) and 0 < interval < 1 else 1


def warn_of_averaging(trainer: Trainer, callback: Callback, name: str, stage: str) -> None:
    """Say so where the weights that ``callback`` probes are not those that checkpoints hold."""
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector
    averaging = [c for c in callbacks if "WeightAveraging" in base_names(c)]
    if averaging and callback in callbacks and callbacks.index(callback) > callbacks.index(averaging[0]):
        rank_zero_warn(
            f"{name}: listed after {type(averaging[0]).__name__}, so it probes the raw weights while "
            f"checkpoints hold the averaged ones; list {type(callback).__name__} before it"
        )
    elif averaging and stage == "fit" and not trainer.enable_validation:
        rank_zero_warn(
            f"{name}: without validation, {type(averaging[0]).__name__} leaves the raw weights to be probed, "
            "while checkpoints hold the averaged ones"
        )


def warn_of_patience(trainer: Trainer, name: str, times: int) -> None:
    """Say so where an ``EarlyStopping`` sees each score of ``name`` so many times."""
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector
    if times > 1 and any(monitors(c, f"{name}/") for c in callbacks):
        rank_zero_warn(
            f"{name}: EarlyStopping sees the last score again in validations that are not probed; "
            f"multiply its patience by {times}"
        )
