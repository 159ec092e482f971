"""One explanatory graph under way: the maps of this process's images, then learning and inference together."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_interp.data.loading import ProbeBatch, probe_batches
from lightning_interp.errors import ResponseError
from lightning_interp.functional.peaks import Peaks, find_peaks
from lightning_interp.methods.graph.maths.infer import LayerMaps, infer, join
from lightning_interp.methods.graph.maths.learn import learn_graph
from lightning_interp.methods.graph.maths.pose import Sum
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.patterns import Inference, PatternGraph
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.runner import run
from lightning_interp.probing.sweep import Study, Task

Learning = Callable[[float, float], None]


class GraphStudy(Study):
    """One graph.

    Args:
        task: What to learn from; its grids lie on the images.
        options: How to learn.
        learning: Called with the work of the learning done, and in all.

    Attributes:
        graph: Once frozen, what was learnt; None if there was nothing to learn from.
        nothing: Why there was not.
    """

    def __init__(self, task: Task, options: GraphOptions, learning: Learning | None = None) -> None:
        super().__init__(task)
        self.options, self.learning = options, learning
        self.images: list[int] = []
        self.maps: dict[str, list[Tensor]] = {name: [] for name in task.infos}
        self.mirrored: dict[str, list[Tensor]] = {name: [] for name in task.infos}
        self.graph: PatternGraph | None = None
        self.nothing: ResponseError | None = None
        self.peaks: dict[str, Peaks] = {}

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Keep the maps."""
        self.images += batch.indices
        _keep(self.maps, maps)

    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Maps of the mirror images, where they are asked for; no layer is asked for twice."""
        if self.options.flips:
            self._mirror()
        return []

    def freeze(self) -> None:
        """Learn, then look where the patterns are; collective."""
        layers: list[LayerMaps] = []
        try:
            with torch.no_grad():
                found = self.task.ranks.together(lambda total: self._learn(layers, total))
        except ResponseError as error:
            # Others who share the sweep have something to show.
            self.nothing, self.maps, self.mirrored = error, {}, {}
            return
        assert self.graph is not None
        self.maps, self.mirrored = {}, {}
        parts = [part for part in found if len(part[0].images)]
        order = torch.cat([part[0].images for part in parts]).argsort(stable=True)
        self.graph = replace(self.graph, learnt_from=join([part[0] for part in parts]))
        for place, each in enumerate(layers):
            fields = zip(*(part[1][place] for part in parts), strict=True)
            self.peaks[each.layer] = Peaks(*(torch.cat(values)[order] for values in fields))

    def found(self) -> dict[str, Peaks]:
        """Peaks of all filters on the images that :attr:`graph` was learnt from, by layer.

        Raises:
            ResponseError: If a layer's responses say nothing.
        """
        if self.nothing is not None:
            raise self.nothing
        return self.peaks

    def _learn(self, layers: list[LayerMaps], total: Sum) -> tuple[Inference, list[Peaks]]:
        """The graph; where patterns and the filters' peaks are in this process's images, on the CPU."""
        for name, maps in self.maps.items():
            self._check(name, maps, self.mirrored[name])
        layers += [self._layer(name) for name in list(self.maps)]
        self.graph = learn_graph(layers, self.options, total=total, progress=self.learning)
        own = infer(self.graph, layers, torch.tensor(self.images, dtype=torch.int64))
        return own, [Peaks(*(values.cpu() for values in find_peaks(each.maps))) for each in layers]

    def _layer(self, name: str) -> LayerMaps:
        """The maps of all batches as one; taken out, so that they are held twice one layer at a time."""
        info = self.task.infos[name]
        none = torch.empty(0, info.units, info.height, info.width, device=self.task.device)
        mirrored = torch.cat([none, *self.mirrored.pop(name)]) if self.options.flips else None
        return LayerMaps(name, torch.cat([none, *self.maps.pop(name)]), mirrored, self.task.grids[name])

    def _mirror(self) -> None:
        task = self.task
        # These images have been read once: they cannot be left out now.
        strictly = replace(task.reading, on_bad_image="raise")
        batches = probe_batches(task.bank.encoder, self.images, strictly, known=task.bank)
        run(
            task.module,
            _flipped(batches),
            [_Keeper(self.mirrored)],
            layers=resolve_layers(task.module, list(self.maps)),
            normalize=task.probe.normalize,
            forward=task.forward,
        )

    def _check(self, name: str, maps: Sequence[Tensor], mirrored: Sequence[Tensor]) -> None:
        if not all(bool(each.isfinite().all()) for each in (*maps, *mirrored)):
            raise ResponseError(f"layer '{name}' gives NaN or infinite activations; its patterns cannot be learnt")
        if maps and all(bool((each > 0).all()) for each in maps):
            warnings.warn(
                f"layer '{name}' is above 0 everywhere, so its constant level counts as activation; name a layer "
                "before the activation function, or behind a ReLU",
                stacklevel=2,
            )


class _Keeper:
    """Keeps the maps of a sweep."""

    def __init__(self, into: Mapping[str, list[Tensor]]) -> None:
        self.into = into

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        _keep(self.into, maps)


def _keep(into: Mapping[str, list[Tensor]], maps: Mapping[str, Tensor]) -> None:
    for name, own in into.items():
        own.append(maps[name].clone())


def _flipped(batches: Iterable[ProbeBatch]) -> Iterator[ProbeBatch]:
    for batch in batches:
        yield replace(batch, images=batch.images.flip(3)) if batch.indices else batch
