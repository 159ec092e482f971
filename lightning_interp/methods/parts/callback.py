"""What filters have to do with parts, epoch by epoch, beside what filters that see nothing would score."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from lightning_interp._options import passes_on, take
from lightning_interp.callbacks.base import ProbeCallback
from lightning_interp.callbacks.publish import Shown
from lightning_interp.data.landmarks import part_landmarks
from lightning_interp.data.probe import ProbeSet
from lightning_interp.drawing.pictures import to_picture
from lightning_interp.logging.artifacts import Image, Table
from lightning_interp.methods.parts.engine import Measure, PartMeter, has_parts
from lightning_interp.methods.parts.figures.gallery import filter_gallery
from lightning_interp.methods.parts.figures.table import (
    LOCATION_COLUMNS,
    PART_COLUMNS,
    filter_summaries,
    location_table,
    part_table,
    steadiest,
)
from lightning_interp.methods.parts.result import PartResult


class LocationInstability(ProbeCallback[PartResult]):
    """How steadily filters peak beside the landmarks of parts (Zhang, Wu and Zhu, CVPR 2018, section 5.2.2).

    Lower is steadier. A filter that always peaks at one place is steady too, and on centred crops it outdoes the
    published networks; so each score stands beside those of filters that see nothing, and beside the correlation of
    peaks with the landmark, which is 0 for a constant and at the level of chance beside it for random peaks.
    References and correlation are this project's own.

    Scalars, ``location/<layer>/...``, all in ``callback_metrics``, so that ``ModelCheckpoint`` and ``EarlyStopping``
    can monitor them; means over the filters that have a score, NaN where none has, and then ``<score>_known`` is 0.
    Loggers get the headline (``instability``, ``best_constant``, ``beats_best_constant``, ``correlation``,
    ``correlation_chance``, ``dead``), or with ``scalars="all"`` every one:

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
        gallery_rows: Filters shown.
        name: First part of every tag; two callbacks need two names.
        **options: What is measured and how the probe set is read, as in
            :class:`~lightning_interp.methods.parts.engine.PartMeter`; schedule, scalars, on_error and timeout as in
            :class:`~lightning_interp.callbacks.base.ProbeCallback`.

    Raises:
        DatasetError: If the probe set is empty or has no landmarks, saying which have some, or a name is unknown.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import RenderedFaces
        >>> callback = LocationInstability(RenderedFaces(8, size=32), layers=["features"])
        >>> callback.state_key
        "LocationInstability{'name': 'location'}"
    """

    TITLE = "Location instability"
    CHARTS = {  # noqa: RUF012 - never changed
        "location instability": ("instability", "random", "centre", "best_constant", "oracle"),
        "displacement correlation": ("correlation", "correlation_chance"),
    }
    engine: PartMeter

    @passes_on(PartMeter, ProbeCallback, omit=("measures",))
    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str] = ("auto",),
        *,
        gallery_rows: int = 10,
        name: str = "location",
        **options: Any,
    ) -> None:
        own = take(options, ProbeCallback)
        masked = options.get("parts") is not None or (isinstance(probe, ProbeSet) and has_parts(probe))
        measures: list[Measure] = ["location", "purity"] if masked else ["location"]
        super().__init__(PartMeter(probe, layers, measures=measures, **options), name=name, **own)
        self.gallery_rows = gallery_rows

    @property
    def meter(self) -> PartMeter:
        """The engine."""
        return self.engine

    def shown(self, result: PartResult) -> Iterable[Shown]:
        """Gallery and table of the steadiest filters of every layer."""
        for name, layer in result.layers.items():
            yield Table, f"{name}/table", partial(_rows, LOCATION_COLUMNS, location_table, result, name)
            yield Image, f"{name}/steadiest", partial(self._steadiest, result, layer.layer)

    def _steadiest(self, result: PartResult, layer: str) -> Any:
        """The gallery of a layer's steadiest filters."""
        found, probe = result[layer], self.engine.probe
        grid = self.engine.image_grids[layer]
        return filter_gallery(
            found,
            steadiest(filter_summaries(result, found), self.gallery_rows),
            lambda index: to_picture(probe.image(index)),
            lambda index: {n: at for n, at in part_landmarks(probe, index).items() if n in result.landmarks},
            (grid.rows.size, grid.columns.size),
        )

    def lines(self, result: PartResult) -> Iterable[str]:
        """What was found, and whether a filter that sees nothing would do as well."""
        for name, layer in result.layers.items():
            found = layer.scalars(result.rule)
            yield (
                f"{name}: instability {found['instability']:.3f}, that of the best constant point "
                f"{found['best_constant']:.3f}, which {100 * found['beats_best_constant']:.0f} % of the filters beat; "
                f"displacement correlation {found['correlation']:.2f}, by chance {found['correlation_chance']:.2f}"
            )


class PartInterpretability(ProbeCallback[PartResult]):
    """How often filters fire on one part of a thing (Zhang, Wu and Zhu, CVPR 2018, section 5.2.1). Higher is better.

    A filter's valid region, where its upsampled activation exceeds the threshold that a share of 0.005 of its
    activations exceed, is associated with a part on an image if their IoU is above 0.2; the score is the share of the
    images of the filter's category that show the part on which it is, for the best part. The level of chance, regions
    against the parts of other images of the same category, and what stands beside purity are this project's own.

    Scalars, ``parts/<layer>/...``, all in ``callback_metrics``, so that ``ModelCheckpoint`` and ``EarlyStopping`` can
    monitor them; means over filters, NaN where none has a score, and then ``<score>_known`` is 0. Loggers get the
    headline (``interpretability`` and ``purity`` with their references, ``dead``), or with ``scalars="all"`` every one:

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
        name: First part of every tag; two callbacks need two names.
        **options: What is measured and how the probe set is read, as in
            :class:`~lightning_interp.methods.parts.engine.PartMeter`; schedule, scalars, on_error and timeout as in
            :class:`~lightning_interp.callbacks.base.ProbeCallback`.

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

    TITLE = "Part interpretability"
    CHARTS = {  # noqa: RUF012 - never changed
        "part interpretability": ("interpretability", "interpretability_by_chance"),
        "purity": ("purity", "purity_by_chance", "purity_best_constant"),
    }
    engine: PartMeter

    @passes_on(PartMeter, ProbeCallback, omit=("measures", "variant", "rule", "landmarks"))
    def __init__(
        self, probe: ProbeSet, layers: Sequence[str] = ("auto",), *, name: str = "parts", **options: Any
    ) -> None:
        own = take(options, ProbeCallback)
        measures: list[Measure] = ["purity", "interpretability"]
        super().__init__(PartMeter(probe, layers, measures=measures, **options), name=name, **own)

    @property
    def meter(self) -> PartMeter:
        """The engine."""
        return self.engine

    def shown(self, result: PartResult) -> Iterable[Shown]:
        """Table of the best filters of every layer."""
        for name in result.layers:
            yield Table, f"{name}/table", partial(_rows, PART_COLUMNS, part_table, result, name)

    def lines(self, result: PartResult) -> Iterable[str]:
        """What was found."""
        for name, layer in result.layers.items():
            found = layer.scalars(result.rule)
            yield (
                f"{name}: part interpretability {found['interpretability']:.3f}, by chance "
                f"{found['interpretability_by_chance']:.3f}; purity {found['purity']:.3f}, that of the best constant "
                f"point {found['purity_best_constant']:.3f}"
            )


def _rows(columns: Sequence[str], table: Any, result: PartResult, layer: str) -> tuple[Sequence[str], Any]:
    return columns, table(result, result[layer])
