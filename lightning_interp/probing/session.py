"""A ``with`` block in which a network can be probed without leaving a trace on it or on the random state."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def probing(module: nn.Module) -> Iterator[None]:
    """Evaluate ``module`` harmlessly: what holds before the block holds again after it, also after an error.

    Inside: every submodule in eval mode, no gradients, inference mode off (states made inside must be usable
    outside), compiled parts run eagerly (so that hooks fire). Afterwards restored: the training flag of every
    submodule by itself, every buffer, and the random state of Python, NumPy, torch and CUDA.

    Args:
        module: The network, unwrapped.
    """
    flags = [(part, part.training) for part in module.modules()]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        restore_buffers = _keep_buffers(module)
        stack.enter_context(same_random_state())
        try:
            for part, _ in flags:
                part.training = False
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
        finally:
            for part, flag in flags:
                part.training = flag
            restore_buffers()


def _keep_buffers(module: nn.Module) -> Callable[[], None]:
    """Remember every buffer by name and by value: some networks count or adapt in eval mode too."""
    kept = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]

    def restore() -> None:
        for part, name, buffer, value in kept:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
            if getattr(part, name) is not buffer:
                setattr(part, name, buffer)

    return restore


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave the random state of Python, NumPy, torch and CUDA as it was; a probe set may draw or seed as it likes."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
