"""Location instability of filters, epoch by epoch, beside what a filter that sees nothing would score."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from lightning_interp._lightning import rank_zero_info
from lightning_interp.callbacks.base import Charts, Output
from lightning_interp.callbacks.part_probe import PartProbe
from lightning_interp.data.probe import ProbeSet
from lightning_interp.functional.location_scores import CategoryRule, Variant
from lightning_interp.logging.artifacts import Image, Table
from lightning_interp.part_results import PartResult
from lightning_interp.parts import PartMeter, has_parts
from lightning_interp.probing.placement import Placement
from lightning_interp.schedule import Every
from lightning_interp.viz.part_table import LOCATION_COLUMNS, location_table


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
    ``<layer>.safetensors`` (:func:`~lightning_interp.logging.part_files.load_parts` reads them).

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
