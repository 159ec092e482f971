"""The one sweep: who gets which batches, what is read, and how it ends."""

import dataclasses

import pytest
import torch

from lightning_interp import DatasetError
from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.loading import Reading, check_least
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sweep import ProbeImages, Study, Task, sweep
from tests.helpers.models import small_cnn
from tests.helpers.parts import SpotProbe
from tests.helpers.probes import RandomProbe


def task_of(probe, layers, size=None):
    return Task(
        module=small_cnn(),
        forward=None,
        ranks=Ranks(),
        device=torch.device("cpu"),
        probe=probe,
        labels=LabelBank(LabelEncoder(probe, size or probe.mask_size), every_image_counts=True),
        infos={name: LayerInfo(name, 1, 1, 1) for name in layers},
        grids={},
        reading=Reading(byte_budget=100),
    )


class Noting(Study):
    """Notes its calls; wants the maps of some layers twice."""

    def __init__(self, probe, layers, again=(), size=None):
        super().__init__(task_of(probe, layers, size))
        self.again, self.calls = again, []
        self.bank = self.task.bank

    def start(self, num_images):
        self.calls.append(("start", num_images))
        for name in self.task.infos:
            self.sums.add(name, torch.zeros((), dtype=torch.float64))

    def update(self, batch, maps):
        assert all(index in self.bank for index in batch.indices)
        self.calls.append(("update", batch.indices))
        for name in self.task.infos:
            self.sums[name] += maps[name].double().sum()

    def settle(self, kept):
        super().settle(kept)
        self.calls.append(("settle", kept))

    def tally(self, batches):
        self.calls.append(("tally", list(batches)))
        return self.again

    def update_again(self, batch, maps):
        self.calls.append(("again", batch.indices, sorted(maps)))

    def freeze(self):
        super().freeze()
        self.calls.append(("freeze",))

    def found(self):
        return {name: self.totals[name] for name in self.task.infos}


def images_of(probe, indices=None, **reading):
    chosen = tuple(range(len(probe)) if indices is None else indices)
    return ProbeImages(probe, chosen, Reading(**{"batch_size": 3} | reading))


def run(probe, studies, **options):
    stop = options.pop("should_stop", None)
    return sweep(studies, images_of(probe, **options), small_cnn(), Ranks(), should_stop=stop)


def test_steps_in_order_and_a_second_pass_for_those_who_need_it():
    probe = RandomProbe(5)
    one, two = Noting(probe, ["1"]), Noting(probe, ["1", "3"], again=["3"])
    assert run(probe, [one, two]) == []
    batches = [[0, 1, 2], [3, 4]]
    steps = [("start", 5), *(("update", b) for b in batches), ("settle", [0, 1, 2, 3, 4]), ("tally", batches)]
    assert one.calls == [*steps, ("freeze",)]
    assert two.calls == [*steps, *(("again", b, ["3"]) for b in batches), ("freeze",)]
    assert one.found()["1"] == two.found()["1"] != 0
    assert one.kept == [0, 1, 2, 3, 4]


def test_labels_of_another_size_are_read_too():
    probe = RandomProbe(4)
    one, two = Noting(probe, ["1"]), Noting(probe, ["1"], size=(6, 6))
    run(probe, [one, two])
    assert [study.bank.batch([0]).map.shape for study in (one, two)] == [(1, 144), (1, 36)]
    alone = LabelBank(LabelEncoder(probe, (6, 6)), every_image_counts=True)
    alone.ensure([0, 3])
    assert torch.equal(two.bank.batch([0, 3]).map, alone.batch([0, 3]).map)


def test_images_that_cannot_be_read():
    probe = SpotProbe(4, broken=(1,))
    study = Noting(probe, ["1"])
    skipped = run(probe, [study], on_bad_image="skip")
    assert skipped == [(1, "DatasetError: photo_1.jpg: cannot be decoded")]
    assert ("settle", [0, 2, 3]) in study.calls
    with pytest.raises(DatasetError, match=r"photo_1\.jpg"):
        run(probe, [Noting(probe, ["1"])])
    none = SpotProbe(2, broken=(0, 1))
    with pytest.raises(DatasetError, match="no image of the probe set can be read; first: DatasetError: photo_0"):
        run(none, [Noting(none, ["1"])], on_bad_image="skip")


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_sweep_that_is_stopped_gives_nothing(after):
    probe, asked = RandomProbe(5), []
    study = Noting(probe, ["1"], again=["1"])
    assert run(probe, [study], should_stop=lambda: asked.append(1) or len(asked) > after) is None
    assert ("freeze",) not in study.calls


def test_same_images():
    probe = RandomProbe(5)
    own = images_of(probe)
    assert own.same(images_of(RandomProbe(5), num_workers=2))
    assert not own.same(images_of(RandomProbe(6), indices=tuple(range(5))))
    for change in ({"batch_size": 4}, {"indices": (0, 1)}, {"on_bad_image": "skip"}):
        assert not own.same(images_of(probe, **change)), change


class Looking(Study):
    """The smallest study."""

    def update(self, batch, maps):
        pass

    def found(self):
        return {name: self.kept for name in self.task.infos}


def test_the_smallest_study():
    probe = RandomProbe(4)
    study = Looking(task_of(probe, ["1", "3"]))
    assert run(probe, [study]) == []
    assert study.found() == {"1": [0, 1, 2, 3], "3": [0, 1, 2, 3]}
    assert study.totals == {}


def test_what_a_layer_may_keep_is_its_share():
    task = task_of(RandomProbe(1), ["1", "3", "4"])
    assert task.byte_budget == 33
    assert dataclasses.replace(task, infos={}).byte_budget == 100
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.device = torch.device("meta")


def test_numbers_below_their_minimum():
    check_least(one=(1, 1))
    with pytest.raises(ValueError, match="two must be at least 2, got 1"):
        check_least(one=(1, 1), two=(1, 2))
