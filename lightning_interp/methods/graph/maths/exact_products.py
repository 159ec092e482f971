"""Matrix products at full precision inside of a training that is set to less."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices as float32, whatever precision the training is set to; all is set back after the block.

    Under ``torch.set_float32_matmul_precision("high")`` or ``"medium"``, and under autocast, factors keep 10 or 7 bits,
    so that results would depend on settings and device.

    Args:
        device: Where the matrices are.
    """
    settings = _settings()
    try:
        for _, lift, exact in settings:
            lift(exact)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for before, restore, _ in settings:
            restore(before)


def _settings() -> list[tuple[str, Any, str]]:
    """Precision as it is, what sets it, and the full one; of each backend, or of all of them at once."""
    try:
        return [(torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision, "highest")]
    except RuntimeError:
        # From torch 2.9 on backends may be set one by one, and then cannot be read together.
        backends: tuple[Any, ...] = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul")  # noqa: B009
        return [(each.fp32_precision, partial(setattr, each, "fp32_precision"), "ieee") for each in backends]
