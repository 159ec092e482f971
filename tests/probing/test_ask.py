"""Asking a network about images: a small engine whose every number has a closed form."""

import pickle
from dataclasses import dataclass
from datetime import timedelta

import pytest
import torch
from torch import nn

from lightning_interp.errors import DatasetError
from lightning_interp.probing.ask import AskEngine
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sums import Sums
from tests.helpers.harmless import module_state, random_state
from tests.helpers.probes import RandomProbe
from tests.helpers.ranks import run_ranks, values


class Pictures(RandomProbe):
    """Some images cannot be read; a process may be told to fail."""

    def __init__(self, num_images=11, broken=()):
        super().__init__(num_images)
        self.broken, self.read = set(broken), []

    def image(self, index):
        self.read.append(index)
        if index in self.broken:
            raise OSError(f"{index}.jpg is truncated")
        return super().image(index)


class Sum(nn.Module):
    """The sum of an image; notes the shapes that it sees."""

    def __init__(self):
        super().__init__()
        self.weight, self.shapes = nn.Parameter(torch.ones(())), []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return self.weight * x.sum((1, 2, 3))


@dataclass
class Answers:
    mean: float
    each: list
    shown: tuple
    num_images: int
    settings: dict
    seconds: float
    meta: dict


class MeanAnswer(AskEngine[Answers]):
    """The mean answer, every answer, and on rank zero the last three images."""

    def begin(self, ranks):
        sums = Sums(ranks)
        sums.add("answers", torch.zeros(1, dtype=torch.float64))
        sums.add("each", torch.empty(0, 2), by="rows")
        sums.shown = ()
        return sums

    def ask(self, view, sums):
        sums["answers"] += view.outputs.sum()
        sums.append("each", torch.stack([torch.tensor(view.indices), view.outputs], 1))

    def ask_aside(self, views, sums):
        sums.shown = tuple(index for view in views(self.chosen[-3:]) for index in view.indices)

    def result(self, sums, totals, **about):
        mean = float(totals["answers"]) / about["num_images"]
        return Answers(mean, totals["each"].tolist(), sums.shown, **about)


def measure(rank, world, probe, options, limit=None):
    ranks = Ranks.connect(timedelta(seconds=30)) if world > 1 else Ranks()
    engine = MeanAnswer(probe, **options)
    engine.limit = limit
    try:
        return engine(Sum(), ranks=ranks)
    finally:
        ranks.close()


def expected(indices):
    return torch.stack([RandomProbe().image(index).sum() for index in indices]).double()


def assert_answers(result, indices):
    assert [index for index, _ in result.each] == list(indices)
    assert [answer for _, answer in result.each] == pytest.approx(expected(indices).tolist(), rel=1e-6)
    assert result.mean == pytest.approx(float(expected(indices).mean()), rel=1e-6)
    assert result.num_images == len(indices)


@pytest.mark.ddp
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_any_split_gives_the_same(world, batch_size):
    args = Pictures(), {"batch_size": batch_size}
    results = values(run_ranks(measure, world, *args)) if world > 1 else [measure(0, 1, *args)]
    for result in results:
        assert_answers(result, range(11))
        assert (result.mean, result.each) == (results[0].mean, results[0].each)
    assert [result.shown for result in results] == [(8, 9, 10)] + [()] * (world - 1)


@pytest.mark.ddp
def test_more_processes_than_images():
    for result in values(run_ranks(measure, 3, Pictures(2), {})):
        assert_answers(result, range(2))


def test_every_batch_has_one_shape():
    net = Sum()
    MeanAnswer(Pictures(), batch_size=4).once(net)
    assert set(net.shapes) == {(4, 3, 24, 24)}


@pytest.mark.filterwarnings("ignore:left out")
def test_images_done_are_told():
    told = []
    MeanAnswer(Pictures(broken=[2]), batch_size=4, on_bad_image="skip").once(Sum(), progress=lambda *n: told.append(n))
    assert told == [(4, 11), (8, 11), (11, 11)]


def test_a_few_images_evenly_spaced():
    assert_answers(MeanAnswer(Pictures(), max_samples=4).once(Sum()), [0, 2, 5, 8])


def test_about_a_result():
    result = MeanAnswer(Pictures(), batch_size=4)(Sum(), meta={"epoch": 3})
    assert result.meta == {"epoch": 3}
    assert result.seconds > 0
    assert result.settings == {
        "probe": Pictures().fingerprint(), "probe_kind": "Pictures", "batch_size": 4, "num_skipped": 0
    }  # fmt: skip


# --- Trial runs and stopping -----------------------------------------------------------------------------------------


@pytest.mark.ddp
@pytest.mark.parametrize("world", [1, 2])
def test_a_trial_run_looks_at_one_batch(world):
    args = Pictures(), {"batch_size": 4}, 4
    for result in values(run_ranks(measure, world, *args)) if world > 1 else [measure(0, 1, *args)]:
        assert_answers(result, range(4))
    if world == 1:
        assert set(args[0].read) == set(range(4))


def stop_one(rank, world):
    ranks, told = Ranks.connect(timedelta(seconds=30)), iter([False, True, True])
    try:
        return MeanAnswer(Pictures(), batch_size=2)(Sum(), ranks=ranks, should_stop=lambda: rank == 1 and next(told))
    finally:
        ranks.close()


def test_told_to_stop_it_gives_nothing():
    told = iter([False, True])
    assert MeanAnswer(Pictures(), batch_size=4)(Sum(), should_stop=lambda: next(told)) is None


@pytest.mark.ddp
def test_one_process_stops_all():
    assert values(run_ranks(stop_one, 3)) == [None] * 3


# --- Images that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.ddp
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_and_told_once(workers):
    engine = MeanAnswer(Pictures(broken=[0, 1, 2, 7, 10]), batch_size=3, on_bad_image="skip", num_workers=workers)
    with pytest.warns(UserWarning, match=r"left out: 5 of 11 images of the probe set; the first, image 0: OSError: 0"):
        alone = engine.once(Sum())
    assert engine.once(Sum()).each == alone.each
    assert_answers(alone, [3, 4, 5, 6, 8, 9])
    assert alone.shown == (8, 9)
    assert alone.settings["num_skipped"] == 5
    if not workers:
        options = {"batch_size": 2, "on_bad_image": "skip"}
        for result in values(run_ranks(measure, 2, Pictures(broken=[0, 1, 2, 7, 10]), options)):
            assert_answers(result, [3, 4, 5, 6, 8, 9])
            assert result.settings["num_skipped"] == 5


def test_no_image_can_be_read():
    engine = MeanAnswer(Pictures(3, broken=range(3)), on_bad_image="skip")
    with pytest.raises(DatasetError, match="no image of the probe set can be read"):
        engine.once(Sum())


@pytest.mark.ddp
def test_an_error_on_one_process_reaches_all():
    # Image 5 is the third process's.
    outcomes = run_ranks(measure, 3, Pictures(broken=[5]), {"batch_size": 2})
    text = "ProbeError: the probe failed; rank 2: OSError: 5.jpg is truncated"
    assert {outcome.error for outcome in outcomes} == {text}
    with pytest.raises(OSError, match=r"5\.jpg"):
        measure(0, 1, Pictures(broken=[5]), {})


# --- The network, and what is told of it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [(lambda x: (x,), "gives a tuple; expected a tensor"), (lambda x: x.sum(), r"64 images give \(\), not one row")],
)
def test_output_that_does_not_fit_is_named_at_once(make, text):
    net = Sum()
    with pytest.raises(DatasetError, match=text):
        MeanAnswer(Pictures()).describe(net, make)


def test_another_network_is_described_anew():
    engine, one, other = MeanAnswer(Pictures(3)), Sum(), Sum()
    for net in (one, one, other):
        engine.once(net)
    # One image, then all and those that are shown.
    assert (len(one.shapes), len(other.shapes)) == (1 + 2, 1 + 1)
    assert engine.once(other).each == pickle.loads(pickle.dumps(engine)).once(other).each


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_network_and_random_state_are_as_they_were(mode):
    net = nn.Sequential(nn.BatchNorm2d(3), Sum())
    before = module_state(net), random_state()
    with mode():
        MeanAnswer(Pictures()).once(net)
    assert (module_state(net), random_state()) == before


def test_others_stand_beside_images_and_images_in_for_those_that_are_not_there():
    engine = MeanAnswer(Pictures(broken=[4]), on_bad_image="skip")
    own = torch.stack([engine.read(index) for index in (0, 1, 2)])
    view = engine.view(engine.network(Sum()), [0, 1, 2], own)
    images, known = view.others([7, -1, 4])
    assert known.tolist() == [True, False, False]
    assert torch.equal(images, torch.stack([engine.read(7), own[1], own[2]]))
    assert torch.equal(view.others([-1, -1, -1])[0], own)
    with pytest.raises(OSError, match=r"4\.jpg"):
        MeanAnswer(Pictures(broken=[4])).read(4)


def test_slopes_at_a_layer_are_those_of_the_images_alone():
    net = nn.Sequential(nn.Identity(), Sum())
    engine = MeanAnswer(Pictures(), batch_size=4)
    own = torch.stack([engine.read(index) for index in (0, 1, 2)])
    view = engine.view(engine.network(net), [0, 1, 2], own)
    found = view.gradients_at("0", lambda images: 2 * view.answer(images)[:, None])
    assert torch.equal(found.maps, own)
    assert torch.equal(found.slopes, torch.full((3, 1, 3, 24, 24), 2.0))
    assert torch.equal(view.tail("0", lambda outputs: outputs)(view.network.padded(own))[:3], view.outputs.float())
