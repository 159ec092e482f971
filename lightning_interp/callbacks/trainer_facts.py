"""What a callback asks of a trainer and of the other callbacks."""

from lightning_interp._lightning import Trainer

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
