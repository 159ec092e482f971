"""The one sweep: who gets which batches, what is read, and how it ends."""

import dataclasses

import pytest
import torch

from lightning_interp import DatasetError
from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.probing.engine import check_least
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sweep import ProbeImages, Study, sweep
from tests.helpers.models import small_cnn
from tests.helpers.parts import SpotProbe
from tests.helpers.probes import RandomProbe


class Noting(Study):
    """Notes its calls; wants the maps of some layers twice."""

    def __init__(self, probe, layers, again=(), size=None):
        self.layers, self.again = layers, again
        self.bank = LabelBank(LabelEncoder(probe, size or probe.mask_size), every_image_counts=True)
        self.calls, self.sums = [], {}

    def begin(self, num_images):
        self.calls.append(("begin", num_images))
        return self.layers

    def update(self, batch, maps):
        assert all(index in self.bank for index in batch.indices)
        self.calls.append(("update", batch.indices))
        for name in self.layers:
            self.sums[name] = self.sums.get(name, 0) + maps[name].double().sum()

    def settle(self, kept):
        self.calls.append(("settle", kept))

    def tally(self, batches):
        self.calls.append(("tally", list(batches)))
        return self.again

    def update_again(self, batch, maps):
        self.calls.append(("again", batch.indices, sorted(maps)))

    def freeze(self):
        self.calls.append(("freeze",))


def images_of(probe, **options):
    defaults = {"batch_size": 3, "num_workers": 0, "on_bad_image": "raise", "loader_timeout": 9.0}
    return ProbeImages(**{"probe": probe, "indices": tuple(range(len(probe)))} | defaults | options)


def run(probe, studies, **options):
    stop = options.pop("should_stop", None)
    return sweep(studies, images_of(probe, **options), small_cnn(), Ranks(), should_stop=stop)


def test_steps_in_order_and_a_second_pass_for_those_who_need_it():
    probe = RandomProbe(5)
    one, two = Noting(probe, ["1"]), Noting(probe, ["1", "3"], again=["3"])
    assert run(probe, [one, two]) == []
    batches = [[0, 1, 2], [3, 4]]
    steps = [("begin", 5), *(("update", b) for b in batches), ("settle", [0, 1, 2, 3, 4]), ("tally", batches)]
    assert one.calls == [*steps, ("freeze",)]
    assert two.calls == [*steps, *(("again", b, ["3"]) for b in batches), ("freeze",)]
    assert one.sums["1"] == two.sums["1"]


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
        assert not own.same(dataclasses.replace(own, **change)), change


def test_numbers_below_their_minimum():
    check_least(one=(1, 1))
    with pytest.raises(ValueError, match="two must be at least 2, got 1"):
        check_least(one=(1, 1), two=(1, 2))
