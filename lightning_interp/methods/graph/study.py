"""One explanatory graph under way: the maps of this process's images, then learning and inference together."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_interp.data.loading import ProbeBatch, probe_batches
from lightning_interp.errors import ResponseError
from lightning_interp.functional.peaks import Peaks, find_peaks
from lightning_interp.methods.graph.maths.infer import LayerMaps, infer, join
from lightning_interp.methods.graph.maths.learn import learn_graph
from lightning_interp.methods.graph.maths.pose import Sum
from lightning_interp.methods.graph.result import GraphResult, Inference
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, run, statistics_device
from lightning_interp.probing.sweep import Study

if TYPE_CHECKING:
    from lightning_interp.methods.graph.engine import GraphLearner


class GraphStudy(Study):
    """One graph of a :class:`~lightning_interp.methods.graph.engine.GraphLearner`.

    Args:
        learner: Says what to learn.
        module: The network, unwrapped.
        ranks: The processes that share the images.
        forward: How to call the network on prepared images.
    """

    def __init__(self, learner: "GraphLearner", module: nn.Module, ranks: Ranks, forward: Forward | None) -> None:
        self.learner, self.module, self.ranks, self.forward = learner, module, ranks, forward
        self.bank, self.device = learner.bank, statistics_device(module)
        self.images: list[int] = []
        self.maps: dict[str, list[Tensor]] = {}
        self.mirrored: dict[str, list[Tensor]] = {}
        self.graph: GraphResult | None = None
        self.nothing: ResponseError | None = None
        self.peaks: dict[str, Peaks] = {}

    def begin(self, num_images: int) -> Sequence[str]:
        """Make room."""
        infos = self.learner.known(self.module, self.forward)
        self.maps = {name: [] for name in infos}
        self.mirrored = {name: [] for name in infos}
        return list(infos)

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Keep the maps."""
        self.images += batch.indices
        for name, own in self.maps.items():
            own.append(maps[name].clone())

    def settle(self, kept: Sequence[int]) -> None:
        """Nothing is to be agreed on before the learning."""

    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Maps of the mirror images, where they are asked for."""
        if self.learner.options.flips:
            self._mirror()
        return []

    def update_again(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """No layer is asked for twice."""

    def freeze(self) -> None:
        """Learn, then look where the patterns are; collective."""
        layers: list[LayerMaps] = []
        try:
            with torch.no_grad():
                found = self.ranks.together(lambda total: self._learn(layers, total))
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

    def finished(self, settings: Mapping[str, Any], seconds: float, meta: Mapping[str, Any]) -> GraphResult:
        """The graph, with what it depends on."""
        assert self.graph is not None
        return replace(
            self.graph,
            settings={**self.graph.settings, **settings},
            seconds=seconds,
            meta={**self.graph.meta, **meta},
        )

    def _learn(self, layers: list[LayerMaps], total: Sum) -> tuple[Inference, list[Peaks]]:
        """The graph; where patterns and the filters' peaks are in this process's images, on the CPU."""
        for name, maps in self.maps.items():
            self._check(name, maps, self.mirrored[name])
        layers += [self._layer(name) for name in list(self.maps)]
        self.graph = learn_graph(layers, self.learner.options, total=total, progress=self.learner.learning)
        own = infer(self.graph, layers, torch.tensor(self.images, dtype=torch.int64))
        return own, [Peaks(*(values.cpu() for values in find_peaks(each.maps))) for each in layers]

    def _layer(self, name: str) -> LayerMaps:
        """The maps of all batches as one; taken out, so that they are held twice one layer at a time."""
        info = self.learner.infos[name]
        none = torch.empty(0, info.units, info.height, info.width, device=self.device)
        mirrored = torch.cat([none, *self.mirrored.pop(name)]) if self.learner.options.flips else None
        return LayerMaps(name, torch.cat([none, *self.maps.pop(name)]), mirrored, self.learner.grids[name])

    def _mirror(self) -> None:
        batches = probe_batches(
            self.bank.encoder,
            self.images,
            batch_size=self.learner.batch_size,
            known=self.bank,
            num_workers=self.learner.num_workers,
            timeout=self.learner.loader_timeout,
        )
        run(
            self.module,
            _flipped(batches),
            [_Keeper(self.mirrored)],
            layers=resolve_layers(self.module, list(self.maps)),
            normalize=self.learner.probe.normalize,
            forward=self.forward,
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
        for name, own in self.into.items():
            own.append(maps[name].clone())


def _flipped(batches: Iterable[ProbeBatch]) -> Iterator[ProbeBatch]:
    for batch in batches:
        yield replace(batch, images=batch.images.flip(3)) if batch.indices else batch
