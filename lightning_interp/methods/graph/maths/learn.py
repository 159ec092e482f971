"""Learning an explanatory graph, layer by layer from the top (Zhang et al., AAAI 2018, Algorithm 1)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.errors import DatasetError, ResponseError
from lightning_interp.methods.graph.maths.chunks import BYTE_BUDGET, explain_all
from lightning_interp.methods.graph.maths.edges import Above, choose_parents
from lightning_interp.methods.graph.maths.infer import LayerMaps, Posed, find_pose, locate
from lightning_interp.methods.graph.maths.layer import Nodes, units_of
from lightning_interp.methods.graph.maths.mixture import Moments, Patterns, moved, spread_about
from lightning_interp.methods.graph.maths.pose import Sum, first_pose, gains, pose_of, sways
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.patterns import PatternGraph, PatternLayer

# Poses and edges are learnt after so many iterations without; edges are chosen anew each time after so many more.
_SETTLED, _EVERY = 2, 5
# Times that the first guess of the pose and the displacements by it are fitted to one another.
_ROUNDS = 5


def learn_graph(
    layers: Sequence[LayerMaps],
    options: GraphOptions,
    *,
    total: Sum = lambda values: values,
    byte_budget: int = BYTE_BUDGET,
    progress: Callable[[float, float], None] | None = None,
) -> PatternGraph:
    """Learn the patterns and edges of some layers.

    Args:
        layers: The maps of this process's images, top layer first.
        options: How.
        total: Sum over the processes that share the images; what it returns must be the same on all of them.
        byte_budget: Bytes for intermediate values.
        progress: Called after each iteration with the work done and the work in all.

    Returns:
        The graph, without ``learnt_from``; ``meta["history"]`` has by layer the log-likelihood at each iteration, the
        priors of the pose included. It never falls while the edges are the same and there is no window.

    Raises:
        LayerError: If a layer has fewer units than patterns.
        ResponseError: If a layer has no active filter.
        DatasetError: If there are fewer images than patterns, or fewer than two.
    """
    first = layers[0]
    count = int(total(torch.tensor([float(len(first.maps))], dtype=torch.float64)))
    flip = torch.zeros(len(first.maps), dtype=torch.bool)
    found: list[PatternLayer] = []
    history: dict[str, list[float]] = {}
    above, scores = None, None
    work = [_work(own, options, place) * options.iterations for place, own in enumerate(layers)]
    for place, own in enumerate(layers):
        own = own.facing(flip) if place else own
        task = _Task(own, options, place, count, total, byte_budget)
        fit = _Fit(task, above, scores)
        for iteration in range(options.iterations):
            fit.step(iteration)
            if progress is not None:
                progress(sum(work[:place]) + work[place] * (iteration + 1) / options.iterations, sum(work))
        nodes = fit.nodes
        pose = None
        if not place:
            pose, flip = fit.facing()
            own = own.facing(flip)
        response = nodes.response(own.maps)
        patterns = nodes.expect(len(response), pose, above)
        seen = locate(nodes, patterns, response, own.grid, options, byte_budget)
        scores = total(seen.score.double().sum(0)) / count
        above = seen.above(nodes)
        # What was set is no longer that of patterns with parents.
        nodes = nodes._replace(width=patterns.width)
        found.append(nodes.result(own.layer, own.maps.shape[1], scores / scores.mean().clamp(min=1e-300), own.grid))
        history[own.layer] = fit.history
    size = first.grid.rows.size, first.grid.columns.size
    settings = {"options": options.as_dict(), "num_images": count}
    return PatternGraph(tuple(found), size, settings=settings, meta={"history": history})


def _work(layer: LayerMaps, options: GraphOptions, place: int) -> float:
    """What an iteration costs: multiplications of the E-step, but for a factor; with parents it is about twice that."""
    height, width = layer.maps.shape[2:]
    number = options.nodes(place, layer.layer, (height, width))
    filters = min(layer.maps.shape[1], options.filters or layer.maps.shape[1])
    return float(filters * number * height * width * (2 if place else 1))


class _Task(NamedTuple):
    """What to learn from."""

    layer: LayerMaps
    options: GraphOptions
    place: int
    num_images: int
    total: Sum
    byte_budget: int


class _Fit:
    """The patterns of one layer while they are learnt.

    With flips, an image and its mirror image are two rows of everything, whose weights sum to one.
    """

    def __init__(self, task: _Task, above: Above | None, scores: Tensor | None) -> None:
        self.task, self.above = task, above
        self.history: list[float] = []
        maps, options = task.layer.maps, task.options
        both = maps if task.layer.mirrored is None else torch.cat([maps, task.layer.mirrored])
        self.units = units_of(task.layer.grid, maps, options.window)
        self.nodes = _first_nodes(task)
        self.maps = self.nodes.response(both)
        self.paired = task.layer.mirrored is not None
        self.weight = torch.ones(len(both), dtype=torch.float64, device=maps.device)
        self.weight[len(maps) :] = 0
        self.pose: Tensor | None = None
        self.settled = min(_SETTLED, options.iterations - 1)
        self.candidates = torch.empty(0, dtype=torch.int64)
        if scores is not None:
            best = scores.argsort(descending=True, stable=True)[: options.candidates]
            self.candidates = best.sort().values

    def step(self, iteration: int) -> None:
        """One iteration of EM."""
        options = self.task.options
        patterns = self.nodes.expect(len(self.maps), self.pose, self.above)
        moments = explain_all(self.maps, patterns, self.units, options.tau, self.task.byte_budget)
        self._judge(moments)
        mass, first, second = (
            self.task.total(torch.einsum("n...,n->...", each.double(), self.weight)) for each in moments[:3]
        )
        position = moved(patterns, mass, first)
        least, most = options.spreads
        spread = spread_about(mass, first, second, least, most).to(position)
        step = position - patterns.position
        self.nodes = self.nodes._replace(position=position, spread=spread)
        if options.learn_width and self.above is None:
            self.nodes = self.nodes._replace(width=spread)
        if self.nodes.sway.shape[3] and iteration >= self.settled:
            self._sway(moments, patterns, step)
        elif self.above is not None and iteration >= self.settled and (iteration - self.settled) % _EVERY == 0:
            self._link(moments, patterns, step)

    def facing(self) -> tuple[Tensor, Tensor]:
        """At last: pose of each image ``(N, K)``, and whether it is that of the mirror image ``(N,)``, on the CPU."""
        found = find_pose(self.nodes, self.maps, self.units, self.task.options.tau, self.task.byte_budget)
        if not self.paired:
            return found.pose, torch.zeros(len(self.maps), dtype=torch.bool)
        straight, turned = (Posed(*each) for each in zip(*(values.chunk(2) for values in found), strict=True))
        flip = turned.likelihood > straight.likelihood
        return torch.where(flip[:, None], turned.pose, straight.pose), flip.cpu()

    def _judge(self, moments: Moments) -> None:
        """Note the likelihood; of an image and its mirror image, see how probable each is."""
        likelihood = moments.likelihood
        if self.pose is not None:
            likelihood = likelihood - self.pose.square().sum(1) / 2
        if self.paired:
            pairs = likelihood.view(2, -1)
            self.weight = pairs.softmax(0).flatten()
            likelihood = pairs.logsumexp(0)
        prior = float(self._penalty * self.nodes.sway.square().sum() / 2)
        self.history.append(float(self.task.total(likelihood.sum()[None])) - prior)

    @property
    def _penalty(self) -> float:
        return self.task.options.ridge / self.task.options.sigma**2

    def _about(self, moments: Moments, patterns: Patterns, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mass, first and second moments about the new mu alone, Delta not taken off."""
        shift = patterns.shift - step
        mass, first, second = moments[:3]
        moved_by = first + mass[..., None] * shift
        about = second + 2 * (first * shift).sum(3) + mass * shift.square().sum(3)
        return mass, moved_by, about

    def _sway(self, moments: Moments, patterns: Patterns, step: Tensor) -> None:
        """M-step of the pose."""
        mass, pull, _ = self._about(moments, patterns, step)
        if self.pose is None:
            self._guess(mass, pull)
        else:
            self.pose = pose_of(mass, pull, self.nodes.width, self.nodes.sway)
            self.nodes = self.nodes._replace(sway=self._sways(mass, pull, self.pose))

    def _guess(self, mass: Tensor, pull: Tensor) -> None:
        """A first pose, if with its priors it explains more than none does; else the next iteration tries again."""
        width, number = self.nodes.width, self.nodes.sway.shape[3]
        pose = first_pose(self.maps, self.weight, self.units, number, self.task.total)
        for _ in range(_ROUNDS):
            sway = self._sways(mass, pull, pose)
            pose = pose_of(mass, pull, width, sway)
        gained = self.task.total((gains(mass, pull, pose, width, sway) * self.weight).sum()[None])
        if float(gained) > float(self._penalty * sway.square().sum() / 2):
            self.pose, self.nodes = pose, self.nodes._replace(sway=sway)

    def _sways(self, mass: Tensor, pull: Tensor, pose: Tensor) -> Tensor:
        weights = self.weight[:, None, None]
        return sways(mass * weights, pull * weights[..., None], pose, self.nodes.width, self._penalty, self.task.total)

    def _link(self, moments: Moments, patterns: Patterns, step: Tensor) -> None:
        """Choose the edges anew."""
        assert self.above is not None
        mass, first, second = self._about(moments, patterns, step)
        parents = choose_parents(
            mass.flatten(1),
            first.flatten(1, 2),
            second.flatten(1),
            self.above,
            self.candidates,
            self.task.options.parents,
            self.task.total,
        )
        self.nodes = self.nodes._replace(parents=parents)


def _first_nodes(task: _Task) -> Nodes:
    """Patterns at different units of their filters, drawn by the mean response."""
    maps, options, name = task.layer.maps, task.options, task.layer.layer
    height, width = maps.shape[2:]
    number = options.nodes(task.place, name, (height, width))
    if task.num_images < max(number, 2):
        raise DatasetError(
            f"layer '{name}': {number} patterns a filter cannot be learnt from {task.num_images} images; give at least "
            f"{max(number, 2)} images or fewer patterns"
        )
    response = task.total(maps.clamp(min=0).sum(0, dtype=torch.float64))
    mean = response.sum((1, 2)) / task.num_images
    alive = mean.isfinite() & (mean > 0)
    if not alive.any():
        raise ResponseError(f"layer '{name}' has no filter whose response is ever above 0")
    order = torch.where(alive, mean, -torch.inf).argsort(descending=True, stable=True)
    chosen = order[: min(int(alive.sum()), options.filters or len(order))].sort().values
    # The number of the layer, so that two layers of equal shape do not start alike.
    generator = torch.Generator().manual_seed(options.seed + task.place)
    noise = torch.rand(response.shape, generator=generator, dtype=torch.float64).clamp(min=1e-300).to(response.device)
    share = (response / mean[:, None, None] + 1e-6)[chosen]
    # The largest of log p + Gumbel noise are a draw without replacement.
    cells = (share.log() - (-noise[chosen].log()).log()).flatten(1).topk(number, dim=1).indices
    units = units_of(task.layer.grid, maps, None)
    position = torch.stack([units.x[cells % width], units.y[cells // width]], 2)
    least, most = options.spreads if options.learn_width and not task.place else (0.0, float("inf"))
    spread = torch.full(cells.shape, min(max(options.sigma, least), most)).to(maps)
    # The first guess has two numbers a filter.
    pose = min(options.pose, 2 * len(chosen)) if not task.place else 0
    sway = torch.zeros(*cells.shape, 2, pose, dtype=torch.float64, device=maps.device)
    # One number for the layer: scaled by itself, a filter that hardly ever fires would have the highest scores, and its
    # chance positions as much of a say as any other's.
    scale = mean[chosen].mean().expand(len(chosen)).to(maps)
    return Nodes(chosen, scale, position, spread, spread, sway)
