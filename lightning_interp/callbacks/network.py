"""The network of a training, as a probe uses it: called as validation calls it, quiet, and where it was trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_interp._lightning import LightningModule, Trainer
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
