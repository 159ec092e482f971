"""What filters have to do with parts, epoch by epoch, beside what filters that see nothing would score."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lightning_interp._lightning import LightningModule, Trainer, rank_zero_info
from lightning_interp.callbacks.base import Charts, Output, ProbeCallback
from lightning_interp.callbacks.training import is_trial
from lightning_interp.data.landmarks import part_landmarks
from lightning_interp.data.probe import ProbeSet
from lightning_interp.drawing.pictures import to_picture
from lightning_interp.functional.location import CategoryRule, Variant
from lightning_interp.logging.artifacts import Image, Table
from lightning_interp.methods.parts.engine import PartMeter, has_parts
from lightning_interp.methods.parts.figures.gallery import filter_gallery
from lightning_interp.methods.parts.figures.table import (
    LOCATION_COLUMNS,
    PART_COLUMNS,
    filter_summaries,
    location_table,
    part_table,
    steadiest,
)
from lightning_interp.methods.parts.files import save_parts
from lightning_interp.methods.parts.result import PartResult
from lightning_interp.probing.receptive import Placement
from lightning_interp.schedule import Every


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


class LocationInstability(PartProbe):
    """How steadily filters peak beside the landmarks of parts (Zhang, Wu and Zhu, CVPR 2018, section 5.2.2).

    Lower is steadier. A filter that always peaks at one place is steady too, and on centred crops it outdoes the
    published networks; so each score stands beside those of filters that see nothing, and beside the correlation of
    peaks with the landmark, which is 0 for a constant and at the level of chance beside it for random peaks.
    References and correlation are this project's own.

    Scalars, ``location/<layer>/...``, in ``callback_metrics`` too, so that ``ModelCheckpoint`` and ``EarlyStopping``
    can monitor them; means over the filters that have a score, NaN where none has:

    - ``instability``, in image diagonals; on the same images ``random`` (peaks anywhere), ``centre`` and
      ``best_constant`` (peaks at one place always), ``oracle`` (peaks at the cell next to the landmark);
    - ``beats_centre``, ``beats_best_constant``: share of the filters that are steadier than these;
    - ``correlation`` and ``r2``: whether peaks move as the landmark does, the one of the filter's category that it
      moves with most; ``correlation_chance``: the largest correlation with landmarks of other images;
    - ``dead``: filters never above 0; ``nonfinite``: those that gave a NaN or an infinity, of which a warning tells;
      ``undefined``: those with too few images. None of these has a score;
    - where the probe set has masks of parts, ``purity``: share of a filter's top peaks on one part;
      ``purity_by_chance`` (share of cells that it covers), ``purity_best_constant``, ``purity_beats_constant``;
    - with several categories, ``selectivity``: share of the mean activation that falls on a filter's category;
    - ``location/seconds``: wall time of the probe, shared with callbacks that probe the same images.

    ``EarlyStopping`` stops at a NaN unless ``check_finite=False``.

    To loggers that show them: ``location/<layer>/steadiest`` (their top images with peaks and landmarks), ``.../table``
    (the steadiest filters), and charts of the score with its references among the custom scalars. Files, under
    ``<log_dir>/interp/location/epoch_XXXX/``: ``parts.json``, and by layer ``filters_<layer>.csv`` and
    ``<layer>.safetensors`` (:func:`~lightning_interp.methods.parts.files.load_parts` reads them).

    Args:
        probe: Images with landmarks of parts in their facts.
        layers: Module paths, globs or ``"auto"``.
        variant: ``"cvpr2018"``, the 100 top images among those with the landmark, or ``"aaai2018"``, those with it
            among the 20 top images, and the 167 strongest filters.
        rule: With several categories, ``"least"`` takes the one of a filter's least instability, as published,
            ``"peak"`` that of its largest mean peak, as the published code does.
        top_k: Images a filter; None for the variant's number.
        landmarks: Names of the landmarks that count; None for all.
        parts: Names of the parts that count for purity; None for all.
        category: Attribute that is an image's category; None for ``"category"`` where the probe set has that, else
            all images are of one.
        upsample: Peaks lie at the centres of receptive fields (``"receptive_field"``), as published, or of equal
            cells of the image (``"cell"``), for networks of which each value sees the whole image.
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes of the probe.
        max_samples: Probe at most so many images, evenly spaced.
        schedule: When to probe.
        gallery_rows: Filters shown.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read.
        loader_timeout: Seconds to wait for a loader process of the probe.
        on_error: What a failing figure, logger or file does: ``"warn"`` or ``"raise"``.
        name: First part of every tag; two callbacks need two names.
        timeout: Seconds to wait for another process.

    Raises:
        DatasetError: If the probe set is empty or has no landmarks, saying which have some, or a name is unknown.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import RenderedFaces
        >>> callback = LocationInstability(RenderedFaces(8, size=32), layers=["features"])
        >>> callback.state_key
        "LocationInstability{'name': 'location'}"
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str] = ("auto",),
        *,
        variant: Variant = "cvpr2018",
        rule: CategoryRule = "least",
        top_k: int | None = None,
        landmarks: Sequence[str] | None = None,
        parts: Sequence[str] | None = None,
        category: str | None = None,
        upsample: Placement = "receptive_field",
        batch_size: int = 64,
        num_workers: int = 0,
        max_samples: int | None = None,
        schedule: Every = Every(n_epochs=1, at_start=True),  # noqa: B008 - frozen
        gallery_rows: int = 10,
        on_bad_image: Literal["raise", "skip"] = "raise",
        loader_timeout: float = 300.0,
        on_error: Literal["warn", "raise"] = "warn",
        name: str = "location",
        timeout: float = 600.0,
    ) -> None:
        super().__init__(name, schedule, on_error, timeout)
        self.gallery_rows = gallery_rows
        masked = parts is not None or (isinstance(probe, ProbeSet) and has_parts(probe))
        self.engine = self.meter = PartMeter(
            probe,
            layers,
            measures=["location", "purity"] if masked else ["location"],
            variant=variant,
            rule=rule,
            top_k=top_k,
            landmarks=landmarks,
            parts=parts,
            category=category,
            upsample=upsample,
            batch_size=batch_size,
            num_workers=num_workers,
            max_samples=max_samples,
            on_bad_image=on_bad_image,
            loader_timeout=loader_timeout,
        )

    def charts(self, result: PartResult) -> tuple[str, Charts]:
        """Instability beside its references, correlation beside chance."""
        charts: Charts = {}
        for layer in result.layers:
            tag = f"{self.name}/{layer}"
            for title, keys in (
                ("location instability", ["instability", "random", "centre", "best_constant", "oracle"]),
                ("displacement correlation", ["correlation", "correlation_chance"]),
            ):
                charts[f"{layer}: {title}"] = ("Multiline", [f"{tag}/{key}" for key in keys])
        return f"Location instability: {self.name}", charts

    def artifacts(self, result: PartResult) -> Iterable[Output]:
        """Gallery and table of the steadiest filters of every layer."""
        for name, layer in result.layers.items():
            tag = f"{self.name}/{name}"
            yield Table, partial(self._table, f"{tag}/table", result, name)
            yield Image, partial(self.draw_steadiest, f"{tag}/steadiest", result, layer.layer, self.gallery_rows)

    def _table(self, tag: str, result: PartResult, layer: str) -> Table:
        return Table(tag, LOCATION_COLUMNS, location_table(result, result[layer]))

    def finish(self, result: PartResult, folder: Path) -> None:
        """Say what was found, and whether a filter that sees nothing would do as well."""
        for name, layer in result.layers.items():
            found = layer.scalars(result.rule)
            rank_zero_info(
                f"{self.name}: {name}: instability {found['instability']:.3f}, that of the best constant point "
                f"{found['best_constant']:.3f}, which {100 * found['beats_best_constant']:.0f} % of the filters beat; "
                f"displacement correlation {found['correlation']:.2f}, by chance {found['correlation_chance']:.2f}"
            )


class PartInterpretability(PartProbe):
    """How often filters fire on one part of a thing (Zhang, Wu and Zhu, CVPR 2018, section 5.2.1). Higher is better.

    A filter's valid region, where its upsampled activation exceeds the threshold that a share of 0.005 of its
    activations exceed, is associated with a part on an image if their IoU is above 0.2; the score is the share of the
    images of the filter's category that show the part on which it is, for the best part. The level of chance, regions
    against the parts of other images of the same category, and what stands beside purity are this project's own.

    Scalars, ``parts/<layer>/...``, in ``callback_metrics`` too, so that ``ModelCheckpoint`` and ``EarlyStopping`` can
    monitor them; means over filters, NaN where none has a score:

    - ``interpretability``, ``interpretability_by_chance``;
    - ``purity``: share of a filter's top peaks on one part; ``purity_by_chance`` (share of cells that it covers),
      ``purity_best_constant`` (one cell always), ``purity_beats_constant`` (share of the filters);
    - with several categories, ``selectivity``: share of the mean activation that falls on a filter's category;
    - ``dead``: filters never above 0; ``nonfinite``: those that gave a NaN or an infinity, of which a warning tells;
      neither has a score;
    - ``parts/seconds``: wall time of the probe, shared with callbacks that probe the same images.

    ``EarlyStopping`` stops at a NaN unless ``check_finite=False``.

    To loggers that show them: ``parts/<layer>/table`` (the best filters), and charts among the custom scalars. Files,
    under ``<log_dir>/interp/parts/epoch_XXXX/``: ``parts.json``, and by layer ``filters_<layer>.csv`` and
    ``<layer>.safetensors`` (:func:`~lightning_interp.methods.parts.files.load_parts` reads them).

    Args:
        probe: Images with label planes of concepts of category ``"part"``.
        layers: Module paths, globs or ``"auto"``.
        parts: Names of the parts that count; None for all.
        top_k: Images a filter for purity; None for 100.
        category: Attribute that is an image's category; None for ``"category"`` where the probe set has that, else
            all images are of one.
        upsample: Where the maps' values lie on the image: at the centres of receptive fields (``"receptive_field"``)
            or of equal cells (``"cell"``), for networks of which each value sees the whole image.
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes of the probe.
        max_samples: Probe at most so many images, evenly spaced.
        schedule: When to probe.
        byte_budget: Bytes for surviving activations; past it a second forward pass is made, with the same result.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read.
        loader_timeout: Seconds to wait for a loader process of the probe.
        on_error: What a failing table, logger or file does: ``"warn"`` or ``"raise"``.
        name: First part of every tag; two callbacks need two names.
        timeout: Seconds to wait for another process.

    Raises:
        DatasetError: If the probe set is empty or has no parts, saying which have some, or a name is unknown.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import RenderedFaces
        >>> faces = RenderedFaces(8, size=32)
        >>> callback = PartInterpretability(faces, layers=["features"], parts=["eye", "nose", "mouth"])
        >>> callback.state_key
        "PartInterpretability{'name': 'parts'}"
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str] = ("auto",),
        *,
        parts: Sequence[str] | None = None,
        top_k: int | None = None,
        category: str | None = None,
        upsample: Placement = "receptive_field",
        batch_size: int = 64,
        num_workers: int = 0,
        max_samples: int | None = None,
        schedule: Every = Every(n_epochs=1, at_start=True),  # noqa: B008 - frozen
        byte_budget: int = 2**30,
        on_bad_image: Literal["raise", "skip"] = "raise",
        loader_timeout: float = 300.0,
        on_error: Literal["warn", "raise"] = "warn",
        name: str = "parts",
        timeout: float = 600.0,
    ) -> None:
        super().__init__(name, schedule, on_error, timeout)
        self.engine = self.meter = PartMeter(
            probe,
            layers,
            measures=["purity", "interpretability"],
            top_k=top_k,
            parts=parts,
            category=category,
            upsample=upsample,
            batch_size=batch_size,
            num_workers=num_workers,
            max_samples=max_samples,
            byte_budget=byte_budget,
            on_bad_image=on_bad_image,
            loader_timeout=loader_timeout,
        )

    def charts(self, result: PartResult) -> tuple[str, Charts]:
        """Interpretability and purity beside what chance gives."""
        charts: Charts = {}
        for layer in result.layers:
            tag = f"{self.name}/{layer}"
            for title, keys in (
                ("part interpretability", ["interpretability", "interpretability_by_chance"]),
                ("purity", ["purity", "purity_by_chance", "purity_best_constant"]),
            ):
                charts[f"{layer}: {title}"] = ("Multiline", [f"{tag}/{key}" for key in keys])
        return f"Part interpretability: {self.name}", charts

    def artifacts(self, result: PartResult) -> Iterable[Output]:
        """Table of the best filters of every layer."""
        for name in result.layers:
            yield Table, partial(self._table, f"{self.name}/{name}/table", result, name)

    def _table(self, tag: str, result: PartResult, layer: str) -> Table:
        return Table(tag, PART_COLUMNS, part_table(result, result[layer]))

    def finish(self, result: PartResult, folder: Path) -> None:
        """Say what was found."""
        for name, layer in result.layers.items():
            found = layer.scalars(result.rule)
            rank_zero_info(
                f"{self.name}: {name}: part interpretability {found['interpretability']:.3f}, by chance "
                f"{found['interpretability_by_chance']:.3f}; purity {found['purity']:.3f}, that of the best constant "
                f"point {found['purity_best_constant']:.3f}"
            )
