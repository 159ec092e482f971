"""An explanatory graph of a network on a probe set: the same engine inside and outside of training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.landmarks import category_table, landmark_table, part_landmarks
from lightning_interp.data.loading import BadImage
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.functional.part_overlap import covered_cells
from lightning_interp.functional.regions import region_masks
from lightning_interp.functional.upsampling import Grid
from lightning_interp.methods.graph.maths.evaluation import evaluate_graph
from lightning_interp.methods.graph.maths.infer import LayerMaps, infer, join
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.order import check_descends
from lightning_interp.methods.graph.result import GraphResult, Inference
from lightning_interp.methods.graph.study import GraphStudy
from lightning_interp.probing.engine import SweepEngine, check_least
from lightning_interp.probing.layers import LayerInfo, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.receptive import Placement, image_grid
from lightning_interp.probing.runner import Forward, prepare
from lightning_interp.probing.session import probing
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
        batch_size: As in :class:`~lightning_interp.probing.engine.SweepEngine`, with what follows.
        num_workers: Loader processes.
        max_samples: Use at most so many images.
        byte_budget: Bytes for the maps of all images, which are held while the graph is learnt.
        on_bad_image: ``"raise"`` or ``"skip"``.
        loader_timeout: Seconds to wait for a loader process.

    Attributes:
        grids: By layer, the place of its values on the image, once :meth:`describe` has run.

    Raises:
        DatasetError: If the probe set is empty, or the category is unknown.
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str],
        options: GraphOptions,
        *,
        category: int | str | None = None,
        upsample: Placement = "receptive_field",
        batch_size: int = 64,
        num_workers: int = 0,
        max_samples: int | None = None,
        byte_budget: int = 2**31,
        on_bad_image: BadImage = "raise",
        loader_timeout: float = 300.0,
    ) -> None:
        super().__init__(
            probe,
            layers,
            batch_size=batch_size,
            num_workers=num_workers,
            max_samples=None,
            byte_budget=byte_budget,
            on_bad_image=on_bad_image,
            loader_timeout=loader_timeout,
        )
        if upsample not in ("receptive_field", "cell"):
            raise ValueError(f"upsample must be one of receptive_field, cell; got {upsample!r}")
        self.options, self.category, self.upsample = options, category, upsample
        if category is not None:
            self.indices = _of_category(probe, self.indices, category)
            # JSON has no numbers of numpy.
            self.category = category if isinstance(category, str) else int(category)
        if max_samples is not None:
            check_least(max_samples=(max_samples, 1))
            count = len(self.indices)
            most = min(count, max_samples)
            self.indices = [self.indices[i * count // most] for i in range(most)]
        self.bank = LabelBank(LabelEncoder(probe, probe.mask_size), every_image_counts=True)
        self.grids: dict[str, Grid] = {}
        self.image_size = (0, 0)
        self.learning: Callable[[float, float], None] | None = None

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
            example = prepare(self._example()[None], module, self.probe.normalize)
            check_descends(module, resolve_layers(module, list(infos)), example, forward)
        numbers = sum(info.units * info.height * info.width for info in infos.values())
        size = len(self.indices) * numbers * 4 * (2 if self.options.flips else 1)
        if size > self.byte_budget:
            raise DatasetError(
                f"the maps of {len(self.indices)} images take {size / 2**30:.2f} GiB, more than the byte_budget of "
                f"{self.byte_budget / 2**30:.2f} GiB; lower max_samples, name fewer or later layers, or raise it"
            )
        for place, info in enumerate(infos.values()):
            number = self.options.nodes(place, info.name, (info.height, info.width))
            if self.limit is None and len(self.indices) < max(number, 2):
                raise DatasetError(
                    f"layer '{info.name}': {number} patterns a filter cannot be learnt from {len(self.indices)} "
                    f"images; give at least {max(number, 2)} images, or fewer patterns"
                )
        return infos

    def place(self, module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int]) -> None:
        """Find where the layer's values lie on the image."""
        self.image_size = shape[1:]
        self.grids[info.name] = image_grid(module, layer, info, shape, self.upsample)

    def study(self, module: nn.Module, ranks: Ranks, forward: Forward | None) -> GraphStudy:
        """One graph, to take part in a sweep."""
        return GraphStudy(self, module, ranks, forward)

    def result(
        self,
        study: GraphStudy,
        skipped: Sequence[tuple[int, str]],
        seconds: float,
        ranks: Ranks,
        meta: Mapping[str, Any],
    ) -> GraphResult:
        """What a finished study has learnt.

        Raises:
            ResponseError: If a layer's responses say nothing.
        """
        if study.nothing is not None:
            raise study.nothing
        figures = self._evaluate(study)
        return study.finished(self.settings() | {"num_skipped": len(skipped)}, seconds, {**meta, "evaluation": figures})

    def _evaluate(self, study: GraphStudy) -> dict[str, float]:
        """Figures of filters and patterns against the landmarks, where the probe set has some."""
        graph = study.graph
        assert graph is not None
        assert graph.learnt_from is not None
        images = graph.learnt_from.images.tolist()
        if not any(part_landmarks(self.probe, index) for index in images):
            return {}
        _, landmarks = landmark_table(self.probe, images)
        columns = [column for column, each in enumerate(self.probe.concepts) if each.category == "part"]
        covered = {name: self._covered(images, columns, grid) for name, grid in self.grids.items()} if columns else None
        return evaluate_graph(graph, graph.learnt_from, landmarks, study.peaks, covered).scalars()

    def _covered(self, images: Sequence[int], columns: Sequence[int], grid: Grid) -> Tensor:
        size, found = self.probe.mask_size, []
        for start in range(0, len(images), self.batch_size):
            rows = images[start : start + self.batch_size]
            self.bank.ensure(rows)
            found.append(covered_cells(region_masks(self.bank.batch(rows), columns, size), grid.resized(size)))
        return torch.cat(found)

    def settings(self) -> dict[str, Any]:
        """What the graph depends on, JSON-able."""
        return {
            "probe": self.probe.fingerprint(),
            "probe_kind": type(self.probe).__name__,
            "category": self.category,
            "upsample": self.upsample,
            "batch_size": self.batch_size,
        }


def _of_category(probe: ProbeSet, indices: Sequence[int], category: int | str) -> list[int]:
    classes = list(getattr(probe, "classes", ()))
    number = category
    if isinstance(category, str):
        if category not in classes:
            raise DatasetError(
                f"unknown category {category!r}; {type(probe).__name__} has {', '.join(classes) or 'numbers only'}"
            )
        number = classes.index(category)
    found = [
        index for index, own in zip(indices, category_table(probe, indices).tolist(), strict=True) if own == number
    ]
    if not found:
        raise DatasetError(f"no image of {type(probe).__name__} is of category {category!r}")
    return found


def explanatory_graph(
    model: nn.Module,
    probe: ProbeSet,
    layers: Sequence[str],
    *,
    category: int | str | None = None,
    upsample: Placement = "receptive_field",
    batch_size: int = 64,
    num_workers: int = 0,
    max_samples: int | None = None,
    byte_budget: int = 2**31,
    progress: Callable[[float, float], None] | None = None,
    **options: Any,
) -> GraphResult:
    """Learn the explanatory graph of a network outside of training: what the callback publishes.

    Args:
        model: Any module; it is left exactly as it was.
        probe: The probe set.
        layers: Module paths, top layer first.
        category: As in :class:`GraphLearner`, with what follows.
        upsample: Where the maps' values lie.
        batch_size: Images a forward pass.
        num_workers: Loader processes.
        max_samples: Use at most so many images.
        byte_budget: Bytes for the maps of all images.
        progress: Called with the work of the learning done, and in all.
        **options: As in :class:`~lightning_interp.methods.graph.options.GraphOptions`.

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
    learner = GraphLearner(
        probe,
        layers,
        GraphOptions(**options),
        category=category,
        upsample=upsample,
        batch_size=batch_size,
        num_workers=num_workers,
        max_samples=max_samples,
        byte_budget=byte_budget,
    )
    learner.learning = progress
    graph = learner(model)
    assert graph is not None  # only should_stop stops it
    return graph


def infer_images(
    graph: GraphResult,
    model: nn.Module,
    images: Tensor | ProbeSet,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 64,
) -> Inference:
    """Where the patterns of a graph are in images, in the order of the images' indices.

    Args:
        graph: The graph.
        model: The network that it was learnt from; left as it was.
        images: ``(N, C, H, W)`` as the network takes them, or a probe set.
        indices: Which images of the probe set; None for all.
        batch_size: Images a forward pass.

    Raises:
        LayerError: If the network has not the graph's layers.
        DatasetError: If the images are not of the size of those that it was learnt from, a layer gives maps of other
            shapes, NaN or infinite values, or there is no image.
    """
    chosen = [int(index) for index in (range(len(images)) if indices is None else indices)]
    if not chosen:
        raise DatasetError("no image to infer patterns in")
    flips = bool(GraphOptions(**graph.settings["options"]).flips)
    found = []
    with probing(model), tap(resolve_layers(model, graph.names)) as taps:
        for start in range(0, len(chosen), batch_size):
            rows = chosen[start : start + batch_size]
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
