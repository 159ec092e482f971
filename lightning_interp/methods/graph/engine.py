"""An explanatory graph of a network on a probe set: the same engine inside and outside of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp._options import passes_on, take
from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.landmarks import category_table, landmark_table, part_landmarks
from lightning_interp.data.loading import Reading
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.functional.part_overlap import covered_cells
from lightning_interp.functional.peaks import Peaks
from lightning_interp.functional.regions import region_masks
from lightning_interp.functional.upsampling import Grid
from lightning_interp.methods.graph.maths.evaluation import evaluate_graph
from lightning_interp.methods.graph.maths.infer import LayerMaps, infer, join
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.order import check_descends
from lightning_interp.methods.graph.patterns import Inference, PatternGraph
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.methods.graph.study import GraphStudy, Learning
from lightning_interp.probing.engine import SweepEngine
from lightning_interp.probing.layers import LayerInfo, resolve_layers
from lightning_interp.probing.receptive import Placement, image_grid
from lightning_interp.probing.runner import Forward, prepare
from lightning_interp.probing.session import probing
from lightning_interp.probing.sweep import Task
from lightning_interp.probing.tap import tap


class GraphLearner(SweepEngine[GraphResult]):
    """Learns explanatory graphs of a network on one probe set.

    Args:
        probe: The probe set: objects cut out by their boxes and scaled to one size.
        layers: Module paths, top layer first.
        options: How to learn.
        category: Learn from images of this category only: its number, or its name where the probe set has
            ``classes``; None for all images.
        upsample: Where the maps' values lie: at the centres of their receptive fields, or of equal ``"cell"`` of the
            image, for networks of which each value sees the whole image.
        **reading: How the probe set is read: :class:`~lightning_interp.data.loading.Reading`. The ``byte_budget`` is
            for the maps of all images, which are held while the graph is learnt: more are refused.

    Attributes:
        learning: Called with the work of the learning done, and in all; None for no such call.
        grids: By layer, the place of its values on the image, once :meth:`describe` has run.
        image_size: ``(H, W)`` of the images, likewise.

    Raises:
        DatasetError: If the probe set is empty, or the category is unknown.
        ValueError: If an option is out of range.
    """

    bank: LabelBank
    READING = Reading(byte_budget=2**31)

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str],
        options: GraphOptions,
        *,
        category: int | str | None = None,
        upsample: Placement = "receptive_field",
        **reading: Any,
    ) -> None:
        super().__init__(probe, layers, **reading)
        if upsample not in ("receptive_field", "cell"):
            raise ValueError(f"upsample must be one of receptive_field, cell; got {upsample!r}")
        self.options, self.category, self.upsample = options, category, upsample
        if category is not None:
            self.indices = self.reading.spread(_of_category(probe, category))
            # JSON has no numbers of numpy.
            self.category = category if isinstance(category, str) else int(category)
        self.bank = LabelBank(LabelEncoder(probe, probe.mask_size), every_image_counts=True)
        self.image_size = (0, 0)
        self.learning: Learning | None = None

    def describe(self, module: nn.Module, forward: Forward | None = None) -> dict[str, LayerInfo]:
        """As every engine; and check that each layer lies above the next, and what the maps will take.

        Raises:
            LayerError: If a layer is unknown, gives no maps, or lies not above the next one.
            DatasetError: If the maps of all images do not fit the budget, or there are fewer images than patterns.
        """
        infos = super().describe(module, forward)
        if len(infos) != len(self.layers):
            raise LayerError(
                f"layers {list(self.layers)} stand for {len(infos)} layers ({', '.join(infos)}); name each layer that "
                "is to have patterns once, the top one first"
            )
        patterns = self.options.patterns
        if isinstance(patterns, Sequence) and len(patterns) != len(infos):
            raise LayerError(f"patterns has {len(patterns)} numbers for {len(infos)} layers; give one for each")
        with probing(module):
            example = prepare(self.example()[None], module, self.probe.normalize)
            check_descends(module, resolve_layers(module, list(infos)), example, forward)
        numbers = sum(info.units * info.height * info.width for info in infos.values())
        size, budget = len(self.indices) * numbers * 4 * (2 if self.options.flips else 1), self.reading.byte_budget
        if size > budget:
            raise DatasetError(
                f"the maps of {len(self.indices)} images take {size / 2**30:.2f} GiB, more than the byte_budget of "
                f"{budget / 2**30:.2f} GiB; lower max_samples, name fewer or later layers, or raise it"
            )
        for place, info in enumerate(infos.values()):
            number = self.options.nodes(place, info.name, (info.height, info.width))
            if self.limit is None and len(self.indices) < max(number, 2):
                raise DatasetError(
                    f"layer '{info.name}': {number} patterns a filter cannot be learnt from {len(self.indices)} "
                    f"images; give at least {max(number, 2)} images, or fewer patterns"
                )
        return infos

    def place(self, module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int]) -> Grid:
        """Where the layer's values lie on the image."""
        self.image_size = shape[1:]
        return image_grid(module, layer, info, shape, self.upsample)

    def study(self, task: Task) -> GraphStudy:
        """One graph, to take part in a sweep."""
        return GraphStudy(task, self.options, self.learning)

    def result(self, study: GraphStudy, **about: Any) -> GraphResult:
        """What a finished study has learnt.

        Raises:
            ResponseError: If a layer's responses say nothing.
        """
        peaks, graph = study.found(), study.graph
        assert graph is not None
        return GraphResult(
            graph.layers,
            graph.image_size,
            graph.learnt_from,
            settings={**graph.settings, **about["settings"]},
            seconds=about["seconds"],
            meta={**graph.meta, **about["meta"], "evaluation": self._evaluate(graph, peaks)},
        )

    def _evaluate(self, graph: PatternGraph, peaks: Mapping[str, Peaks]) -> dict[str, float]:
        """Figures of filters and patterns against the landmarks, where the probe set has some."""
        assert graph.learnt_from is not None
        images = graph.learnt_from.images.tolist()
        if not any(part_landmarks(self.probe, index) for index in images):
            return {}
        _, landmarks = landmark_table(self.probe, images)
        columns = [column for column, each in enumerate(self.probe.concepts) if each.category == "part"]
        covered = {name: self._covered(images, columns, grid) for name, grid in self.grids.items()} if columns else None
        return evaluate_graph(graph, graph.learnt_from, landmarks, peaks, covered).scalars()

    def _covered(self, images: Sequence[int], columns: Sequence[int], grid: Grid) -> Tensor:
        size, found, step = self.probe.mask_size, [], self.reading.batch_size
        for start in range(0, len(images), step):
            rows = images[start : start + step]
            self.bank.ensure(rows)
            found.append(covered_cells(region_masks(self.bank.batch(rows), columns, size), grid.resized(size)))
        return torch.cat(found)

    def settings(self) -> dict[str, Any]:
        """What the graph depends on, JSON-able."""
        return super().settings() | {"category": self.category, "upsample": self.upsample}


def _of_category(probe: ProbeSet, category: int | str) -> list[int]:
    classes = list(getattr(probe, "classes", ()))
    number = category
    if isinstance(category, str):
        if category not in classes:
            raise DatasetError(
                f"unknown category {category!r}; {type(probe).__name__} has {', '.join(classes) or 'numbers only'}"
            )
        number = classes.index(category)
    found = [index for index, own in enumerate(category_table(probe, range(len(probe))).tolist()) if own == number]
    if not found:
        raise DatasetError(f"no image of {type(probe).__name__} is of category {category!r}")
    return found


@passes_on(GraphLearner, GraphOptions)
def explanatory_graph(
    model: nn.Module,
    probe: ProbeSet,
    layers: Sequence[str],
    *,
    progress: Learning | None = None,
    **options: Any,
) -> GraphResult:
    """Learn the explanatory graph of a network outside of training: what the callback publishes.

    Args:
        model: Any module; it is left exactly as it was.
        probe: The probe set.
        layers: Module paths, top layer first.
        progress: Called with the work of the learning done, and in all.
        **options: As in :class:`GraphLearner` and :class:`~lightning_interp.methods.graph.options.GraphOptions`.

    Raises:
        LayerError: If a layer is unknown, gives no ``(B, U, H, W)`` map exactly once, has no active filter or no
            receptive fields, or does not lie above the next one.
        DatasetError: If there are fewer images than patterns, or more than the budget allows.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import RenderedFaces
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        >>> graph = explanatory_graph(net, RenderedFaces(8, size=32), ["3", "1"], patterns=2, parents=3)
        >>> [(layer.layer, len(layer), layer.parents.shape[1]) for layer in graph.layers]
        [('3', 12, 0), ('1', 8, 3)]
    """
    own = take(options, GraphLearner)
    learner = GraphLearner(probe, layers, GraphOptions(**options), **own)
    learner.learning = progress
    return learner.once(model)


@passes_on(Reading)
@passes_on(Reading, only=("batch_size", "max_samples"))
def infer_images(
    graph: PatternGraph,
    model: nn.Module,
    images: Tensor | ProbeSet,
    *,
    indices: Sequence[int] | None = None,
    **reading: Any,
) -> Inference:
    """Where the patterns of a graph are in images, in the order of the images' indices.

    Args:
        graph: The graph.
        model: The network that it was learnt from; left as it was.
        images: ``(N, C, H, W)`` as the network takes them, or a probe set.
        indices: Which images of the probe set; None for all.
        **reading: How they are read (:class:`~lightning_interp.data.loading.Reading`); of its options ``batch_size``
            and ``max_samples`` have a say here.

    Raises:
        LayerError: If the network has not the graph's layers.
        DatasetError: If the images are not of the size of those that it was learnt from, a layer gives maps of other
            shapes, NaN or infinite values, or there is no image.
    """
    how = Reading().but("infer_images", **reading)
    chosen = how.spread([int(index) for index in (range(len(images)) if indices is None else indices)])
    if not chosen:
        raise DatasetError("no image to infer patterns in")
    flips = bool(GraphOptions(**graph.settings["options"]).flips)
    found = []
    with probing(model), tap(resolve_layers(model, graph.names)) as taps:
        for start in range(0, len(chosen), how.batch_size):
            rows = chosen[start : start + how.batch_size]
            batch = _batch(images, rows, model)
            size, own = (" x ".join(map(str, each)) for each in (batch.shape[2:], graph.image_size))
            if size != own:
                raise DatasetError(
                    f"images of {size} pixels, but the graph was learnt from images of {own}; scale them"
                )
            maps = []
            for facing in (batch, batch.flip(3))[: 2 if flips else 1]:
                model(facing)
                maps.append(taps.collect())
            layers = [
                LayerMaps(each.layer, maps[0][each.layer], maps[1][each.layer] if flips else None, each.grid)
                for each in graph.layers
            ]
            found.append(infer(graph, layers, torch.tensor(rows)))
    return join(found)


def _batch(images: Tensor | ProbeSet, rows: Sequence[int], model: nn.Module) -> Tensor:
    if isinstance(images, ProbeSet):
        return prepare(torch.stack([images.image(row) for row in rows]), model, images.normalize)
    return prepare(images[list(rows)], model, None)
