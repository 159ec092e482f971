"""Networks filled from checkpoints, which cannot run anything."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_interp.errors import InterpError


def load_checkpoint(model: nn.Module, path: Path) -> dict[str, Any]:
    """Fill a network from a checkpoint of Lightning or a state dict, and tell when it was written.

    Returns:
        ``checkpoint``, and ``epoch`` and ``global_step`` where the file says them.

    Raises:
        InterpError: If the file cannot be read safely or does not fit the network.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        weights = saved.get("state_dict", saved)
        model.load_state_dict(weights)
    except Exception as error:
        # The reader of a file that is no checkpoint may fail in any way.
        text = " ".join(str(error).split())
        raise InterpError(f"cannot load {path}: {type(error).__name__}: {text[:300]}") from error
    when = {key: saved[key] for key in ("epoch", "global_step") if weights is not saved and key in saved}
    return {"checkpoint": path.name, **when}
