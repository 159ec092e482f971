"""Network Dissection of every epoch."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_interp._extras import available
from lightning_interp._lightning import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from lightning_interp.callbacks.base import Charts, Output, ProbeCallback
from lightning_interp.callbacks.training import is_trial
from lightning_interp.data.probe import ProbeSet
from lightning_interp.drawing.pictures import Picture, to_picture
from lightning_interp.logging.artifacts import (
    Artifact,
    Figure,
    Histogram,
    Image,
    Table,
)
from lightning_interp.methods.dissection.engine import Dissector
from lightning_interp.methods.dissection.figures.bars import detector_bars
from lightning_interp.methods.dissection.figures.gallery import unit_gallery
from lightning_interp.methods.dissection.figures.histogram import iou_histogram
from lightning_interp.methods.dissection.figures.timeline import concept_timeline
from lightning_interp.methods.dissection.figures.units import COLUMNS, gallery_units, unit_table
from lightning_interp.methods.dissection.files import save_result
from lightning_interp.methods.dissection.maths.history import concept_changes
from lightning_interp.methods.dissection.options import make_options
from lightning_interp.methods.dissection.page import write_report
from lightning_interp.methods.dissection.result import DissectionResult, LayerDissection
from lightning_interp.schedule import Every


class NetworkDissection(ProbeCallback[DissectionResult]):
    """Which units of the network detect which concepts, epoch by epoch (Bau et al., CVPR 2017).

    Scalars, in ``callback_metrics`` too, so that ``ModelCheckpoint`` and ``EarlyStopping`` can monitor them:

    - ``dissect/<layer>/detectors``: units whose best concept has an IoU above the threshold;
      ``.../unique_detectors``: distinct concepts among those; ``.../unique_by_category``: sum over the
      categories, the papers' bar; ``.../interpretable_share``: detectors over units;
    - ``.../mean_iou``, ``.../max_iou``: of the units' best concepts; ``.../information_quality``: mean
      information-quality ratio of the units with their best concepts (Bau et al. 2020);
    - ``.../detectors_by_chance``, ``.../unique_by_chance``, ``.../max_iou_by_chance``: the same with each image's
      maps set against another image's labels; ``.../beats_chance``: units whose best IoU is above any by chance;
    - ``.../<category>/detectors``, ``.../<category>/unique_detectors``;
    - ``.../born``, ``.../died``, ``.../changed``: units that became, ceased to be, or went over to detecting
      something else since the last probe; ``.../invalid_units``: constant, or with a NaN or infinity;
    - ``dissect/seconds``: wall time of the probe, without figures and files; one for all callbacks that
      share its sweep.

    To loggers that show them: ``dissect/<layer>/units`` and ``.../best_units`` (galleries: the same units in the
    same rows every epoch; the best units of this epoch), ``.../concepts`` (bar chart), ``.../timeline`` (units by
    epochs), ``.../table``, ``.../iou`` and ``.../iou_by_chance`` (histograms), and a custom-scalars layout.

    Files, under ``<log_dir>/interp/dissect/epoch_XXXX/`` (``start/`` before training, ``validate/`` of a
    validation alone): ``dissection.json``, and by layer ``units_<layer>.csv`` and ``<layer>.safetensors``
    (:func:`~lightning_interp.methods.dissection.files.load_result` reads them). At the end of training ``report.html``,
    an offline page of every unit, beside those folders.

    Args:
        probe: The labelled images.
        layers: Module paths, globs (``"layer*"``, ``"layer4.*.conv2"``) or ``"auto"``.
        preset: ``"cvpr2017"`` or ``"pnas2020"``; the next six replace its values
            (:class:`~lightning_interp.methods.dissection.options.DissectionOptions`).
        quantile: Share of a unit's values above its threshold.
        quantile_on: ``"low"`` or ``"upsampled"`` values.
        upsample: ``"cell"``, ``"receptive_field"`` or ``"zero_pad"``.
        images: ``"category"`` or ``"all"``.
        iou_threshold: A unit detects a concept if its IoU is above this.
        mask_size: ``(h, w)`` to count at; None for the probe set's.
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes of the probe.
        max_samples: Probe at most so many images, evenly spaced.
        schedule: When to probe.
        top_k: Images shown a unit.
        gallery_rows: Units shown.
        byte_budget: Bytes for surviving activations; past it a second forward pass is made, with the same result.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read and report how many.
        loader_timeout: Seconds to wait for a loader process of the probe.
        report: Whether to write ``report.html`` when training ends.
        on_error: What a failing figure, logger or file does: ``"warn"`` or ``"raise"``.
        name: First part of every tag; two callbacks need two names.
        timeout: Seconds to wait for another process.

    Raises:
        DatasetError: If the probe set is empty or malformed.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import Every, NetworkDissection, RenderedFaces
        >>> callback = NetworkDissection(RenderedFaces(32), layers=["features"], schedule=Every(n_epochs=2))
        >>> callback.state_key
        "NetworkDissection{'name': 'dissect'}"
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str] = ("auto",),
        *,
        preset: Literal["cvpr2017", "pnas2020"] = "cvpr2017",
        quantile: float | None = None,
        quantile_on: Literal["low", "upsampled"] | None = None,
        upsample: Literal["cell", "receptive_field", "zero_pad"] | None = None,
        images: Literal["category", "all"] | None = None,
        iou_threshold: float | None = None,
        mask_size: tuple[int, int] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        max_samples: int | None = None,
        schedule: Every = Every(n_epochs=1, at_start=True),  # noqa: B008 - frozen
        top_k: int = 9,
        gallery_rows: int = 10,
        byte_budget: int = 2**30,
        on_bad_image: Literal["raise", "skip"] = "raise",
        loader_timeout: float = 300.0,
        report: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        name: str = "dissect",
        timeout: float = 600.0,
    ) -> None:
        super().__init__(name, schedule, on_error, timeout)
        options = make_options(
            preset,
            quantile=quantile,
            quantile_on=quantile_on,
            upsample=upsample,
            images=images,
            iou_threshold=iou_threshold,
            mask_size=mask_size,
        )
        self.gallery_rows, self.report = gallery_rows, report
        self.engine = self.dissector = Dissector(
            probe,
            layers,
            options,
            batch_size=batch_size,
            num_workers=num_workers,
            max_samples=max_samples,
            top_k=top_k,
            byte_budget=byte_budget,
            on_bad_image=on_bad_image,
            loader_timeout=loader_timeout,
        )

    def reset(self) -> None:
        """Forget every probe, and which units are in which row."""
        super().reset()
        self.history: list[dict[str, Any]] = []
        self._gallery: dict[str, list[int]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """As every probe; ``fast_dev_run`` probes one batch."""
        super().setup(trainer, pl_module, stage)
        self.dissector.limit = self.dissector.batch_size if is_trial(trainer) else None
        if not available("matplotlib"):
            rank_zero_info(f"{self.name}: without matplotlib there are no charts: pip install 'lightning-interp[viz]'")

    def prepare(self, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Resolve the layers and run one image through them."""
        self.dissector.describe(module, forward)

    def scalars(self, result: DissectionResult) -> dict[str, float]:
        """The result's scalars, and what changed since the last probe."""
        entry = _history_entry(result)
        values = result.scalars()
        for layer, detects in entry["detects"].items():
            before = self.history[-1]["detects"].get(layer, detects) if self.history else detects
            changes = concept_changes(*([c if c >= 0 else None for c in d.tolist()] for d in (before, detects)))
            values |= {f"{layer}/{kind}": float(count) for kind, count in changes._asdict().items()}
        self.history.append(entry | {"scalars": values})
        return values

    def save(self, result: DissectionResult, folder: Path) -> None:
        """Write counts, thresholds and tables."""
        save_result(result, folder)

    def charts(self, result: DissectionResult) -> tuple[str, Charts]:
        """What was found beside what chance gives, detectors by category, changes."""
        charts: Charts = {}
        for layer, found in result.layers.items():
            tag = f"{self.name}/{layer}"
            for title, keys in (
                ("unique detectors", ["unique_detectors", "unique_by_chance"]),
                ("detectors by category", [f"{category}/detectors" for category in found.categories]),
                ("born, died, changed", ["born", "died", "changed"]),
            ):
                charts[f"{layer}: {title}"] = ("Multiline", [f"{tag}/{key}" for key in keys])
        return f"Network Dissection: {self.name}", charts

    def artifacts(self, result: DissectionResult) -> Iterable[Output]:
        """Galleries, charts, tables and histograms of every layer."""
        for name, layer in result.layers.items():
            yield from self._layer_artifacts(f"{self.name}/{name}", result, layer)

    def _layer_artifacts(self, tag: str, result: DissectionResult, layer: LayerDissection) -> Iterable[Output]:
        found, chance = iou_histogram(layer)
        yield Histogram, partial(Histogram, f"{tag}/iou", found)
        yield Histogram, partial(Histogram, f"{tag}/iou_by_chance", chance)
        yield Table, lambda: Table(f"{tag}/table", COLUMNS, unit_table(layer))
        best = list(gallery_units(layer, self.gallery_rows))
        fixed = self._gallery.setdefault(layer.layer, best)
        for kind, units in (("units", fixed), ("best_units", best)):
            yield Image, partial(self._draw_gallery, f"{tag}/{kind}", result, layer, units)
        if available("matplotlib"):
            yield Figure, lambda: Figure(f"{tag}/concepts", detector_bars(layer))
            yield Figure, lambda: Figure(f"{tag}/timeline", concept_timeline(self._told(layer), layer.layer))

    def _told(self, layer: LayerDissection) -> list[dict[str, Any]]:
        """The history of a layer in words."""

        def words(detects: Tensor, field: str) -> list[str | None]:
            return [None if c < 0 else str(getattr(layer.concepts[c], field)) for c in detects.tolist()]

        name = layer.layer
        probes = [(entry["epoch"], entry["detects"][name]) for entry in self.history if name in entry["detects"]]
        return [
            {
                "epoch": epoch,
                "labels": {name: words(detects, "name")},
                "categories": {name: words(detects, "category")},
            }
            for epoch, detects in probes
        ]

    def finish(self, result: DissectionResult, folder: Path) -> None:
        """Write the report."""
        if self.report:
            names = ("start" if entry["epoch"] < 0 else f"epoch {entry['epoch']}" for entry in self.history)
            history = [(name, entry["scalars"]) for name, entry in zip(names, self.history, strict=True)]
            write_report(result, self.dissector.probe, folder, history)

    def _draw_gallery(
        self, tag: str, result: DissectionResult, layer: LayerDissection, units: Sequence[int]
    ) -> Artifact:
        size = result.settings["mask_size"]
        return Image(tag, unit_gallery(layer, self._picture, units, (size[0], size[1])))

    def _picture(self, index: int) -> Picture:
        return to_picture(self.dissector.probe.image(index))

    def state_dict(self) -> dict[str, Any]:
        """Schedule, history and the units of the gallery."""
        told = {"history": list(self.history), "gallery": dict(self._gallery)}
        return super().state_dict() | told | {"probe": self.dissector.probe.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history and the same units in the same rows."""
        if state_dict["probe"] != self.dissector.probe.fingerprint():
            rank_zero_warn(f"{self.name}: the checkpoint's history is of another probe set; it starts anew")
            return
        super().load_state_dict(state_dict)
        self.history, self._gallery = state_dict["history"], state_dict["gallery"]


def _history_entry(result: DissectionResult) -> dict[str, Any]:
    """What each unit detects, as a checkpoint can hold it: by layer, ``(U,)`` int32 columns, -1 for nothing."""
    epoch = result.meta["epoch"]
    detects = {
        name: torch.from_numpy(np.where(layer.is_detector, layer.best, -1)).int()
        for name, layer in result.layers.items()
    }
    return {"epoch": -1 if epoch is None else epoch, "step": result.meta["global_step"], "detects": detects}
