"""The explanatory graph of the trained network: which part patterns its filters mix, and which fire together."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage
from torch import Tensor, nn

from lightning_interp._extras import available
from lightning_interp._lightning import LightningModule, rank_zero_info
from lightning_interp._options import passes_on, take
from lightning_interp.callbacks.base import ProbeCallback
from lightning_interp.callbacks.publish import Charts, Shown
from lightning_interp.data.probe import ProbeSet
from lightning_interp.drawing.pictures import Picture, to_picture
from lightning_interp.logging.artifacts import Figure, Image, Table
from lightning_interp.methods.graph.decoder_files import load_decoder
from lightning_interp.methods.graph.engine import GraphLearner
from lightning_interp.methods.graph.figures.drawing import draw_graph
from lightning_interp.methods.graph.figures.heat import pattern_heat_map
from lightning_interp.methods.graph.figures.patches import node_patches
from lightning_interp.methods.graph.figures.synthesis import synthesis_gallery
from lightning_interp.methods.graph.figures.table import evaluation_table, page_scores
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.page import write_graph_page
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.methods.graph.synthesis import Drawn, check_decoder, draw_images
from lightning_interp.schedule import AtEnd, Every

PAGE = "graph.html"


class ExplanatoryGraph(ProbeCallback[GraphResult]):
    """An explanatory graph of the trained network (Zhang et al., AAAI 2018), at the end of the fit.

    Each filter is taken apart into part patterns, and each pattern gets edges to the patterns of the layer above that
    say where it is. The graph is learnt from the probe set's images alone, without labels. Where the probe set has
    landmarks of parts, patterns and raw filters are judged against them, each beside its references.

    Scalars, ``graph/<layer>/...``, all in ``callback_metrics``; with ``schedule=Every(n)`` during training too, so that
    ``ModelCheckpoint`` and ``EarlyStopping`` can monitor them. Loggers get the headline (``patterns``; ``correlation``
    and ``instability`` beside those of raw filters, each with ``_known``), or with ``scalars="all"`` every one:

    - ``patterns``: how many the layer has;
    - of the patterns, where there are landmarks: ``instability`` and ``instability_aaai2018`` (location instability in
      image diagonals), ``correlation`` and ``r2`` of displacements with the best landmark, ``correlation_chance``,
      ``beats_centre`` and ``beats_frozen`` (share that is steadier than the image's centre, than the pattern held
      still), ``purity`` by part masks with ``purity_area`` and ``purity_best_constant``, ``scored``;
    - each of them for what patterns are to be compared with, as ``<quantity>_raw`` (the filters' peaks),
      ``..._raw_same`` (the same on the images that the patterns are judged on, where the filter responds near by),
      ``..._frozen`` (each pattern held at its mean position), ``..._expected`` (where parents and pose expect it),
      ``..._centre``, ``..._random``;
    - ``graph/seconds``: wall time.

    To loggers that show them: ``graph/<layer>/patches`` (the strongest patterns on the images where they are
    strongest), ``graph/patterns`` (where the top 10 % of the patterns of some images are), ``graph/drawn`` (strongest
    patterns and edges), ``graph/<layer>/table`` (patterns beside raw filters and controls), and with a decoder
    ``graph/<layer>/synthesis``. Files, under ``<log_dir>/interp/graph/end/`` (or ``epoch_XXXX``): ``graph.json`` with
    its arrays (:meth:`~lightning_interp.methods.graph.result.GraphResult.load` reads them), and ``graph.html``, a page
    to browse the graph in and to tick patterns to prune.

    Where training has left a layer silent on all images, or NaN or infinite on one, there is a warning and no graph.

    Args:
        probe: Images of objects of one category, cut out by their boxes and scaled to one size; for several categories
            take one callback each, with ``category``, or let one graph describe them all.
        layers: Module paths, the top layer first.
        options: How to learn.
        decoder: Draws images from the maps of one of the layers, or the file of one
            (:func:`~lightning_interp.methods.graph.decoder_files.load_decoder`); see ``recipes/graph_decoder``.
        schedule: When to learn a graph; with ``Every(n)``, during training and at its end.
        name: First part of every tag; two callbacks need two names.
        **reading: ``category``, ``upsample`` and how the probe set is read, as in
            :class:`~lightning_interp.methods.graph.engine.GraphLearner`; scalars, on_error and timeout as in
            :class:`~lightning_interp.callbacks.base.ProbeCallback`.

    Raises:
        DatasetError: If the probe set is empty, the category unknown, or the decoder's file no decoder.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import RenderedFaces
        >>> callback = ExplanatoryGraph(RenderedFaces(8, size=32), layers=["features.4", "features.2"])
        >>> callback.state_key
        "ExplanatoryGraph{'name': 'graph'}"
    """

    TITLE = "Explanatory graph"
    # From one batch no graph can be learnt.
    TRIALS = False
    ALSO_AT_END = True
    engine: GraphLearner

    @passes_on(GraphLearner, ProbeCallback)
    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str],
        *,
        options: GraphOptions = GraphOptions(),  # noqa: B008 - frozen
        decoder: nn.Module | str | Path | None = None,
        schedule: Every | AtEnd | None = AtEnd(),  # noqa: B008 - frozen
        name: str = "graph",
        **reading: Any,
    ) -> None:
        own = take(reading, ProbeCallback)
        engine = GraphLearner(probe, layers, options, **reading)
        super().__init__(engine, name=name, schedule=AtEnd() if schedule is None else schedule, **own)
        self.decoder = load_decoder(Path(decoder)) if isinstance(decoder, str | Path) else decoder
        self.drawn: Drawn | None = None

    @property
    def learner(self) -> GraphLearner:
        """The engine."""
        return self.engine

    def prepare(self, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Check layers, their order and what they will take."""
        super().prepare(module, forward)
        self.engine.learning = _Progress(self.name)
        if self.decoder is not None:
            check_decoder(self.decoder, self.engine)

    def follow_up(self, result: GraphResult, module: LightningModule, forward: Callable[[Tensor], Any]) -> None:
        """Draw from the maps of some images; be ready to tell how long the next graph takes."""
        self.engine.learning, self.drawn = _Progress(self.name), None
        if self.decoder is not None and self.ranks.rank == 0:
            with self._publisher.guard("synthesis"):
                self.drawn = draw_images(self.decoder, result, self.engine, module, forward)

    def charts(self, result: GraphResult) -> Charts:
        """Patterns beside raw filters and controls."""
        charts: Charts = {}
        for layer in result.names if result.meta.get("evaluation") else ():
            for quantity, kinds in (
                ("instability", ("", "_raw", "_frozen", "_centre")),
                ("correlation", ("", "_raw", "_expected", "_chance")),
            ):
                tags = [f"{layer}/{quantity}{kind}" for kind in kinds]
                charts[f"{layer}: {quantity}"] = ("Multiline", tags)
        return charts

    def shown(self, result: GraphResult) -> Iterable[Shown]:
        """Patches, heat maps, the graph drawn, synthesis, tables."""
        for layer in result.names:
            yield Image, f"{layer}/patches", partial(node_patches, result, layer, self._picture)
            if result.meta.get("evaluation"):
                yield Table, f"{layer}/table", partial(evaluation_table, result, layer)
        if self.drawn is not None:
            yield Image, f"{self.drawn.layer}/synthesis", partial(_synthesis, self.drawn)
        if available("matplotlib"):
            yield Figure, "drawn", lambda: draw_graph(result, self._picture)
            assert result.learnt_from is not None
            seen = result.learnt_from
            yield Figure, "patterns", lambda: pattern_heat_map(result, seen, self._picture)

    def save(self, result: GraphResult, folder: Path) -> None:
        """Write the graph, and the page to browse it in."""
        if available("safetensors"):
            result.save(folder)
        else:
            rank_zero_info(f"{self.name}: the graph is not saved: pip install 'lightning-interp[io]'")
        write_graph_page(result, self._picture, folder / PAGE, page_scores(result))

    def lines(self, result: GraphResult) -> Iterable[str]:
        """What was found."""
        found = result.meta.get("evaluation", {})
        for layer in result.names if found else ():
            yield (
                f"{layer}: displacement correlation with parts "
                f"{found[f'{layer}/correlation']:.2f}, of raw filters {found[f'{layer}/correlation_raw']:.2f}; "
                f"location instability {found[f'{layer}/instability']:.3f}, of raw filters "
                f"{found[f'{layer}/instability_raw']:.3f}, of the patterns held still "
                f"{found[f'{layer}/instability_frozen']:.3f}"
            )

    def pages(self, result: GraphResult, folder: Path) -> None:
        """Say where to look."""
        page = folder / "end" / PAGE
        where = f"; browse them in {page}" if page.exists() else ""
        rank_zero_info(f"{self.name}: {sum(map(len, result.layers))} patterns{where}")

    def _picture(self, index: int) -> Picture:
        return to_picture(self.engine.probe.image(index))


def _synthesis(drawn: Drawn) -> PillowImage.Image:
    columns = {
        "whole map": drawn.made.full,
        "valid patterns": drawn.made.kept,
        "as many units by chance": drawn.made.chance,
        "map of zeros": drawn.made.blank,
    }
    return synthesis_gallery(drawn.layer, drawn.images, columns)


class _Progress:
    """Says how long the learning will take, once that can be told, and then how far it is."""

    def __init__(self, name: str) -> None:
        self.name, self.quarter = name, 0
        self.first: tuple[float, float] | None = None
        self.start: float | None = None

    def __call__(self, done: float, total: float) -> None:
        """So much of the work is done."""
        now = time.perf_counter()
        if self.first is None:
            # The first iteration is no measure: memory is got, kernels are chosen.
            self.first = done, now
            return
        if self.start is None:
            speed = (done - self.first[0]) / (now - self.first[1])
            self.start = self.first[1] - self.first[0] / speed
            rank_zero_info(f"{self.name}: learning the graph, about {total / speed:.0f} s in all")
        if self.quarter < int(4 * done / total) < 4:
            self.quarter = int(4 * done / total)
            rank_zero_info(f"{self.name}: {100 * done / total:.0f} % after {now - self.start:.0f} s")
