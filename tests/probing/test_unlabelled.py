"""Labels are read for those who ask for them, and bad ones are skipped whoever knows the others already."""

import pytest
import torch

from lightning_interp.methods.dissection.engine import Dissector
from lightning_interp.probing.engine import SweepEngine, measure_together
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sweep import Study
from tests.helpers.models import small_cnn
from tests.helpers.probes import RandomProbe


class Counting(Study):
    """How many images there were."""

    def start(self, num_images):
        self.sums.add("images", torch.zeros((), dtype=torch.int64))

    def update(self, batch, maps):
        self.sums["images"] += len(batch.indices)

    def found(self):
        return {name: int(self.totals["images"]) for name in self.task.infos}


class Counter(SweepEngine):
    def study(self, task):
        return Counting(task)

    def result(self, study, **about):
        return study.found(), about["num_images"], about["settings"]["num_skipped"]


class Masked(RandomProbe):
    """Some masks cannot be read."""

    bad: tuple[int, ...] = ()

    def labels(self, index):
        if index in self.bad:
            raise OSError("mask missing")
        return super().labels(index)


def test_who_needs_no_labels_reads_none():
    probe = Masked(7)
    probe.bad = tuple(range(7))
    assert Counter(probe, ["1"], batch_size=3).once(small_cnn()) == ({"1": 7}, 7, 0)


def test_with_and_without_labels_do_not_share_what_is_skipped():
    probe = Masked(7)
    plain, labelled = Counter(probe, ["1"]), Dissector(probe, ["1"])
    assert not plain.images.same(labelled.images)
    assert plain.images.same(Counter(probe, ["1"]).images)


def test_a_mask_that_breaks_later_is_skipped_though_one_of_two_banks_knows_it():
    probe, net = Masked(8), small_cnn()
    engines = [Dissector(probe, ["1"], on_bad_image="skip", batch_size=3) for _ in range(2)]
    engines[0].once(net)
    probe.bad = (5,)
    with pytest.warns(UserWarning, match="left out: 1 of 8 images"):
        first, second = measure_together(engines, net, Ranks(), [{}, {}])
    assert first.num_images == second.num_images == 7
    for one, other in zip(first["1"].tallies.__dict__.values(), second["1"].tallies.__dict__.values(), strict=True):
        assert (one == other).all()
