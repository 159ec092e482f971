"""How the diagnostics read a probe set: by loader processes, past images that cannot be read, and little in a trial."""

import inspect
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from torch.utils.data import get_worker_info

from lightning_interp import ContextBias, diagnose
from lightning_interp.errors import DatasetError
from lightning_interp.methods.bias.checks import CHECKS
from lightning_interp.methods.bias.engine import Diagnoser
from lightning_interp.probing.ranks import Ranks
from tests.helpers.bias import Additive, Heads, Remakeable, ask, biased, make_bias, make_diagnoser
from tests.helpers.ranks import run_ranks
from tests.helpers.ranks import values as values_of_ranks

READING = {"batch_size", "num_workers", "max_samples", "byte_budget", "on_bad_image", "loader_timeout"}
EVERYTHING = {"checks": tuple(CHECKS), "outputs": ["lipstick", "makeup"], "examples": 3}


class Noted(Remakeable):
    """Notes the images that are read; some cannot be, from the start or later on."""

    def __init__(self, rows, *, broken=(), **options):
        super().__init__(rows, **options)
        self.broken, self.read = set(broken), []

    def image(self, index):
        self.read.append(index)
        if index in self.broken:
            raise OSError(f"{index}.jpg is truncated")
        return super().image(index)

    def facts(self, index):
        if index in self.broken:
            raise OSError(f"{index}.json is truncated")
        return super().facts(index)


class Without(Remakeable):
    """The same faces without some: an image keeps what it is, but not its number."""

    def __init__(self, whole, without):
        super().__init__([row for index, row in enumerate(whole.rows) if index not in without])


def network():
    return Heads(Additive(6, 4), Additive(1, 7))


def numbers(result, *without):
    """Scores as text, in which NaN is NaN."""
    return {name: repr(score) for name, score in result.scores.items() if name not in without}


def test_options_of_reading_are_shown_and_taken():
    for function in (Diagnoser, diagnose, ContextBias):
        assert set(inspect.signature(function).parameters) >= READING
        assert inspect.signature(function).parameters["max_samples"].default == 512
    reading = {"num_workers": 2, "on_bad_image": "skip", "loader_timeout": 20.0, "byte_budget": 3, "max_samples": None}
    found = make_bias(**reading).diagnoser.reading
    assert {name: getattr(found, name) for name in reading} == reading


def test_loader_processes_change_nothing():
    told = []
    two = ask(network(), biased(), **EVERYTHING, num_workers=2, progress=lambda *done: told.append(done))
    assert numbers(two) == numbers(ask(network(), biased(), **EVERYTHING))
    assert told == [(16, 40), (32, 40), (40, 40)]


class Slow(Remakeable):
    def image(self, index):
        if get_worker_info() is not None:
            time.sleep(60)
        return super().image(index)


def test_a_loader_process_that_does_not_answer_is_given_up():
    with pytest.raises(RuntimeError, match="timed out"):
        ask(network(), biased(kind=Slow), num_workers=1, loader_timeout=0.5)


# --- Images that cannot be read --------------------------------------------------------------------------------------


def noted(**options):
    return biased(kind=Noted, **options)


def test_bad_images_are_left_out_as_if_there_were_none():
    broken = [0, 7, 11, 39]
    with pytest.warns(UserWarning, match=r"left out: 4 of 40 images of the probe set; the first, image 0: OSError: 0"):
        result = ask(network(), noted(broken=broken), **EVERYTHING, on_bad_image="skip")
    assert (result.num_images, result.settings["num_skipped"]) == (36, 4)
    assert {example.index for example in result.examples}.isdisjoint(broken)
    # The control and the noise are drawn by an image's number.
    apart = [name for name in result.scores if name.startswith(("e_control", "rfs"))]
    clean = ask(network(), Without(biased(), broken), **EVERYTHING)
    for name in result.scores.keys() - set(apart):
        one, other = result.scores[name], clean.scores[name]
        assert one.count == other.count, name
        assert [one.value, one.low, one.chance] == pytest.approx([other.value, other.low, other.chance], nan_ok=True)


def test_bad_images_are_raised_unless_they_are_to_be_skipped():
    with pytest.raises(OSError, match=r"7\.jpg"):
        make_diagnoser(noted(broken=[7]))
    with pytest.raises(DatasetError, match="no image of the probe set can be read; first: OSError: 0"):
        make_diagnoser(noted(broken=range(40)), on_bad_image="skip")


def break_later(rank, world, broken):
    """Images that can be read at first, and not when the network is asked."""
    probe, model = noted(), network()
    diagnoser = make_diagnoser(probe, **EVERYTHING | {"batch_size": 3}, on_bad_image="skip")
    diagnoser.describe(model)
    probe.broken = set(broken)
    ranks = Ranks.connect(timedelta(seconds=30)) if world > 1 else Ranks()
    try:
        return diagnoser(model, ranks=ranks)
    finally:
        ranks.close()


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:left out")
def test_images_that_break_later_are_nobodys_donors():
    broken = [0, 1, 2, 20]
    alone = break_later(0, 1, broken)
    assert (alone.num_images, alone.settings["num_skipped"]) == (36, 4)
    assert alone.scores["accuracy"].count == alone.scores["nonfinite"].count == 36
    # Those of whom one of them was the donor do not count either.
    assert 0 < alone.scores["scr/makeup"].count < 36
    assert {example.index for example in alone.examples}.isdisjoint(broken)
    for result in values_of_ranks(run_ranks(break_later, 2, broken)):
        assert result.settings == alone.settings
        for name, score in result.scores.items():
            assert score.count == alone.scores[name].count, name
            assert score.value == pytest.approx(alone.scores[name].value, abs=1e-6, nan_ok=True), name


# --- Trial runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8, 16])
def test_a_trial_run_looks_at_one_batch(size):
    probe, seen = noted(), []

    class Seen(Heads):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    diagnoser, model = make_diagnoser(probe, **EVERYTHING | {"batch_size": size}), Seen(Additive(6, 4), Additive(1, 7))
    diagnoser.limit = size
    probe.read.clear()
    result = diagnoser(model)
    assert set(probe.read) == set(range(size))
    assert result.num_images == result.scores["accuracy"].count == size
    assert len(result.examples) == min(3, size)
    # The layer is described by one image.
    assert set(seen) == {1, size}
    diagnoser.limit = None
    whole = diagnoser(model)
    assert numbers(whole) == numbers(ask(network(), biased(), **EVERYTHING | {"batch_size": size}))
    assert result.scores.keys() == whole.scores.keys()


def test_result_tells_its_scalars():
    result = ask(network(), biased(), **EVERYTHING)
    found = result.scalars()
    assert found["seconds"] == result.seconds
    assert found["lipstick/crr/makeup"] == result.scores["crr/makeup"].value
    assert found["lipstick/crr_low/makeup"] == result.scores["crr/makeup"].low
    assert found["lipstick/crr_high/makeup"] == result.scores["crr/makeup"].high
    assert found["lipstick/accuracy_chance"] == result.scores["accuracy"].chance
    assert not any("untrained" in tag for tag in found)
    assert make_bias(**EVERYTHING).scalars(replace(result, meta={"epoch": 0})) == pytest.approx(found, nan_ok=True)
