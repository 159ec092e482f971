"""Network Dissection of every epoch."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_interp._extras import available
from lightning_interp._lightning import LightningModule, Trainer, rank_zero_info
from lightning_interp._options import passes_on, take
from lightning_interp.callbacks.base import ProbeCallback
from lightning_interp.callbacks.publish import Charts, Shown
from lightning_interp.data.probe import ProbeSet
from lightning_interp.drawing.pictures import Picture, to_picture
from lightning_interp.logging.artifacts import Figure, Histogram, Image, Table
from lightning_interp.methods.dissection.engine import Dissector
from lightning_interp.methods.dissection.figures.bars import detector_bars
from lightning_interp.methods.dissection.figures.gallery import unit_gallery
from lightning_interp.methods.dissection.figures.histogram import iou_histogram
from lightning_interp.methods.dissection.figures.timeline import concept_timeline
from lightning_interp.methods.dissection.figures.units import COLUMNS, gallery_units, unit_table
from lightning_interp.methods.dissection.maths.history import concept_changes
from lightning_interp.methods.dissection.page import write_report
from lightning_interp.methods.dissection.result import DissectionResult, LayerDissection


class NetworkDissection(ProbeCallback[DissectionResult]):
    """Which units of the network detect which concepts, epoch by epoch (Bau et al., CVPR 2017).

    Scalars, all in ``callback_metrics``, so that ``ModelCheckpoint`` and ``EarlyStopping`` can monitor them. Loggers
    get the headline (detectors and unique detectors with what chance gives, ``beats_chance``, mean and largest IoU,
    ``changed``, ``invalid_units``), or with ``scalars="all"`` every one:

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
        gallery_rows: Units shown.
        report: Whether to write ``report.html`` when training ends.
        name: First part of every tag; two callbacks need two names.
        **options: Definitions of the dissection and how the probe set is read, as in
            :class:`~lightning_interp.methods.dissection.engine.Dissector`; schedule, scalars, on_error and timeout as
            in :class:`~lightning_interp.callbacks.base.ProbeCallback`.

    Raises:
        DatasetError: If the probe set is empty or malformed.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import Every, NetworkDissection, RenderedFaces
        >>> callback = NetworkDissection(RenderedFaces(32), layers=["features"], schedule=Every(n_epochs=2))
        >>> callback.state_key
        "NetworkDissection{'name': 'dissect'}"
    """

    TITLE = "Network Dissection"
    CHARTS = {  # noqa: RUF012 - never changed
        "unique detectors": ("unique_detectors", "unique_by_chance"),
        "largest IoU": ("max_iou", "max_iou_by_chance"),
        "born, died, changed": ("born", "died", "changed"),
    }
    engine: Dissector

    @passes_on(Dissector, ProbeCallback)
    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str] = ("auto",),
        *,
        gallery_rows: int = 10,
        report: bool = True,
        name: str = "dissect",
        **options: Any,
    ) -> None:
        own = take(options, ProbeCallback)
        super().__init__(Dissector(probe, layers, **options), name=name, **own)
        self.gallery_rows, self.report = gallery_rows, report

    @property
    def dissector(self) -> Dissector:
        """The engine."""
        return self.engine

    def reset(self) -> None:
        """Forget every probe, and which units are in which row."""
        super().reset()
        self._gallery: dict[str, list[int]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """As every probe; say what is missing without matplotlib."""
        super().setup(trainer, pl_module, stage)
        if not available("matplotlib"):
            rank_zero_info(f"{self.name}: without matplotlib there are no charts: pip install 'lightning-interp[viz]'")

    def scalars(self, result: DissectionResult) -> dict[str, float]:
        """The result's scalars, and what changed since the last probe."""
        values = result.scalars()
        for layer, detects in self.remembered(result)["detects"].items():
            before = self.history[-1]["detects"].get(layer, detects) if self.history else detects
            changes = concept_changes(*([c if c >= 0 else None for c in d.tolist()] for d in (before, detects)))
            values |= {f"{layer}/{kind}": float(count) for kind, count in changes._asdict().items()}
        return values

    def headline(self, result: DissectionResult, values: Mapping[str, float]) -> dict[str, float]:
        """The result's headline, and how many units have changed."""
        return result.headline() | {f"{layer}/changed": values[f"{layer}/changed"] for layer in result.layers}

    def remembered(self, result: DissectionResult) -> dict[str, Any]:
        """What each unit detects: by layer, ``(U,)`` int32 columns, -1 for nothing."""
        layers = result.layers.items()
        found = {name: np.where(layer.is_detector, layer.best, -1) for name, layer in layers}
        return {"detects": {name: torch.from_numpy(columns).int() for name, columns in found.items()}}

    def charts(self, result: DissectionResult) -> Charts:
        """As every probe, and detectors by category."""
        charts = super().charts(result)
        for name, layer in result.layers.items():
            tags = [f"{name}/{category}/detectors" for category in layer.categories]
            charts[f"{name}: detectors by category"] = ("Multiline", tags)
        return charts

    def shown(self, result: DissectionResult) -> Iterable[Shown]:
        """Galleries, charts, tables and histograms of every layer."""
        for name, layer in result.layers.items():
            yield from self._of_layer(name, result, layer)

    def _of_layer(self, name: str, result: DissectionResult, layer: LayerDissection) -> Iterable[Shown]:
        found, chance = iou_histogram(layer)
        yield Histogram, f"{name}/iou", lambda: found
        yield Histogram, f"{name}/iou_by_chance", lambda: chance
        yield Table, f"{name}/table", lambda: (COLUMNS, unit_table(layer))
        best = list(gallery_units(layer, self.gallery_rows))
        fixed = self._gallery.setdefault(layer.layer, best)
        height, width = result.settings["mask_size"]
        for kind, units in (("units", fixed), ("best_units", best)):
            yield Image, f"{name}/{kind}", partial(unit_gallery, layer, self._picture, units, (height, width))
        if available("matplotlib"):
            yield Figure, f"{name}/concepts", lambda: detector_bars(layer)
            yield Figure, f"{name}/timeline", lambda: concept_timeline(self._in_words(layer), layer.layer)

    def _in_words(self, layer: LayerDissection) -> list[dict[str, Any]]:
        """The history of a layer, concepts by name."""

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

    def pages(self, result: DissectionResult, folder: Path) -> None:
        """Write the report."""
        if self.report:
            names = ("start" if entry["epoch"] < 0 else f"epoch {entry['epoch']}" for entry in self.history)
            history = [(name, entry["scalars"]) for name, entry in zip(names, self.history, strict=True)]
            write_report(result, self.engine.probe, folder, history)

    def _picture(self, index: int) -> Picture:
        return to_picture(self.engine.probe.image(index))

    def state_dict(self) -> dict[str, Any]:
        """As every probe, and the units of the gallery."""
        return super().state_dict() | {"gallery": dict(self._gallery)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history and the same units in the same rows."""
        super().load_state_dict(state_dict)
        # Without a history, the state was of another probe set.
        self._gallery = dict(state_dict["gallery"]) if self.history else {}
