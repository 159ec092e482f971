"""What the callbacks on filters and parts share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_interp._lightning import LightningModule, Trainer
from lightning_interp.callbacks.base import ProbeCallback
from lightning_interp.callbacks.trainer_facts import is_trial
from lightning_interp.data.part_landmarks import part_landmarks
from lightning_interp.logging.artifacts import Image
from lightning_interp.logging.part_files import save_parts
from lightning_interp.part_results import PartResult
from lightning_interp.parts import PartMeter
from lightning_interp.viz.overlay import to_picture
from lightning_interp.viz.part_gallery import filter_gallery
from lightning_interp.viz.part_table import filter_summaries, steadiest


class PartProbe(ProbeCallback[PartResult]):
    """Measures filters against landmarks and parts during training; a subclass says what to show.

    Attributes:
        meter: The engine.
    """

    meter: PartMeter

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """As every probe; ``fast_dev_run`` probes one batch."""
        super().setup(trainer, pl_module, stage)
        self.meter.limit = self.meter.batch_size if is_trial(trainer) else None

    def prepare(self, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Resolve the layers, run one image through them and find their receptive fields."""
        self.meter.describe(module, forward)

    def scalars(self, result: PartResult) -> dict[str, float]:
        """The result's scalars."""
        return result.scalars()

    def save(self, result: PartResult, folder: Path) -> None:
        """Write figures, tables and arrays."""
        save_parts(result, folder)

    def draw_steadiest(self, tag: str, result: PartResult, layer: str, rows: int) -> Image:
        """The gallery of a layer's steadiest filters."""
        found, probe = result[layer], self.meter.probe
        chosen = steadiest(filter_summaries(result, found), rows)
        grid = self.meter.image_grids[layer]
        page = filter_gallery(
            found,
            chosen,
            lambda index: to_picture(probe.image(index)),
            lambda index: {n: at for n, at in part_landmarks(probe, index).items() if n in result.landmarks},
            (grid.rows.size, grid.columns.size),
        )
        return Image(tag, page)
