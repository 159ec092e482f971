"""The only module that imports Lightning: ``lightning.pytorch`` if that is in use, else ``pytorch_lightning``.

The two packages hold different class objects for the same classes, so whichever the user imported first counts.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
    from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
else:
    name = next((n for n in ("lightning.pytorch", "pytorch_lightning") if n in sys.modules), "pytorch_lightning")
    package = importlib.import_module(name)
    Callback, LightningModule, Trainer = package.Callback, package.LightningModule, package.Trainer
    LightningDataModule, seed_everything = package.LightningDataModule, package.seed_everything
    utilities = importlib.import_module(f"{name}.utilities")
    rank_zero_info, rank_zero_warn = utilities.rank_zero_info, utilities.rank_zero_warn


def cli_package() -> ModuleType:
    """The module of LightningCLI, of the same package as the classes here; it needs jsonargparse."""
    return importlib.import_module(f"{Trainer.__module__.partition('.trainer')[0]}.cli")


__all__ = [
    "Callback",
    "LightningDataModule",
    "LightningModule",
    "Trainer",
    "cli_package",
    "rank_zero_info",
    "rank_zero_warn",
    "seed_everything",
]
