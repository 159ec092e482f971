"""Explanatory graphs of networks on probe sets: parts that move, processes, bad input, and nothing left behind."""

import json
import pickle
import warnings
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import nn

from lightning_interp.errors import DatasetError, LayerError, ProbeError
from lightning_interp.methods.graph import study as graph_study
from lightning_interp.methods.graph.engine import GraphLearner, explanatory_graph, infer_images
from lightning_interp.methods.graph.maths import learn as learning
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.probing.ranks import Ranks
from tests.helpers.harmless import global_flags, module_state, random_state
from tests.helpers.parts import SpotProbe
from tests.helpers.probes import RandomProbe
from tests.helpers.ranks import run_ranks, values
from tests.methods.graph.maths.test_learn import assert_same

SMALL = {"patterns": 2, "parents": 3, "iterations": 6}


def network(out=nn.ReLU):
    """Two layers of different stride, "1" and "4", that see part of the image each."""
    torch.manual_seed(4)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3, stride=2), out()
    )
    return net.train()


def learn(probe=None, module=None, layers=("4", "1"), **options):
    return explanatory_graph(module or network(), probe or RandomProbe(12), layers, **(SMALL | options))


class Following(nn.Module):
    """Filter 0 follows the red spot, filter 1 the green one."""

    def forward(self, x):
        return x[:, :2]


def spots():
    return nn.Sequential(Following(), nn.AvgPool2d(2), nn.AvgPool2d(2))


def test_patterns_follow_the_spots_that_their_filters_follow():
    probe = SpotProbe(30)
    graph = explanatory_graph(spots(), probe, ["2", "1"], patterns=1, parents=1, background=0, deformation=None, pose=0)
    assert [len(layer) for layer in graph.layers] == [2, 2]
    assert graph.image_size == (16, 16)
    found = graph.learnt_from
    assert found.images.tolist() == list(range(30))
    for filter_, name in enumerate(("red", "green")):
        seen = [i for i in range(30) if name in probe.places(i)]
        places = torch.tensor([probe.places(i)[name] for i in seen]).double()
        # A filter of few units and one spot, which the pattern must take: half of a unit of two pixels away at most.
        assert (found["1"].point[seen, filter_] - places).abs().max() <= 0.5
        assert (found["2"].point[seen, filter_] - places).abs().max() <= 1.5
        assert (graph["1"].position[filter_] - places.mean(0)).abs().max() < 1
        assert graph["1"].parents[filter_].tolist() == [filter_]
    # An image without the green spot.
    assert found["1"].score[0, 1] == 0


@pytest.mark.parametrize("flips", [False, True])
def test_images_that_it_was_learnt_from_are_found_again(flips):
    module, probe = network(), RandomProbe(12)
    graph = learn(probe, module, flips=flips)
    again = graph.infer(probe, module)
    as_tensor = graph.infer(torch.stack([probe.image(i) for i in range(12)]), module)
    assert bool(graph.learnt_from.mirrored.any()) == flips
    for found in (again, as_tensor):
        assert torch.equal(found.mirrored, graph.learnt_from.mirrored)
        for name in graph.names:
            assert torch.equal(found[name].point, graph.learnt_from[name].point)
            torch.testing.assert_close(found[name].score, graph.learnt_from[name].score, rtol=1e-4, atol=1e-6)
    few = infer_images(graph, module, probe, indices=[7, 2])
    assert few.images.tolist() == [2, 7]
    assert torch.equal(few["1"].point, again["1"].point[[2, 7]])


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"num_workers": 1}])
def test_batches_and_workers_change_nothing(options):
    assert_same(learn(**options), learn())


def test_samples_categories_and_bad_images():
    assert learn(max_samples=5).learnt_from.images.tolist() == [0, 2, 4, 7, 9]
    several = SpotProbe(20, categories=2)
    graph = explanatory_graph(spots(), several, ["2", "1"], category=1, **(SMALL | {"patterns": 1}))
    assert graph.learnt_from.images.tolist() == list(range(1, 20, 2))
    assert graph.settings["category"] == 1
    fewer = explanatory_graph(spots(), several, ["2"], category=1, max_samples=5, **SMALL)
    assert fewer.learnt_from.images.tolist() == [1, 5, 9, 13, 17]
    learner = GraphLearner(SpotProbe(8, broken=(2, 5)), ["2"], GraphOptions(**SMALL), on_bad_image="skip")
    with pytest.warns(UserWarning, match="left out: 2 of 8 images of the probe set; the first, image 2: DatasetError"):
        skipped = learner(spots())
    assert skipped.learnt_from.images.tolist() == [0, 1, 3, 4, 6, 7]
    assert (skipped.settings["num_skipped"], skipped.settings["num_images"]) == (2, 6)


def test_the_module_and_chance_are_left_as_they_were():
    module = network()
    before = module_state(module), random_state(), global_flags()
    graph = learn(module=module, flips=True)
    infer_images(graph, module, RandomProbe(3))
    assert (module_state(module), random_state(), global_flags()) == before


def test_the_same_graph_again():
    assert_same(learn(), learn(), 0)
    double = learn(module=network().double())
    assert_same(double, learn(), 1e-4)


def test_progress_of_the_learning():
    seen = []
    learn(progress=lambda done, whole: seen.append(done / whole))
    assert len(seen) == 12
    assert seen[-1] == 1


class Wide(RandomProbe):
    """Images of 16 x 32 pixels with a spot in column 25 and row 4."""

    def image(self, index):
        image = torch.zeros(3, 16, 32)
        image[:, 4, 25] = 1
        return image


def test_images_need_not_be_square():
    graph = explanatory_graph(spots(), Wide(4), ["2", "1"], patterns=1, parents=1, pose=0, sigma=0.1, iterations=5)
    assert graph.image_size == (16, 32)
    # The middle of the units that hold the spot.
    assert (graph["1"].position - torch.tensor([24.5, 4.5])).abs().max() < 0.1
    assert (graph["2"].position - torch.tensor([25.5, 5.5])).abs().max() < 0.1
    assert graph.learnt_from["1"].point[0, 0].tolist() == [24.5, 4.5]


def test_as_many_numbers_of_patterns_as_layers():
    with pytest.raises(LayerError, match="patterns has 3 numbers for 2 layers"):
        explanatory_graph(spots(), Wide(4), ["2", "1"], patterns=[1, 1, 1])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["1", "4"], r"layers go from the top down, and '4' lies above '1'; give \['4', '1'\]"),
        (["4", "1", "4"], r"layers \['4', '1', '4'\] stand for 2 layers \(4, 1\); name each layer"),
        (["4", "7"], "unknown layer '7'"),
        ([], "no layer given"),
        ("4", r"write layers=\['4'\]"),
    ],
)
def test_layers_that_cannot_be(layers, message):
    with pytest.raises(LayerError, match=message):
        learn(layers=layers)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return self.left(x) + self.right(x)


def test_layers_side_by_side_are_refused():
    with pytest.raises(LayerError, match="'left' does not depend on 'right'"):
        learn(module=Branches(), layers=["left", "right"])


class Never(nn.Module):
    def forward(self, x):
        return -1 - torch.relu(x)


class Spoilt(nn.Module):
    """NaN on images that are brighter at one place than at another."""

    def forward(self, x):
        return torch.where((x[:, :1, 0, 0] > x[:, :1, 1, 1])[..., None, None], torch.nan, x)


class Half(nn.Module):
    """Filters 0 and 2 are dead."""

    def forward(self, x):
        return x.abs() * torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None]


def test_responses_that_say_nothing():
    with pytest.raises(LayerError, match="layer '4' has no filter whose response is ever above 0"):
        learn(module=network(Never))
    with pytest.raises(LayerError, match="layer '4' gives NaN or infinite activations"):
        learn(module=network(Spoilt))
    with pytest.warns(UserWarning, match="layer '4' is above 0 everywhere, so its constant level counts"):
        learn(module=network(nn.Sigmoid))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dead = learn(module=network(Half))
    assert sorted(set(dead["4"].filter.tolist())) == [1, 3]
    assert dead["4"].scale.isinf().tolist() == [True, False, True, False]


def test_maps_of_one_value_are_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 24), nn.ReLU())
    with pytest.raises(LayerError, match=r"layer '1' gives maps of one value.*choose an earlier layer"):
        learn(module=net, layers=["1"])


def test_too_few_images_and_too_little_memory():
    with pytest.raises(
        DatasetError, match="layer '4': 5 patterns a filter cannot be learnt from 4 images; give at lea"
    ):
        learn(RandomProbe(4), patterns=5)
    with pytest.raises(DatasetError, match="cannot be learnt from 1 images; give at least 2 images"):
        learn(RandomProbe(1), patterns=1)
    with pytest.raises(LayerError, match="layer '4': 26 patterns a filter, but its maps have 25 units"):
        learn(RandomProbe(30), patterns=26)
    # 12 images of 4 x 5 x 5 and 5 x 12 x 12 numbers.
    size = 12 * (4 * 25 + 5 * 144) * 4
    learn(byte_budget=size)
    for options in ({"byte_budget": size - 1}, {"byte_budget": size, "flips": True}):
        with pytest.raises(DatasetError, match="the maps of 12 images take"):
            learn(**options)


def test_categories_that_are_none():
    with pytest.raises(DatasetError, match="no image of SpotProbe is of category 5"):
        learn(SpotProbe(8, categories=2), category=5)
    with pytest.raises(DatasetError, match="unknown category 'bird'; SpotProbe has numbers only"):
        learn(SpotProbe(8), category="bird")
    named = SpotProbe(8, categories=2)
    named.classes = ("bird", "cat")
    with pytest.raises(DatasetError, match=r"unknown category 'brid'.*bird, cat"):
        learn(named, category="brid")


def test_options_out_of_range_are_named():
    with pytest.raises(ValueError, match="upsample must be one of receptive_field, cell; got 'nearest'"):
        learn(upsample="nearest")
    with pytest.raises(ValueError, match="tau must be at least 0"):
        learn(tau=-1)
    with pytest.raises(DatasetError, match="probe must be a ProbeSet"):
        learn([1, 2, 3])


def test_foreign_networks_and_images():
    module = network()
    graph = learn(module=module)
    with pytest.raises(LayerError, match="unknown layer"):
        infer_images(graph, nn.Sequential(nn.Conv2d(3, 4, 3)), RandomProbe(2))
    foreign = nn.Sequential(*module)
    foreign[3] = nn.Conv2d(5, 4, 3, stride=1)
    with pytest.raises(DatasetError, match=r"layer '4': maps .* of another network"):
        infer_images(graph, foreign, RandomProbe(2))
    # The second gives maps of the same shapes.
    height, width = graph.image_size
    for size in ((32, 32), (height, width - 1)):
        with pytest.raises(
            DatasetError, match=rf"images of {size[0]} x {size[1]} pixels, but .* from images of 24 x 2"
        ):
            infer_images(graph, module, torch.rand(2, 3, *size))
    with pytest.raises(DatasetError, match="layer '4' gives NaN or infinite activations"):
        infer_images(graph, module, torch.full((2, 3, height, width), torch.nan))
    with pytest.raises(DatasetError, match="no image to infer"):
        infer_images(graph, module, RandomProbe(2), indices=[])


@pytest.mark.parametrize("number", [0, -1])
def test_samples_below_one_are_refused(number):
    with pytest.raises(ValueError, match=f"max_samples must be at least 1, got {number}"):
        learn(max_samples=number)


def test_numbers_and_indices_of_numpy_and_torch(tmp_path):
    module, probe = network(), SpotProbe(8, categories=2)
    graph = learn(probe, module, category=np.int64(1), max_samples=np.int64(4), patterns=np.int64(2))
    assert graph.learnt_from.images.tolist() == [1, 3, 5, 7]
    assert json.loads(graph.save(tmp_path).read_text())["settings"]["category"] == 1
    for indices in (np.array([5, 2]), torch.tensor([5, 2])):
        assert graph.infer(probe, module, indices=indices).images.tolist() == [2, 5]


class NoneAtTheLeft(nn.Module):
    """Gives NaN where the left of the image is black."""

    def forward(self, x):
        return x.masked_fill((x[..., 0] == 0).all(), torch.nan)


class BlackAtTheRight(RandomProbe):
    def image(self, index):
        image = super().image(index).clone()
        image[..., -1] = 0
        return image


def test_a_mirror_image_that_gives_nan_is_told():
    module, probe = nn.Sequential(NoneAtTheLeft(), *network()), BlackAtTheRight(12)
    learn(probe, module, layers=("5", "2"), upsample="cell")
    with pytest.raises(LayerError, match="layer '5' gives NaN or infinite activations"):
        learn(probe, module, layers=("5", "2"), upsample="cell", flips=True)


def ranks_of(world):
    return Ranks.connect(timedelta(seconds=30)) if world > 1 else Ranks()


def on_rank(rank, world, images, flips):
    probe = RandomProbe(images)
    return GraphLearner(probe, ["4", "1"], GraphOptions(flips=flips, **SMALL), batch_size=4)(
        network(), ranks=ranks_of(world)
    )


@pytest.mark.ddp
@pytest.mark.timeout(90)
@pytest.mark.parametrize(("world", "images", "flips"), [(2, 13, True), (3, 2, False)])
def test_processes_learn_what_one_learns(world, images, flips):
    alone = on_rank(0, 1, images, flips)
    for graph in values(run_ranks(on_rank, world, images, flips, timeout=60)):
        assert_same(graph, alone)
        assert torch.equal(graph.learnt_from.images, torch.arange(images))
        assert torch.equal(graph.learnt_from.mirrored, alone.learnt_from.mirrored)
        for name in graph.names:
            assert torch.equal(graph.learnt_from[name].point, alone.learnt_from[name].point)


def failing(rank, world):
    """Of every kind of bad input the error: at once, in the maps of one process, in the sums of all."""
    ranks, errors = ranks_of(world), []
    for module, options in ((network(), {"patterns": 20}), (network(Spoilt), {}), (network(Never), {})):
        try:
            GraphLearner(RandomProbe(5), ["4"], GraphOptions(**(SMALL | options)))(module, ranks=ranks)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


class Heard(Ranks):
    """Keeps the errors that are told to the other processes."""

    def agree(self, error, note=None):
        told.append(error)
        return super().agree(error, note)


told = []


def test_what_fails_in_the_search_is_told_to_the_others(monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError("no room")

    told.clear()
    monkeypatch.setattr(graph_study, "infer", fails)
    learner = GraphLearner(RandomProbe(12), ["4", "1"], GraphOptions(**SMALL))
    with pytest.raises(MemoryError, match="no room"):
        learner(network(), ranks=Heard())
    assert [str(error) for error in told if error] == ["no room"]


@pytest.mark.ddp
@pytest.mark.timeout(90)
def test_every_process_gives_the_same_error():
    one, other = values(run_ranks(failing, 2, timeout=60))
    assert one == other
    assert len(one) == 3
    for text, wanted in zip(one, ("cannot be learnt from 5 images", "gives NaN", "has no filter whose"), strict=True):
        assert wanted in text


def running_out(rank, world, error):
    """The second process fails in the third iteration; what is told, and what a sound one then learns."""
    ranks, original, calls = ranks_of(world), learning.explain_all, []

    def fails(*args):
        calls.append(0)
        if rank == 1 and len(calls) == 3:
            raise error("no room")
        return original(*args)

    learning.explain_all = fails
    try:
        GraphLearner(RandomProbe(7), ["4"], GraphOptions(**SMALL))(network(), ranks=ranks)
    except ProbeError as error:
        told = str(error)
    return told, GraphLearner(RandomProbe(7), ["4"], GraphOptions(**SMALL))(network(), ranks=ranks)["4"].position


@pytest.mark.ddp
@pytest.mark.timeout(90)
@pytest.mark.parametrize("error", [MemoryError, ProbeError])
def test_a_process_that_fails_while_it_learns_does_not_keep_the_others_waiting(error):
    (one, found), (other, same) = values(run_ranks(running_out, 2, error, timeout=25))
    assert one == other == f"the probe failed; rank 1: {error.__name__}: no room"
    assert torch.equal(found, same)


class Stale(SpotProbe):
    """Its second process cannot read the labels of the first one's images."""

    rank = 0

    def labels(self, index):
        if self.rank == 1 and index == 0:
            raise OSError("stale file handle")
        return super().labels(index)


def judging(rank, world):
    probe = Stale(8)
    probe.rank = rank
    learner = GraphLearner(probe, ["4"], GraphOptions(**SMALL))
    try:
        learner(network(), ranks=ranks_of(world))
    except ProbeError as error:
        return str(error)


@pytest.mark.ddp
@pytest.mark.timeout(90)
def test_a_process_that_fails_to_judge_the_graph_tells_the_others():
    told = values(run_ranks(judging, 2, timeout=25))
    assert told == ["the probe failed; rank 1: OSError: stale file handle"] * 2


@pytest.mark.parametrize("number", [5, 6, 50])
def test_more_samples_than_images_are_all_images(number):
    learner = GraphLearner(RandomProbe(5), ["4"], GraphOptions(**SMALL), max_samples=number)
    assert learner.indices == [0, 1, 2, 3, 4]
    assert GraphLearner(RandomProbe(5), ["4"], GraphOptions(**SMALL), max_samples=2).indices == [0, 2]


def test_another_network_has_places_of_its_own():
    shifted = network()
    shifted[0].padding = (3, 3)
    learner = GraphLearner(RandomProbe(12), ["4", "1"], GraphOptions(**SMALL))
    learner(network())
    learner = pickle.loads(pickle.dumps(learner))
    assert_same(learner(shifted), GraphLearner(RandomProbe(12), ["4", "1"], GraphOptions(**SMALL))(shifted))


def test_what_lies_above_the_layers_need_not_bear_nan():
    class Checked(nn.Module):
        def forward(self, maps):
            assert maps.isfinite().all(), "diverged"
            return maps

    module = network()
    module.append(Checked())
    assert learn(RandomProbe(12), module).names == ("4", "1")
    with pytest.raises(LayerError, match="'4' lies above '1'"):
        learn(RandomProbe(12), module, layers=("1", "4"))
