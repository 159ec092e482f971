"""The same integers on 1, 2, 3 and 4 real processes, and over batches, orders, budgets and bad images."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
import warnings
from datetime import timedelta

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from lightning_interp import DatasetError, ProbeError
from lightning_interp.data.loading import ShardSampler
from lightning_interp.methods.dissection.engine import Dissector
from lightning_interp.probing.ranks import Ranks
from tests.helpers.models import small_cnn
from tests.helpers.probes import RandomProbe
from tests.helpers.ranks import run_ranks, values
from tests.helpers.results import assert_same_counts

WORLDS = (2, 3, 4)
# What two processes say of, more say no more of.
OF_TWO = ("upsampled", "upsampled, second pass", "batches of 8", "loader process", "NaN and infinity, second pass")
LAYERS = ["1", "2"]


class Breaking(nn.Module):
    """On some images gives NaN in unit 1, infinities in units 2 and 3; unit 4 is constant, unit 5 dead."""

    def forward(self, x):
        x = x.clone()
        some = x[:, 0, 0, 0] > x[:, 0, 3, 3]
        x[some, 1, 2] = torch.nan
        x[some, 2, 1, 1] = torch.inf
        x[~some, 3] = -torch.inf
        x[:, 4], x[:, 5] = 0.7, 0.0
        return x


class BrokenFiles(RandomProbe):
    """A probe set some of whose images cannot be read."""

    def __init__(self, num_images, broken):
        super().__init__(num_images)
        self.broken = broken

    def image(self, index):
        if index in self.broken:
            raise DatasetError(f"photo_{index}.jpg: cannot be decoded")
        return super().image(index)


class Permuted(RandomProbe):
    def __init__(self, order):
        super().__init__(len(order))
        self.order = order

    def image(self, index):
        return super().image(self.order[index])

    def labels(self, index):
        return super().labels(self.order[index])


def make_model(broken=False):
    model = small_cnn(units=8)
    return nn.Sequential(model[:1], Breaking(), model[2]) if broken else model


# Everything that a process may do differently: how much it holds, in which batches it reads, what it meets.
CASES = {
    "37 images": {"images": 37},
    "3 images": {"images": 3},
    "1 image": {"images": 1},
    "second pass": {"images": 37, "byte_budget": 0},
    "upsampled": {"images": 37, "quantile_on": "upsampled"},
    "upsampled, second pass": {"images": 37, "quantile_on": "upsampled", "byte_budget": 0},
    "pnas2020, 3 images": {"images": 3, "preset": "pnas2020", "byte_budget": 0},
    "batches of 8": {"images": 37, "batch_size": 8},
    "loader process": {"images": 13, "num_workers": 1},
    # Only the layer that breaks: the next one mixes its units.
    "NaN and infinity": {"images": 37, "broken_units": True, "layers": ["1"]},
    "NaN and infinity, second pass": {"images": 37, "broken_units": True, "layers": ["1"], "byte_budget": 0},
    "bad images": {"images": 37, "bad": (4, 10, 16, 34), "on_bad_image": "skip"},
    "first image bad": {"images": 3, "bad": (0,), "on_bad_image": "skip"},
    "sample": {"images": 37, "max_samples": 10},
}


def dissect_case(name, ranks=None):
    options = {"batch_size": 5, "layers": LAYERS} | CASES[name]
    probe = BrokenFiles(options.pop("images"), options.pop("bad", ()))
    model = make_model(options.pop("broken_units", False))
    layers = options.pop("layers")
    return Dissector(probe, layers, quantile=0.03, top_k=4, **options)(model, ranks=ranks)


def dissect_all(rank, world):
    ranks = Ranks.connect(timedelta(seconds=20))
    try:
        return {name: dissect_case(name, ranks) for name in CASES if world == 2 or name not in OF_TWO}
    finally:
        ranks.close()


@pytest.fixture(scope="module")
def on_ranks():
    return {world: values(run_ranks(dissect_all, world, timeout=100)) for world in WORLDS}


@pytest.fixture(scope="module")
def alone():
    with warnings.catch_warnings():
        # Some cases rightly warn of what they are about.
        warnings.filterwarnings("ignore", "(layer '1': 3 of 8 units gave NaN|left out: )", UserWarning)
        return {name: dissect_case(name) for name in CASES}


def assert_identical(result, other):
    assert_same_counts(result, other)
    for name, layer in result.layers.items():
        assert layer.status == other[name].status
        assert np.array_equal(layer.nonfinite, other[name].nonfinite)
    assert {**result.scalars(), "seconds": 0} == {**other.scalars(), "seconds": 0}
    assert result.settings == other.settings


@pytest.mark.ddp
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("case", "world"), [(case, world) for case in CASES for world in WORLDS if world == 2 or case not in OF_TWO]
)
def test_every_process_has_what_one_alone_has(on_ranks, alone, case, world):
    assert len(on_ranks[world]) == world
    for result in on_ranks[world]:
        assert_identical(result[case], alone[case])


def test_the_cases_are_what_they_say(alone):
    """Equality of empty things would prove nothing."""
    assert {name: alone[name].num_images for name in ("37 images", "3 images", "1 image", "sample")} == {
        "37 images": 37,
        "3 images": 3,
        "1 image": 1,
        "sample": 10,
    }
    for name, result in alone.items():
        assert all(layer.tallies.intersection.sum() > 0 for layer in result.layers.values()), name
        by_chance = [layer.chance.intersection.sum() for layer in result.layers.values()]
        assert min(by_chance) > 0 or result.num_images == 1, name
    broken = alone["NaN and infinity"]["1"]
    assert broken.status == ("ok", *["non-finite"] * 3, "constant", "constant", "ok", "ok")
    assert (broken.nonfinite[1:4] > 0).all()
    assert np.isnan(broken.thresholds[1:4]).all()
    bad = alone["bad images"]
    assert (bad.num_images, bad.settings["num_skipped"]) == (33, 4)
    # On two processes all bad images are the first one's.
    assert not set(CASES["bad images"]["bad"]) - set(ShardSampler(range(37), 0, 2))


def test_neither_budget_nor_loader_process_nor_batches_change_a_count(alone):
    assert_same_counts(alone["second pass"], alone["37 images"])
    assert_same_counts(alone["upsampled, second pass"], alone["upsampled"])
    assert_same_counts(alone["NaN and infinity, second pass"], alone["NaN and infinity"])
    assert_same_counts(alone["batches of 8"], alone["37 images"])


class Quantized(RandomProbe):
    """Images in steps of 1/256."""

    def image(self, index):
        return (super().image(index) * 256).round() / 256


def make_exact_model():
    """Weights in steps of 1/16: no sum is ever rounded, whichever way a convolution takes for a size of batch."""
    model = make_model()
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_((weights * 16).round() / 16)
    return model


@pytest.mark.parametrize("budget", [2**30, 0])
@pytest.mark.parametrize("batch_size", [1, 3, 37, 64])
def test_batch_size_changes_no_count(batch_size, budget):
    def dissect(size, budget=2**30):
        dissector = Dissector(Quantized(37), LAYERS, quantile=0.03, batch_size=size, byte_budget=budget)
        return dissector(make_exact_model())

    assert_same_counts(dissect(batch_size, budget), dissect(5))


def test_order_of_images_changes_no_count():
    options = {"quantile": 0.03, "batch_size": 5}
    order = torch.randperm(37, generator=torch.Generator().manual_seed(3)).tolist()
    straight = Dissector(RandomProbe(37), LAYERS, **options)(make_model())
    mixed = Dissector(Permuted(order), LAYERS, **options)(make_model())
    for name, layer in straight.layers.items():
        other = mixed[name]
        assert np.array_equal(layer.thresholds, other.thresholds)
        for field in dataclasses.fields(layer.tallies):
            assert np.array_equal(getattr(layer.tallies, field.name), getattr(other.tallies, field.name))
        assert np.array_equal(layer.top.score, other.top.score)
        assert np.array_equal(layer.top.index, np.array(order)[other.top.index])
        # Images are re-paired by their order, so that chance is another draw.
        assert not np.array_equal(layer.chance.intersection, other.chance.intersection)


# --- Faults of one process among several -----------------------------------------------------------------------------


class Trap(RandomProbe):
    """Does something drastic at one image."""

    def __init__(self, num_images, index, fault):
        super().__init__(num_images)
        self.index, self.fault = index, fault

    def image(self, index):
        if index == self.index:
            self.fault()
        return super().image(index)


def corrupt():
    raise DatasetError("photo_5.jpg: cannot be decoded")


def bug():
    raise ZeroDivisionError("a bug in the user's probe set")


def interrupt():
    raise KeyboardInterrupt


def stop_for_ever():
    os.kill(os.getpid(), signal.SIGSTOP)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dissect_trap(rank, world, fault, options, timeout=4.0):
    probe = Trap(12, 5, fault)
    ranks = Ranks.connect(timedelta(seconds=timeout))
    dissector = Dissector(probe, LAYERS, batch_size=2, **options)
    dissector(make_model(), ranks=ranks)


@pytest.mark.ddp
@pytest.mark.timeout(60)
@pytest.mark.parametrize("options", [{}, {"num_workers": 1}])
@pytest.mark.parametrize(
    ("fault", "text"), [(corrupt, "DatasetError: "), (bug, "ZeroDivisionError: ")], ids=["corrupt", "bug"]
)
def test_all_processes_raise_what_one_met(fault, text, options):
    outcomes = run_ranks(dissect_trap, 2, fault, options, timeout=30)
    errors = {outcome.error for outcome in outcomes}
    assert len(errors) == 1
    (error,) = errors
    assert error.startswith(f"ProbeError: the probe failed; rank 1: {text}")
    assert {corrupt: "photo_5.jpg: cannot be decoded", bug: "a bug in the user's probe set"}[fault] in error
    assert "rank 0" not in error
    assert max(outcome.seconds for outcome in outcomes) < 10


def fail_everywhere(rank, world):
    ranks = Ranks.connect(timedelta(seconds=10))
    try:
        ranks.agree(ValueError(f"no {rank}"))
    except ProbeError as error:
        return str(error), repr(error.__cause__)


@pytest.mark.ddp
@pytest.mark.timeout(60)
def test_every_failure_is_told_and_the_own_one_is_the_cause():
    told = values(run_ranks(fail_everywhere, 3, timeout=30))
    assert {text for text, _ in told} == {
        "the probe failed; rank 0: ValueError: no 0; rank 1: ValueError: no 1; rank 2: ValueError: no 2"
    }
    assert [cause for _, cause in told] == [f"ValueError('no {rank}')" for rank in range(3)]


@pytest.mark.ddp
@pytest.mark.timeout(60)
def test_stopped_process_is_named_after_the_time_limit():
    outcomes = run_ranks(dissect_trap, 2, stop_for_ever, {}, timeout=40, stragglers=[1])
    assert "Rank 1 failed to pass monitoredBarrier" in outcomes[0].error
    assert 3.5 < outcomes[0].seconds < 12
    assert outcomes[1].error is None
    assert outcomes[1].value is None


@pytest.mark.ddp
@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", [die, interrupt])
def test_process_that_goes_does_not_hang_the_other(fault):
    outcomes = run_ranks(dissect_trap, 2, fault, {}, timeout=40)
    assert outcomes[0].error.startswith("RuntimeError")
    assert outcomes[0].seconds < 15
    if fault is die:
        assert outcomes[1].signal == signal.SIGKILL
    else:
        assert outcomes[1].error.startswith("KeyboardInterrupt")


# --- The helper itself -----------------------------------------------------------------------------------------------


def sleep_with_a_child(rank, world, folder):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    (folder / str(rank)).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(100)


@pytest.mark.ddp
@pytest.mark.timeout(60)
def test_ranks_that_hang_are_ended_with_their_children(tmp_path):
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] have not ended after 4.0 s"):
        run_ranks(sleep_with_a_child, 2, tmp_path, timeout=4.0)
    pids = [int(pid) for rank in range(2) for pid in (tmp_path / str(rank)).read_text().split()]
    assert len(pids) == 4
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=5)
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def share_an_odd_buffer(rank, world):
    ranks = Ranks.connect(timedelta(seconds=20))
    odd = [torch.full((3,), rank, dtype=torch.int16), torch.full((), rank, dtype=torch.bfloat16), torch.ones(0)]
    ranks.share(odd)
    return [t.tolist() for t in odd]


@pytest.mark.ddp
def test_buffers_of_any_type_are_shared():
    assert values(run_ranks(share_an_odd_buffer, 2)) == [[[0, 0, 0], 0.0, []]] * 2
