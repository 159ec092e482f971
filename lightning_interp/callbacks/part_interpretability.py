"""Part interpretability of filters, epoch by epoch, beside what chance gives."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from lightning_interp._lightning import rank_zero_info
from lightning_interp.callbacks.base import Charts, Output
from lightning_interp.callbacks.part_probe import PartProbe
from lightning_interp.data.probe import ProbeSet
from lightning_interp.logging.artifacts import Table
from lightning_interp.part_results import PartResult
from lightning_interp.parts import PartMeter
from lightning_interp.probing.placement import Placement
from lightning_interp.schedule import Every
from lightning_interp.viz.part_table import PART_COLUMNS, part_table


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
    ``<layer>.safetensors`` (:func:`~lightning_interp.logging.part_files.load_parts` reads them).

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
