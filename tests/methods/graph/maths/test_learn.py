"""Learning: likelihood, planted parts and poses, and what must not matter."""

import dataclasses
import itertools
import math

import pytest
import torch

from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.methods.graph.maths import learn as learning
from lightning_interp.methods.graph.maths.infer import infer
from lightning_interp.methods.graph.maths.learn import learn_graph
from lightning_interp.methods.graph.options import GraphOptions
from tests.helpers.graph_maps import LockStep, blobs, grid_of, layer, noise

TOP, LOW = grid_of(8, 10, 16), grid_of(16, 20, 8)
# Iterations after which edges are chosen anew.
LINKED = (2, 7, 12, 17)


def two_layers(images=12, dtype=torch.float32, seed=0):
    """Noise, and in the upper layer blobs that move together: images have a pose."""
    draw = torch.Generator().manual_seed(seed)
    step = 2 * torch.rand(images, 1, 1, 2, generator=draw, dtype=torch.float64) - 1
    places = torch.tensor([80.0, 64.0], dtype=torch.float64) + 40 * step.expand(-1, 5, -1, -1)
    return [
        layer("up", (noise(images, 5, 8, 10, seed) + 10 * blobs(places, TOP, 16)).to(dtype), TOP),
        layer("down", noise(images, 4, 16, 20, seed + 1, dtype), LOW),
    ]


def learn(layers, total=lambda values: values, byte_budget=2**24, progress=None, **options):
    options = {"patterns": 3, "parents": 4, "iterations": 8, "sigma": 0.15} | options
    return learn_graph(layers, GraphOptions(**options), total=total, byte_budget=byte_budget, progress=progress)


def assert_same(one, other, tolerance=1e-6):
    """Edges and filters equal, all numbers to the tolerance."""
    for a, b in zip(one.layers, other.layers, strict=True):
        for field in ("filter", "parents"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field
        for field in ("position", "width", "spread", "score", "weight", "scale"):
            torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=tolerance, atol=tolerance * 128)
        # A pose may come out with either sign.
        torch.testing.assert_close(a.sway.abs(), b.sway.abs(), rtol=tolerance, atol=tolerance * 128)


def falls(history):
    """The largest fall from one iteration to the next, relative to the value."""
    return max((a - b) / abs(a) for a, b in itertools.pairwise(history))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"learn_width": True}, {"tau": 2.0}, {"sigma": 0.08}, {"ridge": 300.0}])
@pytest.mark.parametrize("pose", [0, 1, 2])
def test_likelihood_never_falls_while_the_edges_are_fixed(dtype, options, pose):
    graph = learn(two_layers(dtype=dtype), iterations=20, pose=pose, **options)
    up, down = (graph.meta["history"][name] for name in ("up", "down"))
    assert len(up) == len(down) == 20
    assert falls(up) < 1e-6
    for first, last in itertools.pairwise((-1, *LINKED, 19)):
        assert falls(down[first + 1 : last + 1]) < 1e-6
    assert up[-1] > up[0]
    assert bool((graph["up"].sway.abs() > 1).any()) == (pose > 0 and options != {"ridge": 300.0})


@pytest.mark.parametrize(("sigma", "spreads"), [(0.01, (0.05, 0.5)), (0.4, (0.03, 0.2))])
def test_likelihood_never_falls_from_a_width_that_may_not_be_learnt(sigma, spreads):
    graph = learn(two_layers(), learn_width=True, sigma=sigma, spreads=spreads, pose=0)
    assert falls(graph.meta["history"]["up"]) < 1e-6


@pytest.mark.parametrize("learn_width", [False, True])
@pytest.mark.parametrize("pose", [0, 2])
def test_likelihood_never_falls_with_flips(pose, learn_width):
    maps = two_layers()[0].maps
    layers = [layer("up", maps, TOP, maps.flip(3))]
    history = learn(layers, iterations=20, flips=True, pose=pose, learn_width=learn_width).meta["history"]["up"]
    assert falls(history) < 1e-6
    assert history[-1] > history[0]


def spy(monkeypatch, name):
    """Calls of a function of the learning: arguments and result."""
    calls, original = [], getattr(learning, name)

    def spied(*args):
        calls.append((args, original(*args)))
        return calls[-1][1]

    monkeypatch.setattr(learning, name, spied)
    return calls


def shares(maps, patterns, units, tau):
    """``(N, C, P, h, w)``: what each pattern has of each unit's response."""
    centre = patterns.position + patterns.shift
    dx, dy = units.x - centre[..., :1], units.y - centre[..., 1:]
    variance = patterns.width.square()[..., None, None]
    density = (dy.square()[..., None] + dx.square()[..., None, :]) / (-2 * variance) + patterns.level[..., None, None]
    density = density.exp() / (2 * math.pi * variance)
    return maps[:, :, None] * density / (density.sum(2, keepdim=True) + tau)


def test_edges_are_chosen_by_where_the_units_are_about_the_new_positions(monkeypatch):
    steps, links = spy(monkeypatch, "explain_all"), spy(monkeypatch, "choose_parents")
    # The last edges are chosen after the last iteration.
    graph = learn(two_layers(dtype=torch.float64), iterations=8)
    maps, patterns, units, tau, _ = steps[-1][0]
    owned = shares(maps, patterns, units, tau)
    mu = (graph["down"].position / math.sqrt(128 * 160)).view(4, 3, 2)
    away = [own - mu[..., axis, None] for axis, own in enumerate((units.x, units.y))]
    first = torch.stack([(owned.sum(3) * away[0]).sum(3), (owned.sum(4) * away[1]).sum(3)], 3)
    second = (owned * (away[0].square()[:, :, None] + away[1].square()[..., None])).sum((3, 4))
    assert patterns.shift.abs().max() > 0.01
    for own, wanted in zip(links[-1][0][:3], (owned.sum((3, 4)), first, second), strict=True):
        torch.testing.assert_close(own.reshape(wanted.shape), wanted, rtol=1e-8, atol=1e-10)


def test_an_image_and_its_mirror_image_share_one_say(monkeypatch):
    steps, swayed = spy(monkeypatch, "explain_all"), spy(monkeypatch, "sways")
    maps = noise(12, 5, 8, 10)
    layers = [layer("up", maps, TOP, maps.flip(3))]
    history = learn(layers, iterations=3, flips=True).meta["history"]["up"]
    pairs = [found.likelihood.view(2, 12) for _, found in steps[:3]]
    assert history == pytest.approx([float(each.logsumexp(0).sum()) for each in pairs])
    wanted = steps[2][1].mass * pairs[2].softmax(0).flatten()[:, None, None]
    torch.testing.assert_close(swayed[0][0][0].double(), wanted.double())


def test_the_likelihood_includes_the_priors_of_pose_and_displacement(monkeypatch):
    steps, swayed = spy(monkeypatch, "explain_all"), spy(monkeypatch, "sways")
    history = learn(swaying(24)[0], patterns=1, ridge=3, sigma=0.2).meta["history"]["up"]
    (_, _, pose, *_), sway = swayed[-2]
    wanted = steps[-1][1].likelihood.sum() - pose.square().sum() / 2 - 3 / 0.2**2 * sway.square().sum() / 2
    assert history[-1] == pytest.approx(float(wanted))
    assert 3 / 0.2**2 * sway.square().sum() > 0.1


def test_the_layer_below_learns_from_the_images_as_they_were_turned():
    turned = torch.arange(10) % 3 == 1
    layers = []
    for name, grid in (("up", TOP), ("down", LOW)):
        places = torch.tensor([[[30.0, 40.0]], [[50.0, 90.0]]]).expand(10, 2, 1, 2).double()
        straight = blobs(places, grid, 8)
        maps = torch.where(turned[:, None, None, None], straight.flip(3), straight)
        layers.append(layer(name, maps, grid, maps.flip(3)))
    options = {"patterns": 1, "parents": 1, "flips": True, "pose": 0, "sigma": 0.15, "iterations": 20}
    # Without a background patterns go to where their filters fire.
    graph = learn(layers, background=0, deformation=None, **options)
    found = infer(graph, layers, torch.arange(10))
    assert torch.equal(found.mirrored, turned) or torch.equal(found.mirrored, ~turned)
    for own in graph.layers:
        # Within a unit of the top layer.
        assert (found[own.layer].point - own.position).abs().max() < 16


def parts(images=24, together=True, seed=0):
    """Two groups of parts that move each by a step of its own; with ``together`` false every part does.

    The top layer has six filters of one part, three of each group; the layer below two filters of two parts, one of
    each group. Returns the layers, the mean places ``(parts, 2)`` of the latter, and the steps ``(N, 2, 2)``.
    """
    draw = torch.Generator().manual_seed(seed)
    steps = (torch.rand(images, 10, 2, generator=draw, dtype=torch.float64) - 0.5) * 32
    group = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1, 0, 1])
    if together:
        steps = steps[:, group]
    # The mean place is that of the base.
    steps = steps - steps.mean(0)
    base = torch.tensor(
        [[40, 30], [60, 40], [30, 60], [120, 90], [100, 100], [130, 70], [45, 45], [115, 85], [35, 90], [125, 40]]
    )
    places = base + steps
    layers = [
        layer("up", blobs(places[:, :6, None], TOP, 8), TOP),
        layer("down", blobs(places[:, 6:].unflatten(1, (2, 2)), LOW, 5), LOW),
    ]
    return layers, base[6:].double(), steps


def matched(down, base):
    """For each planted part, its filter's nearest pattern: row and distance in pixels."""
    rows = []
    for part, place in enumerate(base):
        own = (down.filter == part // 2).nonzero().flatten()
        away = (down.position[own] - place).norm(dim=1)
        rows.append((int(own[away.argmin()]), float(away.min())))
    return rows


def shares_of_edges(graph, base):
    """For each planted part, what share of its edges comes from parts of its own group."""
    up, down = graph.layers
    shares = []
    for part, (row, _) in enumerate(matched(down, base)):
        parents = up.filter[down.parents[row]]
        shares.append(float(((parents >= 3) == bool(part % 2)).double().mean()))
    return shares


def followed(graph, layers, base, steps):
    """For each planted part, how much of its steps its pattern is expected to make: the correlation, along x."""
    expected = infer(graph, layers, torch.arange(len(steps)))["down"].expected.double()
    rows = [row for row, _ in matched(graph["down"], base)]
    pairs = (torch.stack([expected[:, row, 0], steps[:, 6 + part, 0]]) for part, row in enumerate(rows))
    return [abs(float(torch.corrcoef(pair)[0, 1])) for pair in pairs]


PLANTED = {"patterns": [1, 2], "parents": 3, "sigma": 0.15, "pose": 0, "iterations": 20}


def test_planted_parts_that_move_together_are_found_with_their_parents():
    layers, base, steps = parts()
    graph = learn(layers, **PLANTED)
    rows = matched(graph["down"], base)
    assert len({row for row, _ in rows}) == 4
    # Half a unit.
    assert max(away for _, away in rows) < 4
    assert shares_of_edges(graph, base) == [1, 1, 1, 1]
    assert min(followed(graph, layers, base, steps)) > 0.85
    found = infer(graph, layers, torch.arange(24))["down"]
    for part, (row, _) in enumerate(rows):
        assert (found.point[:, row] - (base[part] + steps[:, 6 + part])).norm(dim=1).mean() < 4


def test_parts_that_move_by_themselves_have_no_parents_of_their_own():
    layers, base, steps = parts(together=False)
    graph = learn(layers, **PLANTED)
    assert sum(shares_of_edges(graph, base)) / 4 < 0.7
    assert sum(followed(graph, layers, base, steps)) / 4 < 0.45


def swaying(reach, images=30):
    """Four parts that move together along (2, 1), by ``reach`` pixels at most; maps and how far."""
    amount = torch.linspace(-1, 1, images, dtype=torch.float64)
    amount = amount[torch.randperm(images, generator=torch.Generator().manual_seed(3))]
    base = torch.tensor([[50, 40], [100, 40], [50, 90], [110, 90]], dtype=torch.float64)
    places = base + amount[:, None, None] * torch.tensor([reach, reach / 2])
    return [layer("up", blobs(places[:, :, None], LOW, 6), LOW)], amount


def test_a_planted_pose_is_found():
    layers, amount = swaying(24)
    graph = learn(layers, patterns=1, pose=1, sigma=0.15, iterations=20)
    expected = infer(graph, layers, torch.arange(30))["up"].expected.double()
    about = expected - expected.mean(0)
    for v, axis in itertools.product(range(4), (0, 1)):
        assert torch.corrcoef(torch.stack([about[:, v, axis], amount]))[0, 1] > 0.98
        slope = (about[:, v, axis] * amount).sum() / amount.square().sum()
        # As far as the parts move, but for what the ridge takes off.
        assert 0.8 < slope / (24, 12)[axis] < 1.05
    history = graph.meta["history"]["up"]
    assert falls(history) < 1e-6
    still = learn(layers, patterns=1, pose=0, sigma=0.15, iterations=20)
    assert history[-1] > still.meta["history"]["up"][-1]


def test_where_nothing_moves_no_pose_moves_it():
    layers, _ = swaying(0)
    maps = layers[0].maps * (1 + 0.2 * noise(30, 4, 1, 1))
    graph = learn([layers[0]._replace(maps=maps)], patterns=1, pose=1, sigma=0.15, iterations=20)
    assert graph["up"].sway.abs().max() == 0


def test_a_background_that_explains_all_freezes_the_patterns():
    first = learn(two_layers(), tau=1e30, iterations=1, pose=0)
    last = learn(two_layers(), tau=1e30, iterations=10, pose=0)
    freed = learn(two_layers(), iterations=10, pose=0)
    for name in ("up", "down"):
        assert torch.equal(first[name].position, last[name].position)
        assert not torch.equal(first[name].position, freed[name].position)


@pytest.mark.parametrize("budget", [20_000, 2**30])
def test_the_size_of_pieces_does_not_matter(budget):
    assert_same(learn(two_layers(), byte_budget=budget), learn(two_layers()))


def test_the_order_of_images_does_not_matter():
    layers, order = two_layers(), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = [each._replace(maps=each.maps[order]) for each in layers]
    assert_same(learn(shuffled), learn(layers))


@pytest.mark.parametrize("shards", [(8, 4), (7, 0, 5)])
@pytest.mark.parametrize("flips", [False, True])
def test_the_number_of_ranks_does_not_matter(shards, flips):
    layers = two_layers()
    if flips:
        layers = [each._replace(mirrored=each.maps.flip(3)) for each in layers]
    starts = list(itertools.accumulate(shards, initial=0))

    def on_rank(rank, total):
        rows = slice(starts[rank], starts[rank + 1])
        own = [each._replace(maps=each.maps[rows], mirrored=each.mirrored[rows] if flips else None) for each in layers]
        return learn(own, total=total, flips=flips)

    alone, found = learn(layers, flips=flips), LockStep(len(shards)).run(on_rank)
    for graph in found:
        assert_same(graph, alone)
        for own, other in zip(graph.layers, found[0].layers, strict=True):
            assert torch.equal(own.position, other.position)
        torch.testing.assert_close(
            torch.tensor(graph.meta["history"]["down"]), torch.tensor(alone.meta["history"]["down"]), rtol=1e-6, atol=0
        )


def test_float32_is_float64_but_for_rounding():
    one, other = (learn(two_layers(dtype=dtype)) for dtype in (torch.float32, torch.float64))
    assert_same(one, other, 1e-4)


def test_the_seed_is_all_that_chance_depends_on():
    state = torch.random.get_rng_state()
    one, again, other = (learn(two_layers(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same(one, again, 0)
    assert not torch.allclose(one["up"].position, other["up"].position, atol=1)


def test_images_need_not_be_square():
    """Positions are in pixels along both axes, wherever the map's values lie."""
    for height, width in ((6, 18), (18, 6)):
        grid = grid_of(height, width, 8)
        place = torch.tensor([width * 2.0, height * 6.0], dtype=torch.float64)
        maps = blobs(place.expand(4, 2, 1, 2), grid, 6)
        graph = learn([layer("up", maps, grid)], patterns=1, pose=0, sigma=0.1)
        assert graph.image_size == (height * 8, width * 8)
        assert (graph["up"].position - place).abs().max() < 1
        found = infer(graph, [layer("up", maps, grid)], torch.arange(4))["up"]
        assert ((found.point - place).abs() <= 4).all()


def test_dead_filters_and_those_with_nan_have_no_pattern():
    layers = two_layers()
    layers[0].maps[:, 1] = -1
    layers[0].maps[:, 3] = 0
    layers[0].maps[5, 2, 0, 0] = torch.nan
    up = learn(layers)["up"]
    assert sorted(set(up.filter.tolist())) == [0, 4]
    assert up.scale.isinf().tolist() == [False, True, True, True, False]
    assert up.position.isfinite().all()


def test_the_most_active_filters_are_taken():
    layers = two_layers()
    layers[0].maps[:, [1, 4]] *= 5
    assert sorted(set(learn(layers, filters=2)["up"].filter.tolist())) == [1, 4]


def test_patterns_of_a_filter_start_apart():
    up = learn(two_layers(), patterns=12, iterations=1, tau=1e30, pose=0)["up"]
    places = {
        (own, *place) for own, place in zip(up.filter.tolist(), up.position.round(decimals=3).tolist(), strict=True)
    }
    assert len(places) == len(up) == 60


def test_a_layer_that_is_never_active_is_refused():
    layers = two_layers()
    layers[1].maps.clamp_(max=0)
    with pytest.raises(LayerError, match="layer 'down' has no filter whose response is ever above 0"):
        learn(layers)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_too_few_images_are_refused(images):
    layers = [each._replace(maps=each.maps[:images]) for each in two_layers()]
    with pytest.raises(DatasetError, match=f"layer 'up': 3 patterns a filter cannot be learnt from {images} images"):
        learn(layers)


def test_one_image_is_too_few_for_one_pattern():
    layers = [each._replace(maps=each.maps[:1]) for each in two_layers()]
    with pytest.raises(DatasetError, match="give at least 2 images"):
        learn(layers, patterns=1)


def test_progress_rises_to_all_of_the_work():
    seen = []
    learn(two_layers(), iterations=3, progress=lambda done, whole: seen.append(done / whole))
    assert len(seen) == 6
    assert seen == sorted(set(seen))
    assert seen[-1] == 1


@pytest.mark.parametrize("iterations", [1, 2])
def test_few_iterations_have_edges_and_poses_too(iterations):
    graph = learn(two_layers(), iterations=iterations)
    assert graph["down"].parents.shape == (12, 4)
    assert graph["up"].sway.abs().max() > 0


def test_a_pose_has_no_more_numbers_than_the_filters_can_tell():
    graph = learn(two_layers(), filters=1, pose=5)
    assert graph["up"].sway.shape == (3, 2, 2)
    assert infer(graph, two_layers(), torch.arange(12))["up"].expected.isfinite().all()


def test_a_result_says_what_it_was_made_with():
    graph = learn(two_layers(), tau=0.3, sigma=0.3)
    assert graph.settings["num_images"] == 12
    assert graph.settings["options"]["tau"] == 0.3
    assert graph["down"].parents.shape == graph["down"].weight.shape == (12, 4)
    torch.testing.assert_close(graph["down"].weight.sum(1), torch.ones(12, dtype=torch.float64))
    assert graph["up"].parents.shape == (15, 0)
    assert all(each.score.mean().item() == pytest.approx(1) for each in graph.layers)
    # The image's side is sqrt(128 * 160); widths are pixels.
    assert graph["up"].width.tolist() == pytest.approx([0.3 * math.sqrt(128 * 160)] * 15)
    assert dataclasses.replace(graph).names == ("up", "down")


def test_patterns_that_nothing_is_near_have_no_score():
    graph = learn(two_layers(), deformation=1e-4, background=0.0)
    assert [layer.score.isfinite().all().item() for layer in graph.layers] == [True, True]
    assert graph["down"].score.tolist() == [0.0] * len(graph["down"])


def test_the_width_of_patterns_with_parents_is_that_of_what_these_say():
    graph = learn(two_layers(), sigma=0.3)
    up, down = graph.layers
    assert up.width.tolist() == pytest.approx([0.3 * math.sqrt(128 * 160)] * len(up), rel=1e-6)
    variance = 1 / up.spread[down.parents].square().reciprocal().mean(1)
    torch.testing.assert_close(down.width, variance.sqrt(), rtol=1e-5, atol=0)
    assert down.width.std() > 0.1


def test_what_no_pattern_explains_without_a_background_is_no_number_out_of_range():
    maps = noise(12, 5, 8, 10)
    graph = learn([layer("up", maps, TOP, maps.flip(3))], flips=True, tau=0, sigma=0.01)
    assert all(math.isfinite(value) for value in graph.meta["history"]["up"])
    assert graph["up"].position.isfinite().all()
